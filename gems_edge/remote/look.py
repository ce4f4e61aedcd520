# What a board is, asked of one of its pythons before anything is copied to it. Sent as text, so it needs nothing but
# itself, and it must run on any Python, to say that one is too old.
import json
import os
import platform
import struct
import sys


def has(module):  # type: (str) -> bool
    try:
        __import__(module)
        return True
    except ImportError:
        return False


def read(path):  # type: (str) -> str
    try:
        with open(path) as file:
            return file.read()
    except (IOError, OSError):  # noqa: UP024
        return ""


def existing(path):  # type: (str) -> str
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
base = os.path.join(os.environ.get("GEMS_EDGE_CACHE") or os.path.join(cache, "gems-edge"), "bench")
system = os.statvfs(existing(base))
memory = {}
for line in read("/proc/meminfo").splitlines():
    name, _, amount = line.partition(":")
    if amount.split():
        memory[name] = int(amount.split()[0]) * 1024
print(
    "gems-edge-board "
    + json.dumps({
        "python": os.environ.get("GEMS_EDGE_PYTHON", ""),
        "version": list(sys.version_info[:3]),
        "implementation": platform.python_implementation(),
        "bits": 8 * struct.calcsize("P"),
        "machine": platform.machine(),
        "system": platform.system(),
        "libc": list(platform.libc_ver()),
        "venv": has("venv"),
        "ensurepip": has("ensurepip"),
        "base": base,
        "writable": os.access(existing(base), os.W_OK),
        "runs_code": not system.f_flag & getattr(os, "ST_NOEXEC", 8),
        "free_bytes": system.f_bavail * system.f_frsize,
        "memory_bytes": memory.get("MemAvailable", memory.get("MemFree", 0)) + memory.get("SwapFree", 0),
        "kept": sorted(os.listdir(base)) if os.path.isdir(base) else [],
        "model": read("/sys/firmware/devicetree/base/model").strip("\0\n ") or platform.machine(),
    })
)  # fmt: skip
