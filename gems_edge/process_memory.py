"""What this process and this machine hold of memory, where the system says so (Linux); no torch, no onnxruntime."""

import re

from gems_edge.control_groups import memory_left, swap_left
from gems_edge.files import readable_text


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

    In a container no more than the limits of its control groups leave.
    """
    rooms = (machine_mb(), limit_mb())
    return min((room for room in rooms if room is not None), default=None)


def machine_mb() -> float | None:
    """What this machine has available, whatever the limits, in MB; None where it does not say."""
    return _entry_mb("/proc/meminfo", "MemAvailable")


def limit_mb() -> float | None:
    """What the limits of this process's control groups leave it, in MB; None where there is no limit."""
    return _mb(memory_left())


def swap_mb() -> float:
    """What of the swap space is free and this process's control groups let it have, in MB; 0 where it is not known."""
    rooms = (_entry_mb("/proc/meminfo", "SwapFree") or 0.0, _mb(swap_left()))
    return min(room for room in rooms if room is not None)


def _mb(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _entry_mb(file: str, name: str) -> float | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", readable_text(file), re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else None
