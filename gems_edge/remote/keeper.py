"""Runs on the board, alone, with the board's own Python: sets up an environment, runs the commands, removes everything.

`begin DIRECTORY LEASE` makes the directory and a process that keeps it, and then attaches to it; `attach DIRECTORY N`
attaches again, after a lost connection, and repeats the events after the first N. Whoever is attached sends orders on
stdin, one per line (`beat`, `start {plan}`, `stop`), and reads events on stdout. The keeper hangs on no connection: it
ends after `stop`, or when nobody was heard for LEASE seconds, and then kills what it started and removes its directory.
"""

import contextlib
import fcntl
import hashlib
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
from pathlib import Path

MARK = "gems-edge-event "
ATTACHED = "gems-edge-attached"
PROBE = (
    "import json, platform, gems_edge.device.runtime as r, numpy, PIL, safetensors; "
    "print(json.dumps({'python': platform.python_version(), 'onnxruntime': r.VERSION, 'numpy': numpy.__version__}))"
)
_POLL = 0.3


class Ended(Exception):
    """The order to stop came, or nobody was heard for too long."""


class Failed(Exception):
    """A step failed. `code` as the exit code of gems-edge: 2 for bad input, 1 for a failing machine."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def begin(directory: Path, lease: float, source: bytes) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    directory.parent.mkdir(parents=True, exist_ok=True)
    sweep(directory.parent)
    directory.mkdir(mode=0o700)
    lock = open(directory / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (directory / "keeper.py").write_bytes(source)
    (directory / "beat").touch()
    emit(directory, {"directory": str(directory)})
    child = os.fork()
    if child == 0:
        try:
            keep(directory, lease)
        finally:
            os._exit(0)
    attach(directory, 0)
    # The session stays: where it is a container of its own, the keeper would end with it.
    os.waitpid(child, 0)


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
            print(ATTACHED, flush=True)
            for _ in range(seen):
                events.readline()
            rest = ""
            while True:
                gone = not directory.exists()  # asked before reading, so that nothing written before is missed
                while line := events.readline():
                    rest += line
                    if rest.endswith("\n"):
                        sys.stdout.write(MARK + rest)
                        rest = ""
                if gone:
                    sys.stdout.write(MARK + json.dumps({"gone": True}) + "\n")
                sys.stdout.flush()
                if gone or left.wait(_POLL):
                    return
    except (BrokenPipeError, FileNotFoundError):
        return


def emit(directory: Path, event: dict) -> None:
    with open(directory / "events", "a") as events:
        events.write(json.dumps(event) + "\n")


class Watch:
    """Looks for orders. Time is the monotonic clock's: a board without a battery sets its clock when it hears of one."""

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

    def terminated(number, frame):
        raise Ended

    os.setsid()
    signal.signal(signal.SIGTERM, terminated)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    watch = Watch(directory, lease)
    try:
        while not (directory / "start").exists():
            watch.check()
            time.sleep(_POLL)
        try:
            emit(directory, {"result": carry_out(directory, json.loads((directory / "start").read_text()), watch)})
        except Ended:
            raise
        except Failed as error:
            emit(directory, {"error": str(error), "code": error.code})
        except OSError as error:
            emit(directory, {"error": f"{error.strerror or error}: {error.filename or directory}", "code": 1})
        except Exception as error:
            emit(directory, {"error": f"unexpected {type(error).__name__}: {error}", "code": 1})
        while True:
            watch.check()
            time.sleep(_POLL)
    except Ended:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(directory, ignore_errors=True)
        for empty in (directory.parent, directory.parent.parent):  # …/gems-edge/bench
            with contextlib.suppress(OSError):
                empty.rmdir()


def carry_out(directory: Path, plan: dict, watch: Watch) -> dict:
    """The JSON of each of the plan's commands by name, and the probe's versions and the seconds of each stage."""
    for name, digest in plan["files"].items():
        with contextlib.suppress(FileNotFoundError), open(directory / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                continue
        raise Failed(f"{name} did not arrive whole; is there room on the board? Try again")
    with zipfile.ZipFile(directory / "payload.zip") as archive:
        archive.extractall(directory)
    variables = os.environ | {
        "GEMS_EDGE_CACHE": str(directory / "cache"), "TMPDIR": str(directory / "tmp"), "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "1",
    }  # fmt: skip
    variables.pop("PYTHONPATH", None)
    variables.pop("PYTHONHOME", None)
    (directory / "tmp").mkdir()

    def call(command: list[str], what: str) -> str:
        return run(directory, command, what, variables, watch)

    started = time.monotonic()
    kept = Path(plan["environment"])
    if plan["keep"] and kept.exists():
        os.utime(kept)
        python = str(kept / "bin" / "python")
    else:
        python = install(directory, plan, call)
    seconds = {"install": time.monotonic() - started}
    emit(directory, {"stage": "trying its onnxruntime"})
    versions = json.loads(probe(directory, python, call))
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


def install(directory: Path, plan: dict, call) -> str:
    """A virtual environment with gems-edge in it, from the plan's wheels or, without any, from the package index."""
    emit(directory, {"stage": "creating an environment"})
    python = str(directory / "env" / "bin" / "python")
    pip = next((name for name in plan["wheels"] if name.startswith("pip-")), None)
    without = ["--without-pip"] if pip else []
    call([sys.executable, "-m", "venv", *without, str(directory / "env")], "python3 -m venv")
    # Bytecode is made on first import, of what is imported: less wear and minutes less on a small board.
    source = ["--no-index", "--find-links", "."] if plan["wheels"] else ["--only-binary=:all:"]
    tool = [f"{pip}/pip"] if pip else ["-m", "pip"]
    emit(directory, {"stage": "installing gems-edge and what it needs"})
    try:
        call([python, *tool, "install", "--quiet", "--no-compile", *source, plan["own"]], "pip install")
    except Failed as error:
        if plan["wheels"]:
            raise
        raise Failed(
            f"neither this machine nor the board could fetch the packages ({error}); give --wheels DIR", error.code
        ) from None
    return python


def probe(directory: Path, python: str, call) -> str:
    """The versions that import; Failed, with the reason, if onnxruntime's machine code does not fit the processor."""
    try:
        return call([python, "-c", PROBE], "import of onnxruntime")
    except Failed as error:
        signalled = next((name for name in ("SIGILL", "SIGSEGV", "SIGBUS") if name in str(error)), None)
        if signalled is None:
            raise
        libraries = Path(python).parent.parent.glob("lib/python*/site-packages/onnxruntime-*.dist-info")
        version = next((item.name.split("-")[1].removesuffix(".dist") for item in libraries), "")
        raise Failed(
            f"import of onnxruntime {version} dies of {signalled}: this build does not fit the board's processor; "
            "give another version with --wheels DIR", 2,
        ) from None  # fmt: skip


def run(directory: Path, command: list[str], what: str, variables: dict, watch: Watch) -> str:
    """What `command` writes to stdout; its lines on stderr become events. Failed if it fails, Ended if it must."""
    said: list[str] = []
    over = threading.Event()
    with tempfile.TemporaryFile(dir=directory) as out:
        process = subprocess.Popen(
            command, cwd=directory, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip

        def listen() -> None:
            for line in process.stderr:
                if line.strip():
                    said.append(line.strip())
                    with contextlib.suppress(OSError):
                        emit(directory, {"say": line.strip()})
            process.wait()
            over.set()

        threading.Thread(target=listen, daemon=True).start()
        try:
            while not over.wait(1.0):  # seldom, for what runs is being measured
                watch.check()
        except Ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            over.wait(10)
            raise
        out.seek(0)
        text = out.read().decode(errors="replace")
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise Failed(f"{what} died of {name}" + (" (out of memory)" if name == "SIGKILL" else ""))
    if process.returncode:
        last = next((line for line in reversed(said) if not line.startswith("[notice]")), "it said nothing")
        for prefix in ("gems-edge: ", "gems_edge.errors.UserError: ", "ERROR: "):
            last = last.removeprefix(prefix)
        raise Failed(f"{what}: {last}", 2 if process.returncode == 2 and what not in ("pip install",) else 1)
    return text


if __name__ == "__main__":
    if sys.argv[1] == "begin":
        begin(Path(sys.argv[2]), float(sys.argv[3]), SOURCE)  # noqa: F821, set by whoever sends this text
    else:
        attach(Path(sys.argv[2]), int(sys.argv[3]))
