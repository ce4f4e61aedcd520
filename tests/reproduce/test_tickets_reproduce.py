"""gems-edge reproduce tickets on the preset tiny, a few cells of it. Cells are processes; the command is this one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_settings import hear_ctrl_c

from gems_edge.reproduce.tickets import protocol

pytestmark = pytest.mark.slow(8)

CUT = ("reproduce", "tickets", "--preset", "tiny", "--ratio", "0.8", "--jobs", "1")
METHODS = ("--method", "mwt", "--method", "pmt", "--method", "rm")
DONE = ["dense-s1", "mwt-0.8-s1", "pmt-0.8-s1", "rm-0.8-s1"]


@pytest.fixture(scope="module", autouse=True)
def narrow_preset():
    """The preset tiny with less of everything; the one that is interrupted is tiny itself."""
    less = {"widths": (4,), "iterations": 16, "validate_every": 8, "validation_episodes": 4, "checkpoint_every": 8}
    tiny = protocol.TINY
    setups = tuple(
        replace(setup, config=replace(setup.config, **less), ticket=replace(setup.ticket, interval=2))
        for setup in tiny.setups
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocol.PRESETS, "tiny", replace(tiny, setups=setups, episodes=8))
        yield


@pytest.fixture(scope="module")
def grid(cli_here, tmp_path_factory) -> tuple[Path, str, str]:
    """A finished grid, and what the command that made it printed."""
    directory = tmp_path_factory.mktemp("reproduce") / "tiny"
    result = cli_here(*CUT, *METHODS, "-o", directory, "--publish", directory / "published")
    return directory, result.stdout, result.stderr


def cells(directory: Path) -> list[str]:
    return sorted(path.parent.name for path in directory.glob("cells/*/*/result.json"))


def test_trains_and_writes(grid):
    directory, stdout, stderr = grid
    assert stderr.startswith("4 cells, 0 done, 1 at a time\n") and "[4/4] " in stderr
    assert cells(directory) == DONE
    assert "Accuracy: glyphs (Conv-4, MAML, 5-way 1-shot)" in stdout and "13.33×" in stdout
    assert stdout.splitlines()[-1] == str(directory / "report.html")
    document = json.loads((directory / "results.json").read_text())
    assert document["cells"] == {"planned": 4, "done": 4, "missing": []}
    rows = {row["method"]: row for row in document["rows"]}
    assert list(rows) == ["dense", "mwt", "rm", "pmt"] and rows["mwt"]["cost"]["find.iterations"]["mean"] == 16
    # PMT pays only for the iterations that it has watched, in both books.
    watched = rows["pmt"]["cost"]["find.iterations"]["mean"]
    assert rows["pmt"]["times_less_than_mwt"]["paper.find"]["mean"] == pytest.approx(16 / watched)
    assert rows["pmt"]["times_less_than_mwt"]["full.find"]["mean"] == pytest.approx(16 / watched)
    published = (directory / "published" / "tickets.md").read_text()
    assert "Of " in published and f"{100 * rows['dense']['accuracy']['transductive']['accuracy']:.1f} ±" in published
    page = (directory / "report.html").read_text()
    assert page.count("<svg ") >= 2 and "transductive, %" in page
    # One training each decides no claim about accuracies.
    assert {c["verdict"] for c in document["claims"] if c["claim"] in ("mwt-dense", "rm-mwt")} == {"not decided"}


def test_a_second_call_trains_nothing(cli_here, grid):
    directory, stdout, _ = grid
    before = {path: path.stat().st_mtime_ns for path in directory.glob("cells/**/*")}
    again = cli_here(*CUT, *METHODS, "-o", directory)
    assert again.stderr == "4 cells, all done\n" and again.stdout == stdout
    assert {path: path.stat().st_mtime_ns for path in directory.glob("cells/**/*")} == before


def test_tables_and_figures_share_the_cells(cli_here, grid):
    directory, *_ = grid
    result = cli_here(*CUT, "--table", "2", "--figure", "12", *METHODS, "-o", directory, "--json")
    assert result.stderr == "4 cells, all done\n"
    document = json.loads(result.stdout)
    assert document["parts"] == ["table 2", "figure 12"] and document["cells"]["done"] == 4
    assert "Figure 12: accuracy of tickets" in (directory / "report.html").read_text()


def test_report_only_shows_what_is_missing(cli_here, grid):
    directory, *_ = grid
    result = cli_here("reproduce", "tickets", "--preset", "tiny", "--report-only", "-o", directory)
    assert result.stderr == "13 cells, 4 done\n"
    assert cells(directory) == DONE
    lines = result.stdout.splitlines()
    assert any(line.split()[:4] == ["SNIP", "60", "%", "–"] for line in lines)
    assert "not done" in result.stdout and "Not everything is done" in (directory / "report.html").read_text()


def test_other_settings_are_refused(cli_here, grid, tmp_path):
    directory, *_ = grid
    page = (directory / "report.html").read_bytes()
    for extra in (["--report-only"], []):
        result = cli_here(*CUT, *METHODS, "--data", f"glyphs=folder:{tmp_path}", "-o", directory, *extra, code=2)
        assert "holds another grid" in result.stderr
    assert (directory / "report.html").read_bytes() == page


def test_masks_of_several_networks_on_ray(cli_here, tmp_path):
    pytest.importorskip("ray")
    directory = tmp_path / "ray"
    figures = ("--figure", "7", "--figure", "10")
    result = cli_here(*CUT, *figures, "--seeds", "1", "--ray", "local", "-o", directory)
    assert "1 cells, 0 done, 1 at a time" in result.stderr and cells(directory) == ["dense-one-init-s1"]
    assert "Figure 7: what tickets keep in common" in result.stdout and "Figure 10: distance" in result.stdout
    # The whole figure has two networks: one more is to come.
    more = cli_here(*CUT, *figures, "--report-only", "-o", directory)
    assert (
        more.stderr == "2 cells, 1 done\n"
        and "1 of 2 networks are not trained yet" in (directory / "report.html").read_text()
    )


def test_a_failure_leaves_the_page(cli_here, tmp_path):
    """One weight is left of the network: the cell fails when its layers are checked."""
    command = ("reproduce", "tickets", "--preset", "tiny", "--ratio", "0.9999", "--method", "rm", "--jobs", "1")
    result = cli_here(*command, "-o", tmp_path, "--json", code=1)
    assert json.loads(result.stdout)["cells"] == {"planned": 1, "done": 0, "missing": ["glyphs/rm-0.9999-s1"]}
    assert "1 of 1 cells failed" in result.stderr and "without weights" in result.stderr
    assert "–" in (tmp_path / "report.html").read_text()


def test_an_interrupt_leaves_the_page(environment, tmp_path):
    command = [sys.executable, "-m", "gems_edge", *CUT, "--method", "rm", "--nice", "-o", str(tmp_path)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    end = time.monotonic() + 300
    while not (log := tmp_path / "cells" / "glyphs" / "rm-0.8-s1" / "log.txt").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode != 0 and "Traceback" not in stderr, stderr
    assert log.exists() and "RM" in stdout and (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--figure", "16"], "the paper has figures 1 to 15"),
        (["--table", "1"], "the paper's tables of costs are 2 and 3"),
        (["--ratio", "1"], "above 0 and below 1"),
        (["--ratio", "0"], "above 0 and below 1"),
        (["--data", "mini=glyphs"], "the preset tiny has glyphs"),
        (["--data", "glyphs"], "write NAME=SPEC"),
        (["--data", "glyphs=packed:no/where.npz"], "does not exist"),
        (["--data", "glyphs=glyph"], "did you mean glyphs?"),
        (["--method", "magic"], "choose from dense"),
        (["--figure", "6", "--method", "mwt"], "figure 6 has none of these; it has dense"),
        (["--preset", "paper"], "needs images: add --data mini="),
        (["--preset", "paper", "--figure", "3", "--data", "tiered=folder:.", "--method", "snip"], "none of these"),
        (["--seeds", "0"], "--seeds"),
        (["--report-only"], "holds no reproduction"),
    ],
)
def test_bad_input_writes_nothing(cli_here, tmp_path, arguments, words):
    result = cli_here("reproduce", "tickets", "--preset", "tiny", *arguments, "-o", tmp_path / "out", code=2)
    assert words in result.stderr and not (tmp_path / "out").exists()


def test_a_file_is_no_directory(cli_here, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in cli_here(*CUT, "-o", tmp_path / "out", code=2).stderr
    assert (tmp_path / "out").read_text() == "mine"
