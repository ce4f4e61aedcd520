"""What this process and this machine hold of memory, where the system says so (Linux); no torch, no onnxruntime."""

import re
from pathlib import Path


def peak_rss_mb() -> float | None:
    """Peak resident memory of this process in MB (10⁶ bytes); None where the system does not say."""
    return _entry_mb("/proc/self/status", "VmHWM")


def rss_mb() -> float | None:
    """Resident memory of this process in MB; None where it is not known."""
    return _entry_mb("/proc/self/status", "VmRSS")


def file_rss_mb() -> float | None:
    """Resident memory of this process that is pages of files, mostly libraries, in MB; None where it is not known.

    The system drops them when it needs memory. How many there are depends on how the libraries came into the system's
    file cache: 28 MB or 42 MB of the same files (Linux 6.18, read long ago or written just now).
    """
    return _entry_mb("/proc/self/status", "RssFile")


def available_mb() -> float | None:
    """What the system could give to this process without swapping, in MB; None where it does not say.

    In a container no more than its limit leaves (version 2 of control groups).
    """
    machine = _entry_mb("/proc/meminfo", "MemAvailable")
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if machine is None or not limit.isdigit() or not used.isdigit():  # the limit may be "max"
        return machine
    return min(machine, max(0, int(limit) - int(used)) / 1e6)


def _entry_mb(file: str, name: str) -> float | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", _text(file), re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else None


def _text(file: str) -> str:
    try:
        return Path(file).read_text(errors="replace")
    except OSError:
        return ""
