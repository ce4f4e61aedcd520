"""Kills `gems-edge teach` at ten instants of each verb, in the directory of test_teach.py; prints what is found.

Processes are forked from one that has imported all and loaded no graph, so that most of what is killed is teaching.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from gems_edge.cli import adapt, teach  # noqa: F401
from gems_edge.cli.main import main
from gems_edge.device import learner  # noqa: F401
from gems_edge.device.bundle import read_bundle
from gems_edge.device.history import files_of
from gems_edge.device.photos import read_photo
from gems_edge.device.state import load_state
from gems_edge.predict import memory  # noqa: F401

VERBS = {
    "add": ("--add", "more"), "photo": ("--photo", "more/kind 2/000.png", "--class", "kind 1"),
    "forget": ("--forget", "kind 2"), "rename": ("--rename", "kind 2=x"), "move": ("--move", "1=kind 2"),
    "drop": ("--drop", "1"), "undo": ("--undo",),
}  # fmt: skip
KILLS = 10


def begin(*arguments: str) -> int:
    """`gems-edge …` in a process of its own, silent."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            sys.argv = ["gems-edge", *arguments]
            try:
                main()
            except SystemExit as end:
                os._exit(end.code or 0)
        os._exit(0)
    return child


def run(*arguments: str) -> float:
    """Seconds that the whole command takes."""
    started = time.monotonic()
    assert os.waitpid(begin(*arguments), 0)[1] == 0, arguments
    return time.monotonic() - started


def found(state: Path, bundle: str) -> tuple[int, tuple[object, ...]]:
    newest = load_state(state, bundle)
    for file in files_of(newest.versions):
        read_photo(state, file)
    return newest.generation, newest.classes


def killed(verb: str, bundle: str) -> dict[str, int]:
    before, work = Path("s.state" if verb == "add" else "added.state"), Path("work.state")
    shutil.copytree(before, work)
    seconds = run("teach", "h.gems", str(work), *VERBS[verb])
    names = {found(before, bundle): "before", found(work, bundle): "after"}
    counts: dict[str, int] = {}
    for number in range(KILLS):
        shutil.rmtree(work)
        shutil.copytree(before, work)
        child = begin("teach", "h.gems", str(work), *VERBS[verb])
        time.sleep(seconds * (number + 0.5) / KILLS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        name = names[found(work, bundle)]
        counts[name] = counts.get(name, 0) + 1
    shutil.rmtree(work)
    return counts


if __name__ == "__main__":
    bundle_hash = read_bundle("h.gems").hash
    shutil.copytree("s.state", "added.state")
    run("teach", "h.gems", "added.state", "--add", "more")
    print(json.dumps({verb: killed(verb, bundle_hash) for verb in VERBS}))
