"""Runs on the board, alone, with the board's own Python: sets up an environment, runs the commands, removes everything.

`begin NAME LEASE` makes the job's directory and a process that keeps it, and then attaches to it; `attach NAME N`
attaches again, after a lost connection, and repeats the events after the first N. Whoever is attached sends orders on
stdin, one per line (`beat`, `start {plan}`, `stop`), and reads events on stdout. `receive NAME SIZE` says how much of
the payload is there and takes the rest from stdin. The keeper hangs on no connection: it ends after `stop`, or when
nobody was heard for LEASE seconds, and then kills what it started and removes its directory.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

EVENT_MARK = "gems-edge-event "
HAVE_MARK = "gems-edge-have "
ALIVE = "gems-edge-alive"
PAYLOAD = "payload.zip"
PROBE = (
    "import json, platform, gems_edge.device.runtime as r, numpy, PIL, safetensors; "
    "print(json.dumps({'python': platform.python_version(), 'onnxruntime': r.VERSION, 'numpy': numpy.__version__}))"
)
_POLL = 0.3
_ALIVE_SECONDS = 2.0
# Runs a command, under a name for messages, and returns what it writes to stdout.
Call = Callable[[list[str], str], str]


class Ended(Exception):
    """The order to stop came, or nobody was heard for too long."""


class Failed(Exception):
    """A step failed. `code` as the exit code of gems-edge: 2 for bad input, 1 for a failing machine."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def base() -> Path:
    """Where jobs and kept environments are, as look.py finds it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("GEMS_EDGE_CACHE") or os.path.join(cache, "gems-edge"), "bench")


def begin(directory: Path, lease: float) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)
    lock = open(directory / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (directory / "beat").touch()
    emit(directory, {"ready": True})
    child = os.fork()
    if child == 0:
        try:
            keep(directory, lease)
        finally:
            os._exit(0)
    attach(directory, 0)
    # The session stays: where it is a container of its own, the keeper would end with it.
    os.waitpid(child, 0)


def receive(directory: Path, size: int) -> None:
    """The rest of the payload from stdin. Written by place: an earlier, broken connection may still bring its part."""
    payload = os.open(directory / PAYLOAD, os.O_WRONLY | os.O_CREAT, 0o600)
    have = os.fstat(payload).st_size
    print(HAVE_MARK + str(have), flush=True)
    said, stdin = time.monotonic(), cast(io.BufferedReader, sys.stdin.buffer)
    while have < size and (block := stdin.read1(1 << 16)):
        have += os.pwrite(payload, block, have)
        if time.monotonic() - said > _ALIVE_SECONDS / 2:
            said = time.monotonic()
            print(HAVE_MARK + str(have), flush=True)
    print(HAVE_MARK + str(have), flush=True)


def sweep(base: Path) -> None:
    """Remove what a keeper left that was itself ended by a power cut: directories whose lock nobody holds."""
    for directory in base.glob("run-*"):
        with contextlib.suppress(OSError), open(directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)


def attach(directory: Path, seen: int) -> None:
    """Orders from stdin to the keeper and its events, from number `seen` on, to stdout, until either side ends."""
    left = threading.Event()

    def obey() -> None:
        with contextlib.suppress(OSError):
            for line in sys.stdin.buffer:
                order, _, rest = line.partition(b" ")
                if order == b"start":
                    (directory / "start.part").write_bytes(rest)
                    (directory / "start.part").rename(directory / "start")
                elif order.strip() in (b"beat", b"stop"):
                    os.utime(directory / "beat")
                    if order.strip() == b"stop":
                        (directory / "stop").touch()
        left.set()

    threading.Thread(target=obey, daemon=True).start()
    try:
        with open(directory / "events") as events:
            for _ in range(seen):
                events.readline()
            rest, said = "", 0.0
            while True:
                if time.monotonic() - said > _ALIVE_SECONDS:
                    said = time.monotonic()
                    print(ALIVE, flush=True)
                gone = not directory.exists()  # asked before reading, so that nothing written before is missed
                while line := events.readline():
                    rest += line
                    if rest.endswith("\n"):
                        sys.stdout.write(EVENT_MARK + rest)
                        rest = ""
                if gone:
                    sys.stdout.write(EVENT_MARK + json.dumps({"gone": True}) + "\n")
                sys.stdout.flush()
                if gone or left.wait(_POLL):
                    return
    except (BrokenPipeError, FileNotFoundError):
        return


def emit(directory: Path, event: dict[str, Any]) -> None:
    with open(directory / "events", "a") as events:
        events.write(json.dumps(event) + "\n")


class Orders:
    """Whether to go on, by the monotonic clock: a board whose clock has no battery may set it at any time."""

    def __init__(self, directory: Path, lease: float):
        self.directory, self.lease = directory, lease
        self.beat, self.heard = 0, time.monotonic()

    def check(self) -> None:
        try:
            beat = (self.directory / "beat").stat().st_mtime_ns
        except FileNotFoundError:
            raise Ended from None
        if beat != self.beat:
            self.beat, self.heard = beat, time.monotonic()
        if (self.directory / "stop").exists() or time.monotonic() - self.heard > self.lease:
            raise Ended


def keep(directory: Path, lease: float) -> None:
    """Await the plan, carry it out, and keep its result until the order to stop or the end of the lease."""

    def terminated(number: int, frame: FrameType | None) -> None:
        raise Ended

    os.setsid()
    signal.signal(signal.SIGTERM, terminated)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sweep(directory.parent)
    orders = Orders(directory, lease)
    try:
        while not (directory / "start").exists():
            orders.check()
            time.sleep(_POLL)
        try:
            emit(directory, {"result": carry_out(directory, json.loads((directory / "start").read_text()), orders)})
        except Ended:
            raise
        except Failed as error:
            emit(directory, {"error": str(error), "code": error.code})
        except OSError as error:
            emit(directory, {"error": f"{error.strerror or error}: {error.filename or directory}", "code": 1})
        except Exception as error:
            emit(directory, {"error": f"unexpected {type(error).__name__}: {error}", "code": 1})
        while True:
            orders.check()
            time.sleep(_POLL)
    except Ended:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(directory, ignore_errors=True)
        for empty in (directory.parent, directory.parent.parent):  # …/gems-edge/bench
            with contextlib.suppress(OSError):
                empty.rmdir()


def carry_out(directory: Path, plan: dict[str, Any], orders: Orders) -> dict[str, Any]:
    """The JSON of each of the plan's commands by name, and the probe's versions and the seconds of each stage."""
    unpack(directory, plan["payload"])
    variables = environment(directory)

    def call(command: list[str], what: str) -> str:
        return run(directory, command, what, variables, orders)

    started = time.monotonic()
    kept = directory.parent / plan["environment"]
    if plan["keep"] and kept.exists():
        os.utime(kept)
        python = str(kept / "bin" / "python")
    else:
        python = install(directory, plan, call)
    seconds = {"install": time.monotonic() - started}
    emit(directory, {"stage": "trying its onnxruntime"})
    versions = json.loads(probe(python, call))
    results = {}
    for name, arguments in plan["commands"].items():
        emit(directory, {"stage": f"running {name}"})
        before = time.monotonic()
        results[name] = json.loads(call([python, "-m", "gems_edge", *arguments], name))
        seconds[name] = time.monotonic() - before
    if plan["keep"] and not kept.exists():
        for older in kept.parent.glob("env-*"):
            shutil.rmtree(older, ignore_errors=True)
        (directory / "env").rename(kept)
    return {"versions": versions, "results": results, "seconds": seconds}


def unpack(directory: Path, digest: str) -> None:
    """Make use of what was copied; Failed unless it has this SHA-256."""
    payload = directory / PAYLOAD
    with contextlib.suppress(FileNotFoundError), open(payload, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            payload.unlink()
    if not payload.exists():
        raise Failed("the files did not arrive whole; try again")
    with zipfile.ZipFile(payload) as archive:
        archive.extractall(directory)
    payload.unlink()
    (directory / "tmp").mkdir()


def environment(directory: Path) -> dict[str, str]:
    """The environment variables of what runs here: all that it writes goes into `directory`."""
    variables = os.environ | {
        "GEMS_EDGE_CACHE": str(directory / "cache"), "TMPDIR": str(directory / "tmp"), "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "1",
    }  # fmt: skip
    return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def install(directory: Path, plan: dict[str, Any], call: Call) -> str:
    """A virtual environment with gems-edge in it, from the plan's wheels or, without any, from the package index."""
    emit(directory, {"stage": "creating an environment"})
    python = str(directory / "env" / "bin" / "python")
    pip = next((name for name in plan["wheels"] if name.startswith("pip-")), None)
    command = [sys.executable, "-m", "venv", str(directory / "env")]
    if pip:
        command.insert(3, "--without-pip")
    call(command, "python3 -m venv")
    source = ["--no-index", "--find-links", "."] if plan["wheels"] else ["--only-binary=:all:"]
    run_pip = [python, f"{pip}/pip"] if pip else [python, "-m", "pip"]
    emit(directory, {"stage": "installing gems-edge and what it needs"})
    try:
        # Bytecode is made on first import, of what is imported: less wear and minutes less on a small board.
        call([*run_pip, "install", "--quiet", "--no-compile", *source, plan["package"]], "pip install")
    except Failed as error:
        if plan["wheels"]:
            raise
        raise Failed(
            f"neither this machine nor the board could fetch the packages ({error}); give --wheels DIR", error.code
        ) from None
    return python


def probe(python: str, call: Call) -> str:
    """The versions that are imported; Failed if onnxruntime's machine code does not fit the processor."""
    try:
        return call([python, "-c", PROBE], "import of onnxruntime")
    except Failed as error:
        signal_name = next((name for name in ("SIGILL", "SIGSEGV", "SIGBUS") if name in str(error)), None)
        if signal_name is None:
            raise
        libraries = Path(python).parent.parent.glob("lib/python*/site-packages/onnxruntime-*.dist-info")
        version = next((item.name.split("-")[1].removesuffix(".dist") for item in libraries), "")
        raise Failed(
            f"import of onnxruntime {version} dies of {signal_name}: this build does not fit the board's processor; "
            "give another version with --wheels DIR", 2,
        ) from None  # fmt: skip


def run(directory: Path, command: list[str], what: str, variables: dict[str, str], orders: Orders) -> str:
    """What `command` writes to stdout; its lines on stderr become events. Failed if it fails, Ended if it must stop."""
    errors: list[str] = []
    over = threading.Event()
    with tempfile.TemporaryFile(dir=directory) as out:
        process = subprocess.Popen(
            command, cwd=directory, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip

        def listen() -> None:
            for line in process.stderr or ():
                if line.strip():
                    errors.append(line.strip())
                    with contextlib.suppress(OSError):
                        emit(directory, {"say": line.strip()})
            process.wait()
            over.set()

        threading.Thread(target=listen, daemon=True).start()
        try:
            while not over.wait(1.0):  # seldom, for what runs is being measured
                orders.check()
        except Ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            over.wait(10)
            raise
        out.seek(0)
        text = out.read().decode(errors="replace")
    if process.returncode:
        raise failure(what, process.returncode, errors)
    return text


def failure(what: str, code: int, errors: list[str]) -> Failed:
    """Why a command failed, by its exit code and its lines on stderr."""
    if code < 0:
        name = signal.Signals(-code).name
        return Failed(f"{what} died of {name}" + (" (out of memory)" if name == "SIGKILL" else ""))
    last = next((line for line in reversed(errors) if not line.startswith("[notice]")), "it said nothing")
    for prefix in ("gems-edge: ", "gems_edge.errors.UserError: ", "ERROR: "):
        last = last.removeprefix(prefix)
    return Failed(f"{what}: {last}", 2 if code == 2 and what != "pip install" else 1)


if __name__ == "__main__":
    {"begin": begin, "attach": attach, "receive": receive}[sys.argv[1]](base() / sys.argv[2], int(sys.argv[3]))
