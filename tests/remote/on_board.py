"""A board on loopback, and what the tests look at on it from outside."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian import Unavailable
from sshd import Server, loopback_sshd


@contextlib.contextmanager
def running_sshd(environment: dict[str, str], force_command: str | None = None) -> Iterator[Server]:
    """The test is skipped, saying why, where no sshd can be had."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        try:
            server = stack.enter_context(loopback_sshd(force_command))
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield server


def sessions(server: Server) -> list[int]:
    """The processes of this sshd that hold a client's connection."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _line(entry.name).startswith(f"sshd: {server.user}"):
            ancestor = entry.name
            while ancestor not in ("0", "1") and str(server.config.parent) not in _line(ancestor):
                ancestor = _parent(ancestor)
            if ancestor not in ("0", "1"):
                found.append(int(entry.name))
    return found


def _line(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _parent(process: str) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return "0"


def left_on(server: Server) -> list[str]:
    """The directories of jobs in the user's home."""
    return sorted(path.name for path in bench_directory(server).glob("run-*"))


def bench_directory(server: Server) -> Path:
    return server.home / ".cache" / "gems-edge" / "bench"


def runs_in(directory: Path) -> list[int]:
    """Processes that work below `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")).is_relative_to(directory):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def write_wheel(directory: Path, name: str, version: str, source: str) -> None:
    """A wheel for any Python whose one package is `source`."""
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", source)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
