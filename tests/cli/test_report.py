"""gems-edge report, through the real command."""

import json
import subprocess
import sys

import making
import pytest

UNCHECKED = "no trust file, so who made the bundle is not checked (--trust FILE)\n"


def run(*arguments, cwd):
    command = [sys.executable, "-m", "gems_edge", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_run_and_bundle(tmp_path):
    making.write_run(tmp_path / "first")
    making.write_bundle(tmp_path / "first.gems")
    done = run("first", "first.gems", "-o", "page.html", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "page.html\n", UNCHECKED)
    page = (tmp_path / "page.html").read_text()
    assert "Training: first" in page and "Bundle: first" in page
    assert {path.name for path in tmp_path.iterdir()} == {"first", "first.gems", "page.html"}


def test_json(tmp_path):
    making.write_bundle(tmp_path / "b.gems")
    document = json.loads(run("b.gems", "--json", cwd=tmp_path).stdout)
    assert document["report"] == "report.html"
    assert document["bytes"] == (tmp_path / "report.html").stat().st_size
    assert any(title.startswith("Cost on boards") for title in document["sections"])


def altered(folder):
    (making.write_bundle(folder / "b.gems") / "predict.onnx").write_bytes(b"other")


def empty(folder):
    (folder / "b.gems").mkdir()


def not_a_run(folder):
    (folder / "b.gems").mkdir()
    (folder / "b.gems").rename(folder / "plain")


@pytest.mark.parametrize(
    "prepare, arguments, words",
    [
        (altered, ["b.gems"], "altered"),
        (empty, ["b.gems"], "manifest.json"),
        (not_a_run, ["plain"], "neither a run"),
        (not_a_run, ["absent"], "does not exist"),
        (not_a_run, [], "Missing argument"),
        (making.write_bundle, ["b.gems", "-o", "no/where.html"], "does not exist"),
    ],
)
def test_bad_input_leaves_the_old_page(tmp_path, prepare, arguments, words):
    prepare(tmp_path / "b.gems" if prepare is making.write_bundle else tmp_path)
    (tmp_path / "report.html").write_text("old")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "report.html").read_text() == "old"
