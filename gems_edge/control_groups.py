"""What the control groups of this process leave it of memory and of the processor (Linux, versions 1 and 2).

A container, a systemd service or a Kubernetes pod is such a group, and groups are nested: what the tightest leaves
counts.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gems_edge.files import readable_text

# Above this a limit is none: version 1 writes "unlimited" as the largest whole number of pages.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class _Files:
    """The names that a version gives to what is read of a group's memory: limits, usage, and the entries of memory.stat
    that are pages of files, which the system drops when the group needs memory."""

    limits: tuple[str, ...]
    usage: str
    droppable: tuple[str, ...]


_MEMORY_FILES = {
    1: _Files(
        ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
    ),
    2: _Files(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file")),
}  # fmt: skip


def memory_left(root: Path | str = "/") -> int | None:
    """Bytes that this process may still take before a group of it is full; None where none has a limit.

    `root`: where /proc and /sys lie.
    """
    left = [room for version, group in _groups("memory", Path(root)) for room in _room(group, _MEMORY_FILES[version])]
    return min(left, default=None)


def swap_left(root: Path | str = "/") -> int | None:
    """Bytes that this process may still have in swap space; None where no group limits that.

    Version 1 limits memory and swap together: what that leaves counts as swap.
    """
    names = {
        1: ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
        2: ("memory.swap.max", "memory.swap.current"),
    }
    left = []
    for version, group in _groups("memory", Path(root)):
        limit, used = (_number(group / name) for name in names[version])
        if limit is not None and used is not None and limit < _UNLIMITED:
            left.append(max(0, limit - used))
    return min(left, default=None)


def _room(group: Path, files: _Files) -> Iterator[int]:
    """What each limit of a group leaves."""
    used = _number(group / files.usage)
    if used is None:
        return
    stat = dict(re.findall(r"^(\w+) (\d+)$", readable_text(group / "memory.stat"), re.MULTILINE))
    held = used - sum(int(stat.get(name, 0)) for name in files.droppable)
    for name in files.limits:
        limit = _number(group / name)
        if limit is not None and limit < _UNLIMITED:
            yield max(0, limit - max(0, held))


def available_cores(root: Path | str = "/") -> int:
    """The cores that this process may use: those that it is bound to, or as many as its groups' quotas pay for,
    rounded up."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for version, group in _groups("cpu", Path(root)) for quota in _quota(group, version)]
    return max(1, min(bound, *(math.ceil(quota) for quota in quotas))) if quotas else bound


def _quota(group: Path, version: int) -> Iterator[float]:
    """Seconds of processor time a second."""
    if version == 2:
        quota, _, period = readable_text(group / "cpu.max").partition(" ")  # "50000 100000" or "max 100000"
    else:
        quota, period = (readable_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.strip().isdecimal() and period.strip().isdecimal() and int(period):  # version 1 says -1 for none
        yield int(quota) / int(period)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The directories of the groups that hold this process and have that controller, each with its version, from the
    innermost to the mount point, which is the outermost that can be seen from here."""
    mounts = list(_mounts(root))
    for line in readable_text(root / "proc/self/cgroup").splitlines():
        number, names, path = (line.split(":", 2) + ["", ""])[:3]
        version = 2 if number == "0" and not names else 1
        if version == 1 and controller not in names.split(","):
            continue
        for mount in mounts:
            if mount.version == version and (version == 2 or controller in mount.controllers):
                yield from ((version, group) for group in _upwards(mount, path))
                break


@dataclass(frozen=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    root: PurePosixPath  # the group that the mount point shows: within a container not always the first of all
    point: Path


def _mounts(root: Path) -> Iterator[_Mount]:
    """Where groups are mounted, as /proc/self/mountinfo says (proc(5)): … ROOT POINT … - TYPE SOURCE OPTIONS."""
    for line in readable_text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            shown, point = (_unescaped(field) for field in fields[3:5])
            version = 2 if kind[0] == "cgroup2" else 1
            yield _Mount(
                version, frozenset(kind[2].split(",")), PurePosixPath(shown), root / point.lstrip("/")
            )  # fmt: skip


def _unescaped(field: str) -> str:
    """Spaces and the like are written as octal numbers there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _upwards(mount: _Mount, path: str) -> Iterator[Path]:
    """A group's directory and those around it; of a group outside of what is mounted the mount point alone."""
    group = PurePosixPath(path)
    inside = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
    parts = () if ".." in inside.parts else inside.parts
    for depth in range(len(parts), -1, -1):
        yield mount.point.joinpath(*parts[:depth])


def _number(file: Path) -> int | None:
    text = readable_text(file).strip()
    return int(text) if text.isdecimal() else None  # "max" is none
