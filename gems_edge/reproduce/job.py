"""One cell of a grid on whatever machine: its program as a process of its own, and what came of it."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from gems_edge.errors import UserError
from gems_edge.files import opened, opened_to_append, parse_json, read_plain, sha256_bytes, write_atomic
from gems_edge.torchrun import torchrun

# Seconds between SIGTERM and SIGKILL. torchrun gives its own workers 30 s before it kills them; they are in sessions
# of their own, so killing torchrun before that would leave them running.
GRACE, TORCHRUN_GRACE = 10.0, 40.0
# In a cell's directory: what its program printed, and what came of it.
LOG, RESULT = "log.txt", "result.json"
SUM, _MOST_BYTES = "sha256", 64 << 20

Document = Mapping[str, Any]  # a result.json


@dataclass(frozen=True)
class CellJob:
    """What a machine must know to run a cell."""

    name: str
    directory: str  # the same path on every machine
    processes: int
    program: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the one that is there


@dataclass(frozen=True)
class Outcome:
    """`result` is None where the cell failed, and `reason` says why in one line."""

    result: Document | None
    reason: str = ""
    seconds: float = 0.0


def run_cell(job: CellJob, stopped: Callable[[], bool] = lambda: False) -> Outcome:
    """Run the cell's program to its end; when `stopped()` turns true or this is interrupted, end the program too.

    The program and its children hold a lock on log.txt. If the process that called this was killed, a later call so
    waits for the orphans instead of running beside them.
    """
    started, directory = time.monotonic(), Path(job.directory)
    if not (directory / "cell.json").exists():
        text = f"{directory} is not on {os.uname().nodename}"
        return Outcome(None, f"{text}; the grid's directory must be on storage that all machines see")
    try:
        with opened_to_append(directory / LOG) as log:
            while not try_lock(log):
                if stopped():
                    return Outcome(None, "stopped")
                time.sleep(0.2)
            begin = log.seek(0, os.SEEK_END)
            code: int | None = 0
            if (result := cell_result(directory)) is None:
                code = _run_program(job, log, stopped)
                result = cell_result(directory)
        reason = "" if code == 0 and result is not None else _reason(directory / LOG, begin, code)
    except UserError as error:
        return Outcome(None, str(error))
    except OSError as error:
        return Outcome(None, f"{error.strerror or error}: {error.filename or directory}")
    return Outcome(None if reason else result, reason, time.monotonic() - started)


def _run_program(job: CellJob, log: IO[bytes], stopped: Callable[[], bool]) -> int | None:
    """The exit code; None when it was stopped."""
    command = torchrun(job.processes) if job.processes > 1 else [sys.executable]
    process = subprocess.Popen(
        [*command, *job.program, job.directory],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **job.environment},
        start_new_session=True,  # a terminal's Ctrl-C reaches the grid only, which then ends the whole group
    )
    try:
        while not stopped():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.5)
        return None
    finally:
        if process.returncode is None:
            _end_group(process, TORCHRUN_GRACE if job.processes > 1 else GRACE)


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        os.killpg(process.pid, signal.SIGKILL)  # also what the program started and did not end
    process.wait()


def _reason(log: Path, begin: int, code: int | None) -> str:
    """Why the program that wrote `log` from byte `begin` on has failed."""
    if code is None:
        return "stopped"
    with opened(log) as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - 200_000))
        text = file.read().decode(errors="replace")
    # What torchrun says of its workers' end comes after their own last words.
    text = re.split(r"^[WE]\d{4} .*torch/distributed/elastic", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ours = [line.removeprefix("gems-edge: ") for line in lines if line.startswith("gems-edge: ")]
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    if code == 0:
        return "the program ended without a result.json"
    if ours or lines:
        return (ours or lines)[-1][:300]
    return f"exit code {code}, and nothing in its log"


def write_result(directory: Path, document: Document) -> None:
    """The result.json of a done cell, with its own SHA-256."""
    write_atomic(directory / RESULT, json.dumps({**document, SUM: checksum(document)}, indent=1))


def cell_result(directory: Path) -> Document | None:
    """The document of a done cell; None when it is not done, and when what was written is damaged: then the cell's
    program makes it anew, from its finished run. One without a checksum, of an older version, is taken as it is.

    Raises UserError for what is no file.
    """
    try:
        content = read_plain(directory / RESULT, _MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        document = parse_json(content, RESULT)
    except UserError:
        return None
    if not isinstance(document, dict):
        return None
    return document if document.pop(SUM, None) in (None, checksum(document)) else None


def checksum(document: Document) -> str:
    return sha256_bytes(json.dumps(document, sort_keys=True).encode())


def one_thread() -> dict[str, str]:
    """On CPUs a process per core beats threads on networks as small as these; who sets OMP_NUM_THREADS knows better."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def in_use(directory: Path) -> bool:
    with opened_to_append(directory / LOG) as file:
        return not try_lock(file)


def try_lock(file: IO[bytes]) -> bool:
    """Lock the open file until it and its copies in child processes are closed; False: someone else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network file systems have no locks; work without
    return True


@contextlib.contextmanager
def own_sigterm(handler: Callable[[int, FrameType | None], Any] | None = None) -> Iterator[None]:
    """Handle SIGTERM with `handler`, and restore the previous handler at the end, even if others (Ray) replaced it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    if handler:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
