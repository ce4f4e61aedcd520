"""Reads a harmed file in a process of its own, and judges: read as before, refused in one line, or neither."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SECONDS = 20.0  # what lasts longer hangs
BOARD_MB = 400.0
_OWN = ("home", "log", "out")  # folders for what a reader may write, and the server


@dataclass(frozen=True)
class Outcome:
    """How a reader ended."""

    code: int  # of the process; below 0 the signal that ended it
    timed_out: bool
    peak_mb: float
    seconds: float
    effect: str  # what the file made happen
    stderr: str
    beyond: tuple[str, ...]  # what was changed outside its folder, or started

    def fault(self, board: bool, codes: tuple[int, ...]) -> str:
        """What no input may bring about; "" if it did not. `codes`: of a refusal."""
        last = (self.stderr.strip().splitlines() or [""])[-1]
        if self.timed_out:
            return f"took more than {self.seconds:.0f} s"
        if self.beyond:
            return f"changed {self.beyond[0]}"
        if board and self.peak_mb > BOARD_MB:
            return f"took {self.peak_mb:.0f} MB"
        if self.code not in (0, *codes):
            return f"ended with {self.code}: {last[:300]}"
        if "Traceback" in self.stderr or "gems-edge: unexpected" in self.stderr:
            return f"said {last[:300]}"
        if self.code and not last.startswith("gems-edge: "):
            return f"said nothing that is to be understood: {last[:300]}"
        if any(not sign.isprintable() for sign in self.stderr.replace("\n", "")):
            return f"printed a control character: {last[:300]!r}"
        return ""


class Sandbox:
    """A server of one side ("board" or "workstation"), and the files of what it reads."""

    def __init__(self, side: str, folder: Path):
        self.side, self.folder = side, folder
        self._number = 0
        self._process: subprocess.Popen[str] | None = None

    def place(self, valid: Path) -> Path:
        """A folder with a copy of a valid subject, to do harm to and to read in."""
        self._number += 1
        place = self.folder / f"{self.side}-{self._number}"
        shutil.copytree(valid, place, symlinks=True)
        for name in _OWN:
            (place / name).mkdir()
        return place

    def read(self, place: Path, reader: str, seconds: float = SECONDS) -> Outcome:
        """Have it read."""
        before = _listing(place)
        outcome = self._ask(place, reader, seconds)
        changed = tuple(str(path) for path in _listing(place).items() ^ before.items())
        return outcome if not changed else Outcome(**{**vars(outcome), "beyond": (*outcome.beyond, *changed)})

    def _ask(self, place: Path, reader: str, seconds: float) -> Outcome:
        process = self._started()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps({"place": str(place), "reader": reader, "seconds": seconds}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return Outcome(**answer | {"beyond": tuple(answer["beyond"])})

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, str(HERE / "server.py"), self.side]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=self.folder
            )
            assert self._process.stdout and self._process.stdout.readline() == "ready\n"
        return self._process

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


@contextmanager
def sandboxes(folder: Path) -> Iterator[dict[str, Sandbox]]:
    """One of each side; their processes begin when they are first asked."""
    both = {side: Sandbox(side, folder) for side in ("board", "workstation")}
    try:
        yield both
    finally:
        for sandbox in both.values():
            sandbox.close()


def _listing(place: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of what must stay as it is: all but what is to be written, and runs."""
    files = (file for file in place.rglob("*") if file.relative_to(place).parts[0] not in _OWN)
    own_run = place / "subject"
    listed = (file for file in files if not file.is_relative_to(own_run) or not own_run.is_dir())
    return {str(file): (file.lstat().st_size, file.lstat().st_mtime_ns) for file in listed if not file.is_dir()}
