"""Peak memory of a benchmark's process, for those that run under a Python without gems_edge (there:
gems_edge.process_memory)."""

import re
from pathlib import Path


def peak_mb() -> float | None:
    """Peak resident memory in 10⁶ bytes, of this program alone, where getrusage's may be its parent's; None off
    Linux."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None
