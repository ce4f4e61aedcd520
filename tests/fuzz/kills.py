"""Kills a writer somewhere in its work, or cuts the power: what it kept before or what it was to keep is there, whole,
and the command can be given again."""

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from crash import Recording, killed_at, put
from writers import KEPT, Writer

MIXED = 2
_LOG, _SAID = "log", "said.json"
_NOTHING = nullcontext()


@dataclass(frozen=True)
class Ready:
    """A writer with its folder as it is before, and what a whole run of it does."""

    writer: Writer
    folder: Path
    calls: int  # of those that change the disk
    seconds: float
    old: str
    new: str
    states: tuple[Path, ...]  # that a power cut may leave


def prepare(writer: Writer, folder: Path, mixed: int = MIXED) -> Ready:
    """Let the writer run once, and record it, with `mixed` states of each call that are out of order; what was made
    before is taken as it is."""
    before, states, work = folder / "before", folder / "states", folder / "work"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (before / KEPT).mkdir(parents=True)
        _must(before, writer.prepare)
        shutil.copytree(before, work, symlinks=True)
        old = _must(work, writer.look) if any((work / KEPT).iterdir()) else ""
        recording = Recording(work / KEPT, states, mixed)
        began = time.monotonic()
        calls = _must(work, lambda: _recorded(recording, writer))
        seconds = time.monotonic() - began
        (folder / "made").write_text(json.dumps([int(calls), seconds, old, _must(work, writer.look)]))
    calls, seconds, old, new = json.loads((folder / "made").read_text())
    return Ready(writer, before, calls, seconds, old, new, tuple(sorted(states.iterdir())))


def _recorded(recording: Recording, writer: Writer) -> str:
    with recording.running():
        writer.write()
    return str(recording.calls)


def kill(ready: Ready, folder: Path, random: Random) -> str:
    """SIGKILL at a moment, or before a call that changes the disk; the fault that it left, "" for none."""
    _copy(ready.folder, folder)
    if random.random() < 0.5:
        instant = random.randrange(1, ready.calls + 1)
        code, said = _child(folder, ready.writer.write, killed_at(instant))
        where = f"before call {instant} of {ready.calls}"
    else:
        seconds = random.uniform(0, ready.seconds)
        code, said = _child(folder, ready.writer.write, seconds=seconds)
        where = f"after {seconds:.3f} of {ready.seconds:.3f} s"
    fault = f"ended with {code}: {said}" if code not in (0, -9) else _fault(ready, folder)
    return f"{ready.writer.name} killed {where}: {fault}" if fault else ""


def cut_power(ready: Ready, folder: Path, state: Path) -> str:
    """As `kill`, with what a power cut may have left."""
    _copy(ready.folder, folder)
    put(state, folder / KEPT)
    fault = _fault(ready, folder, ended=state.name.startswith("end"))
    return f"{ready.writer.name} cut at {state.name}: {fault}" if fault else ""


def _fault(ready: Ready, folder: Path, ended: bool = False) -> str:
    """`ended`: the command had ended well, so what it kept must be the new."""
    writer = ready.writer
    if ready.old or any((folder / KEPT).iterdir()):
        code, said = _child(folder, writer.look)
        if code or said not in (ready.old, ready.new) or ended and said != ready.new:
            return f"left what is neither old nor new: {said}"
    elif ended:
        return "nothing was kept"
    code, said = _child(folder, writer.write)
    if code:
        return f"cannot be run again: {said}"
    code, said = _child(folder, writer.look)
    return "" if said == ready.new else f"run again it keeps something else: {said}"


def _copy(before: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(before, folder, symlinks=True)


def _must(folder: Path, work: Callable[[], str | None]) -> str:
    """What `work` returns. What it had to import is imported here, so that those forked later begin at once."""
    code, said = _child(folder, work)
    assert not code, said
    for name in json.loads((folder / _SAID).read_text())[1]:
        with suppress(Exception):
            importlib.import_module(name)
    return said


def _child(
    folder: Path, work: Callable[[], str | None], around: Any = _NOTHING, seconds: float | None = None
) -> tuple[int, str]:
    """Do `work` in `folder`, in a forked process that is killed after `seconds`: its exit code or minus the signal, and
    what it returns, or says of its failure."""
    child = os.fork()
    if not child:
        _in_child(folder, work, around)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, 9)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not code:
        return 0, json.loads((folder / _SAID).read_text())[0]
    return code, (folder / _LOG).read_text()[-500:] if code > 0 else ""


def _in_child(folder: Path, work: Callable[[], str | None], around: Any) -> None:
    from gems_edge.cli.main import run_reporting

    code = 99
    try:
        os.chdir(folder)
        os.dup2(os.open(_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.environ["GEMS_EDGE_CACHE"] = str(folder / "cache")
        known, said = set(sys.modules), list[str | None]()
        with around:
            run_reporting(lambda: said.append(work()))
        Path(_SAID).write_text(json.dumps([said[0] or "", sorted(set(sys.modules) - known)]))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0) or 98
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def some_states(ready: Ready, most: int) -> Iterator[Path]:
    """Spread over the whole recording, its end among them."""
    step = max(1, len(ready.states) // most)
    yield from ready.states[::-step]
