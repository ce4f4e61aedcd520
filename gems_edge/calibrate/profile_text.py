"""A calibration, and what the system tells of the machine, as a profile's TOML."""

import platform
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from gems_edge.calibrate.fit import Calibration
from gems_edge.control_groups import available_cores
from gems_edge.device.host import ARM_CORES, memory_mib
from gems_edge.files import readable_text
from gems_edge.predict.profiles import Fact

# Extensions of the instruction set that onnxruntime has kernels for.
SIMD = (
    "asimd", "asimdhp", "asimddp", "i8mm", "sve", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8",
)  # fmt: skip


def profile_text(device: str, calibration: Calibration) -> str:
    """The TOML of a profile, as `gems-edge devices check` wants it."""
    from gems_edge.device.runtime import VERSION

    today = date.today().isoformat()
    by = f"measured {today} by gems-edge devices calibrate, onnxruntime {VERSION}"
    facts = _machine_facts(today) | {
        "bandwidth": Fact(round(calibration.copy_gbs, 3), "GB/s", f"{by}: one core, bytes copied"),
        "fp32_peak_core": Fact(
            round(calibration.gemm_gflops, 2),
            "GFLOP/s",
            f"{by}: the fastest MatMul on one thread, so the peak is no lower",
        ),
        "call_overhead": Fact(round(calibration.call_us, 2), "us", f"{by}: a graph of one op on four numbers"),
    }
    lines = [f"id = {_toml(device)}", f"name = {_toml(facts['soc'].value)}", f'updated = "{today}"']
    for name, fact in facts.items():
        lines += ["", f"[facts.{name}]", f"value = {_toml(fact.value)}"]
        if fact.unit:
            lines.append(f"unit = {_toml(fact.unit)}")
        lines.append(f"source = {_toml(fact.source)}")
    return "\n".join([*lines, *_measured_lines(calibration, by), ""])


def _measured_lines(calibration: Calibration, by: str) -> Iterator[str]:
    errors = [abs(check.error) for check in calibration.checks]
    source = (
        f"{by}; off by {sum(errors) / len(errors):.0%} on average, {max(errors):.0%} at most, on {len(errors)} checks "
        "with networks that were not fitted"
    )
    spread = ", ".join(f"{threads} = {value:.3f}" for threads, value in calibration.spread.items())
    yield from ("", "# ns per MAC, element or op, by term of work and number of threads.", "[measured]")
    yield from (f"spread = {{ {spread} }}", f"source = {_toml(source)}")
    for threads, rates in calibration.ns.items():
        yield from ("", f"[measured.threads.{threads}]", *(f"{term} = {value!r}" for term, value in rates.items()))


def _machine_facts(today: str) -> dict[str, Fact]:
    cpuinfo = readable_text("/proc/cpuinfo")
    core = _core(cpuinfo)
    board = readable_text("/proc/device-tree/model").strip("\0\n ") or core
    flags = re.search(r"^(?:Features|flags)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    simd = " ".join(flag for flag in SIMD if flags and flag in flags[1].split()) or "none of those known here"
    return {
        "soc": Fact(board, "", "/proc/device-tree/model or /proc/cpuinfo"),
        "core": Fact(core, "", "/proc/cpuinfo"),
        "cores": Fact(available_cores(), "", "the cores that this process may use"),
        "clock": Fact(_clock(cpuinfo), "GHz", "/sys/devices/system/cpu or /proc/cpuinfo; 1 where neither tells"),
        "simd": Fact(f"{platform.machine()}: {simd}", "", "/proc/cpuinfo"),
        **_caches(),
        "ram": Fact(max(64, memory_mib("MemTotal")), "MiB", "/proc/meminfo, MemTotal"),
        "ram_usable": Fact(max(16, memory_mib("MemAvailable")), "MiB", f"/proc/meminfo, MemAvailable on {today}"),
    }


def _core(cpuinfo: str) -> str:
    if part := re.search(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)", cpuinfo, re.MULTILINE):
        return ARM_CORES.get(int(part[1], 16), f"Arm part {part[1]}")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def _clock(cpuinfo: str) -> float:
    highest = readable_text("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    if highest.isdigit():
        return round(int(highest) / 1e6, 3)
    clock = re.search(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)
    return round(float(clock[1]) / 1e3, 3) if clock else 1.0


def _caches() -> dict[str, Fact]:
    names, caches = {"1Data": "l1_data", "2Unified": "l2", "3Unified": "l3"}, {}
    for directory in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (readable_text(directory / file).strip() for file in ("level", "type", "size"))
        name = names.get(level + kind)
        if name and size.endswith("K"):
            caches[name] = Fact(int(size[:-1]), "KiB", str(directory))
    return caches


def _toml(value: str | int | float) -> str:
    if not isinstance(value, str):
        return str(value)
    printable = "".join(character for character in value if character.isprintable())
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
