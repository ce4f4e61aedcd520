"""Grids of cells with tiny real programs: order, resumption, failures, locks, interrupts, torchrun and Ray."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_settings import hear_ctrl_c

from gems_edge.errors import MachineError, UserError
from gems_edge.reproduce import grid
from gems_edge.reproduce.grid import Cell, GridOptions, read_results, run_grid
from gems_edge.reproduce.job import CellJob, cell_result, run_cell, write_result

# What a cell does is in its task: wait (for a while, or for other cells), fail in some way, or note in `journal` that
# it ran and write its result.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
directory = Path(sys.argv[1])
task = json.loads((directory / "cell.json").read_text())
(directory / "pid").write_text(str(os.getpid()))
time.sleep(task.get("sleep", 0))
end = time.monotonic() + 60
while len(list(directory.parent.glob("*/pid"))) < task.get("together", 0):
    if time.monotonic() > end:
        sys.exit("the others did not begin")
    time.sleep(0.01)
if message := task.get("complain"):
    print("gems-edge: " + message, file=sys.stderr)
    sys.exit(2)
if message := task.get("raise"):
    raise ValueError(message)
if not task.get("forget"):
    with open(directory.parent / "journal", "a") as file:
        file.write(directory.name + "\\n")
    ranks = directory / "ranks"
    ranks.mkdir(exist_ok=True)
    (ranks / os.environ.get("RANK", "0")).touch()
    while len(list(ranks.iterdir())) < int(os.environ.get("WORLD_SIZE", "1")):
        time.sleep(0.01)
    if os.environ.get("RANK", "0") == "0":
        result = {"answer": task["x"], "ranks": len(list(ranks.iterdir())), "core_seconds": 3600 * task.get("hours", 0)}
        result |= {"threads": os.environ.get("OMP_NUM_THREADS"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        (directory / "result.json.tmp").write_text(json.dumps(result))
        os.replace(directory / "result.json.tmp", directory / "result.json")
"""


@pytest.fixture
def program(tmp_path) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return (str(path),)


def journal(directory: Path) -> list[str]:
    path = directory / "cells" / "journal"
    return path.read_text().split() if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_cells_run_after_their_needs(tmp_path, program):
    cells = [Cell("c", {"x": 3}, ("b",)), Cell("b", {"x": 2}, ("a",)), Cell("a", {"x": 1}), Cell("d", {"x": 4})]
    lines = []
    results = run_grid(tmp_path / "grid", cells, GridOptions(jobs=1, program=program), lines.append)
    assert {name: result["answer"] for name, result in results.items()} == {"c": 3, "b": 2, "a": 1, "d": 4}
    # One at a time, always the first in the given order whose needs are done.
    assert journal(tmp_path / "grid") == ["a", "b", "c", "d"]
    assert lines[0] == "4 cells, 0 done, 1 at a time"
    assert lines[1].startswith("[1/4] a done in 0 s, about 0:0") and lines[1].endswith(" left")
    assert lines[-1].startswith("[4/4] d done in") and "left" not in lines[-1]


def test_independent_cells_run_at_once(tmp_path, program):
    """Each ends only when all of them have begun."""
    cells = [Cell(name, {"x": 0, "together": 3}) for name in "abc"]
    results = run_grid(tmp_path / "grid", cells, GridOptions(jobs=3, program=program), lambda line: None)
    assert results.keys() == {*"abc"}


def test_done_cells_are_not_run_again(tmp_path, program):
    options = GridOptions(jobs=2, program=program)
    cells = [Cell("a", {"x": 1}), Cell("b", {"x": 0.1})]
    first = run_grid(tmp_path / "grid", cells, options, lambda line: None)
    assert run_grid(tmp_path / "grid", cells, options, lambda line: None) == first
    lines = []
    # A result that is cut off counts as none; more cells may come into a grid.
    (tmp_path / "grid" / "cells" / "b" / "result.json").write_text('{"answer": ')
    run_grid(tmp_path / "grid", [*cells, Cell("c", {"x": 5}, ("a",))], options, lines.append)
    assert lines[:2] == [
        "b: its result.json is damaged or was edited; it is made anew from the run", "3 cells, 1 done, 2 at a time",
    ]  # fmt: skip
    ran = journal(tmp_path / "grid")
    assert sorted(ran) == ["a", "b", "b", "c"]


def test_a_budget_ends_a_grid(tmp_path, program):
    """What is done counts, also that of earlier calls; a larger budget goes on."""
    cells = [Cell(name, {"x": 1, "hours": 2}) for name in "abcd"]
    lines = []
    for hours, done in ((3, 2), (3, 2), (6, 3), (0, 4)):
        options = GridOptions(jobs=1, program=program, hours=hours)
        assert len(run_grid(tmp_path / "grid", cells, options, lines.append)) == done
        assert len(journal(tmp_path / "grid")) == done
    assert lines.count("the budget of 3 core hours is spent: 2 cells were not started") == 2


def test_a_result_says_when_it_is_damaged(tmp_path):
    path = tmp_path / "result.json"
    write_result(tmp_path, {"answer": 1, "name": "a"})
    assert cell_result(tmp_path) == {"answer": 1, "name": "a"}
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        result = cell_result(tmp_path)  # there where the name of the checksum is damaged alone
        assert result is None or result.items() >= {"answer": 1, "name": "a"}.items()


def test_what_is_no_file_ends_in_one_line(tmp_path, program):
    options = GridOptions(jobs=1, program=program)
    for name, kind in (("log.txt", os.mkfifo), ("result.json", os.mkdir)):
        grid, cells = tmp_path / name, [Cell("a", {"x": 1}), Cell("b", {"x": 2})]
        (grid / "cells" / "a").mkdir(parents=True)
        kind(grid / "cells" / "a" / name)
        with pytest.raises((UserError, MachineError), match=f"a/{name} is (not a plain file|a directory|no file)"):
            run_grid(grid, cells, options, lambda line: None)


def test_a_failure_stops_only_what_needs_it(tmp_path, program):
    cells = [
        Cell("bad", {"x": 0, "raise": "no such ticket"}),
        Cell("child", {"x": 1}, ("bad",)),
        Cell("grandchild", {"x": 2}, ("child",)),
        Cell("good", {"x": 3}),
        Cell("after", {"x": 4}, ("good",)),
    ]
    options = GridOptions(jobs=1, program=program)
    with pytest.raises(MachineError) as caught:
        run_grid(tmp_path / "grid", cells, options, lambda line: None)
    message = str(caught.value)
    assert message.startswith(
        "1 of 5 cells failed (bad), 2 not started because they need them; bad: ValueError: no such"
    )
    assert message.endswith("run the same command again to go on") and "\n" not in message
    assert journal(tmp_path / "grid") == ["good", "after"]
    # The cause is gone: the same call does the rest.
    Path(program[0]).write_text(PROGRAM.replace('task.get("raise")', "None"))
    assert len(run_grid(tmp_path / "grid", cells, options, lambda line: None)) == 5
    assert journal(tmp_path / "grid") == ["good", "after", "bad", "child", "grandchild"]
    assert "no such ticket" in (tmp_path / "grid" / "cells" / "bad" / "log.txt").read_text()


@pytest.mark.parametrize(
    "task, reason",
    [
        ({"complain": "no images here"}, "a: no images here"),
        ({"forget": True}, "a: the program ended without a result.json"),
    ],
)
def test_the_reason_of_a_failure(tmp_path, program, task, reason):
    with pytest.raises(MachineError, match=reason):
        run_grid(tmp_path / "grid", [Cell("a", task)], GridOptions(jobs=1, program=program), lambda line: None)


def test_other_settings_are_refused(tmp_path, program):
    options = GridOptions(jobs=1, program=program)
    run_grid(tmp_path / "grid", [Cell("a", {"x": 1, "train": {"steps": 5}})], options, lambda line: None)
    changed = [Cell("new", {"x": 1}), Cell("a", {"x": 1, "train": {"steps": 3}})]
    with pytest.raises(UserError, match=r"another grid: train\.steps is 5 there and 3 here in a; choose another dir"):
        run_grid(tmp_path / "grid", changed, options, lambda line: None)
    assert not (tmp_path / "grid" / "cells" / "new").exists()
    with pytest.raises(UserError, match="train is given only there"):
        run_grid(tmp_path / "grid", [Cell("a", {"x": 1})], options, lambda line: None)


def test_one_grid_at_a_time(tmp_path, program):
    (tmp_path / "grid").mkdir()
    with open(tmp_path / "grid" / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another grid is at work"):
            run_grid(tmp_path / "grid", [Cell("a", {"x": 1})], GridOptions(program=program), lambda line: None)
    assert run_grid(tmp_path / "grid", [Cell("a", {"x": 1})], GridOptions(program=program), lambda line: None)


@pytest.mark.parametrize(
    "cells",
    [
        [Cell("a", {}), Cell("a", {})],
        [Cell("a", {}, ("b",))],
        [Cell("a", {}, ("b",)), Cell("b", {}, ("a",))],
        [Cell("../a", {})],
    ],
)
def test_what_is_no_grid(tmp_path, cells):
    with pytest.raises(ValueError):
        run_grid(tmp_path / "grid", cells, GridOptions(), lambda line: None)


def start_sleeping_grid(tmp_path: Path, program, **options) -> subprocess.Popen:
    """A grid in a process of its own: `quick` is done, then two cells sleep."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom gems_edge.reproduce.grid import *\n"
        "cells = [Cell('quick', {'x': 1}), Cell('a', {'x': 2, 'sleep': 60}), Cell('b', {'x': 3, 'sleep': 60})]\n"
        f"options = GridOptions(jobs=2, program={program!r}, **{options!r})\n"
        f"run_grid(Path({str(tmp_path / 'grid')!r}), cells, options, print)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    places = [tmp_path / "grid" / "cells" / name for name in ("quick/result.json", "a/pid", "b/pid")]
    try:
        wait_for(lambda: all(place.exists() and place.stat().st_size for place in places))
    except AssertionError:
        process.kill()
        raise
    return process


def sleepers(tmp_path) -> list[int]:
    return [int((tmp_path / "grid" / "cells" / name / "pid").read_text()) for name in "ab"]


@pytest.mark.parametrize(
    "number, options",
    [(signal.SIGINT, {}), (signal.SIGTERM, {}), (signal.SIGINT, {"processes": 2}), (signal.SIGTERM, {"ray": "local"})],
    ids=["ctrl-c", "sigterm", "torchrun", "ray"],
)
def test_an_interrupt_ends_the_children(tmp_path, program, number, options):
    if "ray" in options:
        pytest.importorskip("ray")
    process = start_sleeping_grid(tmp_path, program, **options)
    pids = sleepers(tmp_path)
    assert all(map(alive, pids))
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    wait_for(lambda: not any(map(alive, pids)), 5.0)
    # The second call keeps what was done and goes on with the rest.
    Path(program[0]).write_text(PROGRAM.replace('task.get("sleep", 0)', "0"))
    cells = [Cell("quick", {"x": 1}), Cell("a", {"x": 2, "sleep": 60}), Cell("b", {"x": 3, "sleep": 60})]
    lines = []
    run_grid(tmp_path / "grid", cells, GridOptions(jobs=2, program=program), lines.append)
    assert lines[0] == "3 cells, 1 done, 2 at a time"
    assert set(journal(tmp_path / "grid")) == {"quick", "a", "b"}


def test_orphans_of_a_killed_grid_are_waited_for(tmp_path, program):
    process = start_sleeping_grid(tmp_path, program)
    process.kill()
    process.communicate()
    pids = sleepers(tmp_path)
    assert all(map(alive, pids))
    cells = [Cell("quick", {"x": 1}), Cell("a", {"x": 2, "sleep": 60}), Cell("b", {"x": 3, "sleep": 60})]
    Path(program[0]).write_text(PROGRAM.replace('task.get("sleep", 0)', "0"))
    lines = []

    def note(line):
        lines.append(line)
        if line.startswith("b: a process of an earlier call"):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    assert len(run_grid(tmp_path / "grid", cells, GridOptions(jobs=2, program=program), note)) == 3
    assert sum("earlier call" in line for line in lines) == 2


@pytest.mark.slow(10)
def test_torchrun_cell(tmp_path, program):
    cells = [Cell("a", {"x": 1}), Cell("b", {"x": 1, "raise": "worker's last words"})]
    with pytest.raises(MachineError, match=r"\(b\); b: ValueError: worker's last words"):
        run_grid(tmp_path / "grid", cells, GridOptions(jobs=1, processes=2, program=program), lambda line: None)
    result = json.loads((tmp_path / "grid" / "cells" / "a" / "result.json").read_text())
    assert (result["answer"], result["ranks"]) == (1, 2)
    assert result["threads"] == os.environ.get("OMP_NUM_THREADS", "1")


def test_cells_at_a_time_have_gpus_of_their_own(tmp_path, program, monkeypatch):
    monkeypatch.setattr(grid, "_visible_gpus", lambda: ["4", "5", "7"])
    cells = [Cell(name, {"x": 1, "sleep": 0.7}) for name in "abc"]
    lines = []
    results = run_grid(tmp_path / "grid", cells, GridOptions(program=program), lines.append)
    assert lines[0] == "3 cells, 0 done, 3 at a time"
    assert sorted(result["gpus"] for result in results.values()) == ["4", "5", "7"]
    with pytest.raises(UserError, match="4 processes a cell, but there are 3 GPUs"):
        run_grid(tmp_path / "other", cells, GridOptions(processes=4, program=program), lines.append)


def test_a_directory_that_is_not_on_the_node(tmp_path, program):
    outcome = run_cell(CellJob("a", str(tmp_path / "nowhere"), 1, program))
    assert outcome.result is None and "must be on storage that all machines see" in outcome.reason


@pytest.mark.slow(10)
def test_ray(tmp_path, program):
    pytest.importorskip("ray")
    cells = [Cell("b", {"x": 2}, ("a",)), Cell("a", {"x": 1}), Cell("bad", {"raise": "oh"}), Cell("c", {"x": 3})]
    lines = []
    with pytest.raises(MachineError, match=r"1 of 4 cells failed \(bad\); bad: ValueError: oh"):
        run_grid(tmp_path / "grid", cells, GridOptions(jobs=2, ray="local", program=program), lines.append)
    assert lines[0] == "4 cells, 0 done, 2 at a time"
    ran = journal(tmp_path / "grid")
    assert sorted(ran) == ["a", "b", "c"] and ran.index("a") < ran.index("b")


def test_ray_that_is_not_installed(tmp_path, program, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'gems-edge\[ray\]'"):
        run_grid(tmp_path / "grid", [Cell("a", {})], GridOptions(ray="auto", program=program), lambda line: None)


def test_ray_that_is_not_there(tmp_path, program):
    pytest.importorskip("ray")
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        with pytest.raises(UserError, match="no Ray cluster"):
            run_grid(tmp_path / "g", [Cell("a", {})], GridOptions(ray=address, program=program), lambda line: None)


def test_reading_refuses_other_settings(tmp_path):
    cells = [Cell(name, {"episodes": 3}) for name in "abc"]
    with pytest.raises(UserError, match="holds no reproduction"):
        read_results(tmp_path, cells)
    for cell, content in zip(cells, ('{"a": 1}', '{"a"', None)):
        place = tmp_path / "cells" / cell.name
        place.mkdir(parents=True)
        (place / "cell.json").write_text(json.dumps(cell.task))
        if content:
            (place / "result.json").write_text(content)
    assert read_results(tmp_path, cells) == {"a": {"a": 1}}
    (tmp_path / "cells" / "c" / "cell.json").write_text(json.dumps({"episodes": 7}))
    with pytest.raises(UserError, match="another grid: episodes is 7 there and 3 here in c"):
        read_results(tmp_path, cells)
