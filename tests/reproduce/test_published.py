"""Results that are kept with their pages: each number on a page is one of the JSON's, and an edited JSON is refused."""

import json
from pathlib import Path

import pytest
from gems_made_up import PRESET, cells_of, results_of

from gems_edge.errors import UserError
from gems_edge.reproduce.gems import plan
from gems_edge.reproduce.gems.page import reproduce
from gems_edge.reproduce.page import Study
from gems_edge.reproduce.published import page, publish, read_published

STORED = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.json"))


@pytest.fixture(scope="module")
def document() -> dict:
    parts = plan.parts(PRESET, (1, 2))
    study = Study(PRESET, Path("nowhere"), parts, cells_of(parts), results_of(parts))
    made = {"title": "GEMS, made up", "command": "gems-edge reproduce gems", "version": "0"}
    return reproduce(study).document | made


def cells_of_page(text: str) -> set[str]:
    return {cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line.split("|")}


def check_numbers(document: dict, text: str) -> int:
    """Compare each difference and each accuracy of the JSON with what the page says; returns how many there were."""
    cells, compared = cells_of_page(text), 0
    for figure in (figure for claim in document.get("claims", ()) for figure in claim["figures"] if figure.get("half")):
        points, half = (f"{100 * figure[key]:.2f}".replace("-", "−") for key in ("points", "half"))
        assert any(f"{points} ± {half} points" in cell for cell in cells), figure
        compared += 1
    for row in document.get("rows", ()):
        accuracies = row["mean"]["seen"] if "mean" in row else row["accuracy"]
        if entry := accuracies.get(row["mode"]):
            assert f"{100 * entry['accuracy']:.1f} ± {100 * entry['ci95']:.1f}" in cells
            compared += 1
    return compared


def test_a_pages_numbers_are_the_jsons(document):
    text = page(document)
    assert check_numbers(document, text) > 30
    for claim in document["claims"]:
        assert claim["explained"] in text and claim["paper"]["words"] in text
    assert all(note.split()[-1] in text for note in document["notes"])
    # Advice follows the verdicts.
    verdicts = {claim["verdict"] for claim in document["claims"] if claim["claim"] == "bmp-maml"}
    advice = document["advice"]["bmp-maml"]
    assert {word for word, sentence in advice.items() if sentence.split(":")[0] in " ".join(text.split())} == verdicts
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def test_an_edited_file_is_refused(document, cli_here, tmp_path):
    publish(tmp_path, "gems", document)
    stored, written = tmp_path / "gems.json", (tmp_path / "gems.md").read_text()
    assert read_published(stored) == json.loads(json.dumps(document)) and written == page(document)
    (tmp_path / "gems.md").write_text("")
    assert cli_here("reproduce", "results", tmp_path).stdout == f"{tmp_path / 'gems.md'}\n"
    assert (tmp_path / "gems.md").read_text() == written
    stored.write_text(stored.read_text().replace('"episodes": 600', '"episodes": 6000', 1))
    (tmp_path / "gems.md").write_text("")
    result = cli_here("reproduce", "results", tmp_path, code=2)
    assert "gems.json was edited" in result.stderr and result.stderr.count("\n") == 1
    assert (tmp_path / "gems.md").read_text() == ""
    stored.write_text("{}")
    with pytest.raises(UserError, match="holds no published results"):
        read_published(stored)


@pytest.mark.parametrize("arguments, words", [(["."], "holds no published results"), (["none"], "is no directory")])
def test_where_nothing_is_published(cli_here, tmp_path, arguments, words):
    assert words in cli_here("reproduce", "results", *arguments, cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_pages_of_docs_are_those_of_their_json(path):
    document, text = read_published(path), path.with_suffix(".md").read_text()
    assert text == page(document)
    check_numbers(document, text)
