"""A process that has imported everything and forks a child for each file to read: `python server.py board|workstation`.

Orders are lines of JSON on stdin, {"place", "reader", "seconds"}; answers, a line each, are what came of it: see
Outcome in sandbox.py. A child whose time is up is killed.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from readers import READERS

# What a child may write: what its command is told to, and what it keeps below its home.
_WRITABLE = ("out/", "home/", "log/")
# What a process of its own would have of files in memory, and a forked one does not count.
_FILES_MB = 60.0
_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind")
_CHANGES = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.rename": 2, "os.link": 2}


def serve(side: str) -> None:
    import numpy as np  # noqa: F401
    from PIL import Image

    from gems_edge.cli import adapt, main, predict  # noqa: F401
    from gems_edge.device import learner, runtime, support  # noqa: F401

    Image.init()
    if side == "workstation":
        import torch
        import torch._inductor  # noqa: F401

        torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = _read(Path(order["place"]), order["reader"], order["seconds"])
        _import(answer.pop("modules"))
        print(json.dumps(answer), flush=True)


def _import(modules: list[str]) -> None:
    """What a child had to import, for those that follow."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _read(place: Path, reader: str, seconds: float) -> dict[str, Any]:
    """Have a child read what lies in `place`, and see how it ends."""
    child = os.fork()
    if not child:
        _child(place, reader)
    lasted = _wait(child, seconds)
    timed_out = lasted > seconds
    if timed_out:
        os.kill(child, signal.SIGABRT)  # says where it is
        time.sleep(0.5)
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    result: dict[str, Any] = {
        "code": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
        "peak_mb": usage.ru_maxrss / 1024,
    }
    said = place / "log" / "result"
    told = json.loads(said.read_text()) if said.exists() else {"effect": "", "beyond": [], "modules": []}
    stderr = (place / "log" / "stderr").read_bytes().decode(errors="replace")
    result["peak_mb"] += _FILES_MB
    return result | told | {"stderr": stderr[-4000:], "seconds": lasted}


def _wait(child: int, most: float) -> float:
    """The seconds until it ends, or a little more than `most`. Time in which it could have run, and others did,
    does not count, and time in which this process was stopped counts little: the machine is not the reader."""
    watch, lasted, ran, ended = os.pidfd_open(child), 0.0, 0.0, False
    while not ended and lasted <= most:
        began = time.monotonic()
        ended = bool(select.select([watch], [], [], 0.5)[0])
        waited, (state, total) = min(1.0, time.monotonic() - began), _activity(child)
        lasted += min(waited, total - ran) if state in "RDTt" else waited
        ran = total
    os.close(watch)
    return lasted


def _activity(process: int) -> tuple[str, float]:
    """Its state ("R": would run), and the seconds of a processor that it has had."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return words[0], (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _child(place: Path, reader: str) -> None:
    """Read, write down what came of it, and end."""
    code, beyond = 99, []
    try:
        os.setsid()
        os.chdir(place)
        log = os.open("log/stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream, descriptor in ((0, nothing), (1, nothing), (2, log)):
            os.dup2(descriptor, stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable(2)
        names = ("HOME", "GEMS_EDGE_CACHE", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR")
        os.environ |= dict.fromkeys(names, f"{place}/home")
        tempfile.tempdir = None
        _watch(place, beyond)
        known = set(sys.modules)
        effect, code = _run(reader)
        modules = [] if code else sorted(set(sys.modules) - known)
        Path("log/result").write_text(json.dumps({"effect": effect, "beyond": beyond, "modules": modules}))
    finally:
        os._exit(code)


def _run(reader: str) -> tuple[str, int]:
    """What the reader returns, and the command's exit code."""
    from gems_edge.cli.main import run_reporting

    effects: list[str] = []
    try:
        run_reporting(lambda: effects.append(READERS[reader]()))
    except SystemExit as end:
        return "", int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        return "", 98
    return effects[0], 0


def _watch(place: Path, beyond: list[str]) -> None:
    """Put down in `beyond` what this process changes outside its places, and the programs that it starts."""
    allowed = tuple(f"{place}/{name}" for name in (*_WRITABLE, *_own(place)))

    def changes(path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            full = os.path.abspath(os.fsdecode(path))
            if not f"{full}/".startswith((*allowed, "/dev/null/", "/proc/self/", "/dev/shm/")):
                beyond.append(full)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        with contextlib.suppress(TypeError, ValueError):
            if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                changes(arguments[0])
            elif event in _PROGRAMS and not _checks_signature(event, arguments):
                beyond.append(f"{event} {arguments[:2]!r}"[:200])
            for path in arguments[: _CHANGES.get(event, 0)]:
                changes(path)

    sys.addaudithook(hook)


def _checks_signature(event: str, arguments: tuple[Any, ...]) -> bool:
    """ssh-keygen is what a trust file is heeded with."""
    return event == "subprocess.Popen" and os.path.basename(str(arguments[0])) == "ssh-keygen"


def _own(place: Path) -> tuple[str, ...]:
    """A run that training goes on with is written to."""
    return ("subject/",) if (place / "subject").is_dir() else ()


if __name__ == "__main__":
    serve(sys.argv[1])
