"""The page: self-contained, escaped, complete."""

import json
import re
from html.parser import HTMLParser

import making
import numpy as np
import pytest

from gems_edge.errors import UserError
from gems_edge.report import plots
from gems_edge.report.bundles import bundle_sections, manifest_sections
from gems_edge.report.page import KeyFigure, KeyFigures, Note, Section, Table, render_page
from gems_edge.report.sections import Query, bench_section, episode_section, run_sections


class Checker(HTMLParser):
    """Collects ids and every address that a browser would fetch; fails on unbalanced tags."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self):
        super().__init__()
        self.ids, self.fetched, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in checker.fetched)
    assert "@import" not in page and "<script" not in page and not re.search(r"url\((?!#)", page)
    return checker


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    sections = [
        *run_sections(making.write_run(folder / "glyphs")),
        *bundle_sections(making.write_bundle(folder / "glyphs.gems")),
    ]
    return render_page("glyphs", sections)


def test_full_page_is_self_contained(full_page):
    checker = check(full_page)
    assert {f"#{name}" for name in checker.ids} >= {address for address in checker.fetched if address.startswith("#")}


def test_full_page_says_what_it_should(full_page):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", full_page))
    for words in ("91.2 ± 0.9 %", "94.1 ± 0.9 %", "mode support", "transductive", "112,000", "24,300", "78.3%",
                  "Raspberry Pi 4 Model B", "Raspberry Pi Zero 2 W",
                  "predicted", "Conv.fed", "reached 79.5%", "not calibrated on the board"):  # fmt: skip
        assert words in text, words


def test_accuracy_never_stands_without_its_mode(full_page):
    for figure in re.findall(r'<div class="figure">.*?</div>', full_page, flags=re.DOTALL):
        if "accuracy" in figure:
            assert "mode support" in figure


def test_everything_but_pictures_is_escaped():
    evil = "<img src=http://x onerror=alert(1)>"
    blocks = (KeyFigures((KeyFigure(evil, evil, evil),)), Table((evil,), ((evil,),), evil), Note(evil))
    page = render_page(evil, [Section(evil, blocks)])
    assert evil not in page
    check(page)


def test_tags_become_badges():
    page = render_page("t", [Section("s", (Table(("a",), (("measured",), ("predicted",))),))])
    assert '<span class="tag measured">measured</span>' in page
    assert '<span class="tag predicted">predicted</span>' in page


def test_episode_marks_right_and_wrong():
    grey = np.zeros((28, 28), np.uint8)
    asked = [Query(grey, "a", 0.4), Query(grey, "b", 0.77), Query(grey, "b", 0.53, known=False)]
    queries = [[Query(grey, "a", 0.91)], asked]
    section = episode_section(["a", "b"], [[grey], [grey[:, :, None]]], queries)
    page = render_page("t", [section])
    assert page.count("✓") == 2 and page.count("✗") == 1
    assert "91%" in page and "40%" in page and "2 of 4 new images right, 1 unknown" in page
    assert page.count('class="query unsure"') == 1 and "unknown (b?)" in page
    assert page.count("data:image/png") == 6
    check(page)


def test_image_round_trip():
    import base64
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for given in (pixels, pixels / 255):
        data = base64.b64decode(plots.image_uri(given).split(",")[1])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def measured(value, tag="measured"):
    return {"p50": value, "unit": "ms", "interval": {"p50": [value / 2, value * 2]}, "tag": tag, "source": f"how {tag}"}


def test_bench_side_by_side_and_tolerant():
    document = {
        "predict": measured(1.5),
        "devices": {"rpi-4b": {"predict": measured(8.0, "predicted"), "adapt": None}},
        "memory": {},
    }
    page = render_page("t", [bench_section(document)])
    for words in ("1.5 ms", "0.75 … 3", "8 ms", "4 … 16", "rpi-4b", "how measured", "how predicted"):
        assert words in page
    check(render_page("t", [bench_section({})]))


def test_mode_without_numbers_is_left_out():
    manifest = making.manifest() | {"accuracy": {"support": {}, "transductive": {}}, "accuracy_before": {}}
    titles = [section.title for section in manifest_sections(manifest)]
    assert not any(title.startswith("Accuracy") for title in titles)


def test_accuracy_over_steps_is_drawn_as_lines():
    entries = [{"mode": "support", "steps": steps, "accuracy": 0.5 + steps / 20, "ci95": 0.01} for steps in (1, 5, 10)]
    assert "inner steps" in plots.accuracy_chart({"this bundle": entries})


def test_figures_of_one_page_share_no_ids():
    first, second = plots.training_curves(making.metric_lines(60)), plots.training_curves(making.metric_lines(61))
    ids = [set(re.findall(r'\bid="([^"]+)"', markup)) for markup in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert "<metadata" not in first and "w3.org/Graphics" not in first and "currentColor" in first


def test_run_without_metrics_and_with_nested_config(tmp_path):
    run = making.write_run(tmp_path / "r", '[data]\nname = "glyphs"\n[rule]\nname = "maml"\nsteps = 5\n')
    (run / "metrics.jsonl").unlink()
    text = render_page("t", run_sections(run))
    assert "nothing" in text and "rule.name" in text and "steps" in text


def test_a_run_that_was_drawn_back_shows_both_ends(tmp_path):
    run = making.write_run(tmp_path / "r")
    shares = [(0.0, 0.71), (0.5, 0.89), (1.0, 0.87)]
    validation = [{"share": share, "accuracy": reached, "ci95": 0.01, "episodes": 100} for share, reached in shares]
    with open(run / "metrics.jsonl", "a") as file:
        line = {"kind": "general", "iteration": 9, "share": 0.5, "kept": 0.85, "validation": validation}
        file.write(json.dumps(line) + "\n")
    page = render_page("t", run_sections(run))
    check(page)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for words in ("as they started 71.0 ± 1.0 %", "50% 89.0 ± 1.0 % this run", "as they were trained 87.0", "85%"):
        assert words in text, words


def test_metrics_cut_off_by_a_kill(tmp_path):
    run = making.write_run(tmp_path / "r")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "itera')
    assert run_sections(run)
    (run / "metrics.jsonl").write_text('not json\n{"kind": "train"}\n')
    with pytest.raises(UserError, match="line 1"):
        run_sections(run)


def test_nothing_of_the_workstations_training_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, gems_edge.report.sections, gems_edge.report.page, gems_edge.report.plots\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
