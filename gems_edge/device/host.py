"""This machine and its condition: what is recorded beside every figure, and what makes figures unreliable."""

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from gems_edge.control_groups import available_cores
from gems_edge.files import readable_text
from gems_edge.process_memory import available_mb

# The part numbers of Arm's cores (MIDR_EL1 in their technical reference manuals).
ARM_CORES = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0D: "Cortex-A77", 0xD41: "Cortex-A78",
}  # fmt: skip
# Bits 0–3 of `vcgencmd get_throttled`: now; the same sixteen higher: at some time since the board started.
_THROTTLED = {0: "under-voltage", 1: "capped clock", 2: "throttling", 3: "the soft temperature limit"}
# Every Raspberry Pi slows down from 80 °C on, and other boards not far from there.
_HOT = 80.0
# A measured clock so far below the highest that the kernel offers is not the measurement's error.
_SLOW = 0.93
_CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq/"


def host_facts() -> dict[str, Any]:
    """What machine this is, and its condition now; facts that are unknown are left out."""
    highest = readable_text(_CPUFREQ + "cpuinfo_max_freq").strip()
    facts = {
        "board": readable_text("/sys/firmware/devicetree/base/model").strip("\0\n "),
        "machine": platform.machine(),
        "cpu": _cpu(readable_text("/proc/cpuinfo")),
        "cores": available_cores(),
        "memory_mb": _memory_mb("MemTotal"),
        "highest_clock_mhz": round(int(highest) / 1e3) if highest.isdigit() else None,
        **conditions(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "numpy": np.__version__,
    }
    return {name: fact for name, fact in facts.items() if fact not in ("", None)}


def conditions() -> dict[str, Any]:
    """What changes while a board works. `clock_mhz` is the kernel's word, `firmware_clock_mhz` a Raspberry Pi's own."""
    clock = readable_text(_CPUFREQ + "scaling_cur_freq").strip()
    firmware, available = _vcgencmd("measure_clock", "arm"), available_mb()
    facts = {
        "governor": readable_text(_CPUFREQ + "scaling_governor").strip(),
        "clock_mhz": round(int(clock) / 1e3) if clock.isdigit() else None,
        "firmware_clock_mhz": round(int(firmware) / 1e6) if firmware and firmware.isdigit() else None,
        "temperature_c": temperature_c(),
        "throttled": _vcgencmd("get_throttled"),
        "memory_available_mb": None if available is None else round(available),
        "disk_free_mb": round(shutil.disk_usage(tempfile.gettempdir()).free / 1e6),
    }
    return {name: fact for name, fact in facts.items() if fact not in ("", None)}


def temperature_c() -> float | None:
    """Of the processor, in °C; None where the system does not say."""
    temperature = readable_text("/sys/class/thermal/thermal_zone0/temp").strip()
    return int(temperature) / 1e3 if temperature.lstrip("-").isdigit() else None


def memory_mib(entry: str) -> int:
    """An entry of /proc/meminfo in MiB; 0 where it is not there."""
    return _memory_kib(entry) // 1024


def _memory_mb(entry: str) -> int | None:
    return round(_memory_kib(entry) * 1024 / 1e6) or None


def _memory_kib(entry: str) -> int:
    line = re.search(rf"^{entry}:\s+(\d+) kB", readable_text("/proc/meminfo"), re.MULTILINE)
    return int(line[1]) if line else 0


def spoiled(before: Mapping[str, Any], after: Mapping[str, Any], clock_mhz: float | None) -> list[str]:
    """Why figures taken between two `conditions` are not this board at its best; empty if nothing speaks against them.

    `clock_mhz`: as measured meanwhile; `before` may also hold `highest_clock_mhz`.
    """
    reasons = []
    first, last = (_flags(moment.get("throttled")) for moment in (before, after))
    # A flag "since the start" that was not there before went up during the run.
    during = (first | last) & 0xF | (last & ~first) >> 16
    earlier = (first >> 16) & 0xF & ~during
    if during:
        reasons.append(f"the board reports {_named(during)} during the run (get_throttled {after.get('throttled')})")
    if earlier:
        reasons.append(f"the board reports {_named(earlier)} since it was started, perhaps not during the run")
    hottest = max(moment.get("temperature_c", 0) for moment in (before, after))
    if hottest >= _HOT:
        reasons.append(f"it reached {hottest:.0f} °C, where boards slow down; cool it")
    highest = before.get("highest_clock_mhz")
    if clock_mhz and highest and clock_mhz < _SLOW * highest:
        governor = f", governor {before['governor']}" if "governor" in before else ""
        reasons.append(f"it ran at {clock_mhz:.0f} MHz of {highest} MHz{governor}")
    return reasons


def _flags(throttled: str | None) -> int:
    try:
        return int(throttled or "0", 16)
    except ValueError:
        return 0


def _named(bits: int) -> str:
    return ", ".join(name for bit, name in _THROTTLED.items() if bits >> bit & 1)


def _cpu(text: str) -> str:
    """The processor's name in /proc/cpuinfo; Arm's kernels give numbers instead."""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if named:
        return named[1].strip()
    parts = {int(part, 16) for part in re.findall(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)$", text, re.MULTILINE)}
    return " + ".join(ARM_CORES.get(part, f"Arm part {part:#x}") for part in sorted(parts))


def _vcgencmd(*arguments: str) -> str | None:
    """The value that a Raspberry Pi's firmware gives, e.g. 0x50000 or 1500000000; None elsewhere."""
    try:
        done = subprocess.run(["vcgencmd", *arguments], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().rpartition("=")[2] or None if done.returncode == 0 else None
