"""A profile of the machine this runs on, from measurements with onnxruntime: in a minute or two, no onnx, no torch.

Small graphs of an op or a few tell the nanoseconds per unit of every term of work, for one thread and for all; whole
networks and gradient steps that the fit does not see tell how far it is off.
"""

import math
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.calibrate.probe_sets import one_op_probes, whole_networks
from gems_edge.calibrate.probes import Probe
from gems_edge.predict.work import TERMS

# Middles of the priors, ns per unit (a core of some GFLOP/s), each e² times more or less: only what the probes leave open.
MIDDLE = dict.fromkeys(TERMS, 0.2) | dict.fromkeys(
    (
        "conv_maps", "conv3x3_maps", "conv_weights", "conv3x3_weights", "gemm_weights", "elementwise", "columns",
        "matmul_maps", "selected", "resized", "sums", "far",
    ),
    0.5,
)  # fmt: skip
MIDDLE |= {"ops": 2000.0, "views": 1000.0, "setups": 2000.0, "rows": 20.0, "byte_windows": 5.0}
SPREAD = 2.0
# A probe's time is trusted to this share.
NOISE = 0.05
# A probe is timed so many times, with all the others between, so that no passing load spoils its every time.
ROUNDS = 5
SECONDS = 0.06  # per probe, number of threads and round
LEAST_SPREAD = 0.1
CORES = {"0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
         "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd41": "Cortex-A78"}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    ns: dict[int, dict[str, float]]  # by threads and term
    call_us: float
    errors: list[
        tuple[str, int, float, float]
    ]  # of networks that the fit did not see: name, threads, measured ms, predicted ms
    spread: dict[int, float]  # by threads
    gemm_gflops: float  # fastest product, one thread
    copy_gbs: float  # one core


def calibrate(on_stage: Callable[[str], None]) -> Calibration:
    """Measures this machine; `on_stage` is told what is going on. MachineError if memory runs out."""
    cores = available_cores()
    probes, networks = one_op_probes(), whole_networks()
    rates, errors, call_us, gflops = {}, [], 0.0, 0.0
    for threads in sorted({1, cores}):
        named = f"{threads} thread{'s' * (threads > 1)}"
        everything = _rounds(probes + networks, threads, lambda done: on_stage(f"{named}: {done}"))
        taken = {probe.name: everything[probe.name] for probe, _ in probes}
        call_us = call_us or 1e3 * taken["call"]
        measured = np.array([max(1e-4, ms - taken["call"]) for name, ms in taken.items() if name != "call"])
        rates[threads] = fit([probe.work for probe, _ in probes if probe.name != "call"], measured)
        if threads == 1:
            best = max(
                (probe.work["matmul"] / taken[probe.name] for probe, _ in probes if "matmul" in probe.work), default=0
            )
            gflops = 2 * best / 1e6
        for probe, _ in networks:
            predicted = call_us / 1e3 + sum(amount * rates[threads][term] for term, amount in probe.work.items()) / 1e6
            errors.append((probe.name, threads, everything[probe.name], predicted))
    on_stage("memory")
    spread = {}
    for threads in rates:
        far = np.quantile([abs(math.log(predicted / ms)) for _, used, ms, predicted in errors if used == threads], 0.9)
        spread[threads] = max(LEAST_SPREAD, 1.1 * float(far))
    return Calibration(rates, call_us, errors, spread, gflops, copy_rate())


def _rounds(graphs: list[tuple[Probe, str]], threads: int, on_round: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds of each graph by its name: the median of the rounds."""
    taken: dict[str, list[float]] = {probe.name: [] for probe, _ in graphs}
    for number in range(ROUNDS):
        on_round(f"round {number + 1} of {ROUNDS}")
        for probe, end in graphs:
            taken[probe.name].append(run_ms(probe, end, threads))
    return {name: float(np.median(times)) for name, times in taken.items()}


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_ms(probe: Probe, output: str, threads: int) -> float:
    """One thread's time is processor time, which other programs can hardly lengthen, and the median of the calls, as
    `bench` gives it. Several threads' is the clock's, and the least: what else runs only ever adds to that."""
    from gems_edge.device.runtime import Session

    session, feeds = Session(probe.model(output), f"the probe {probe.name}", threads=threads), probe.feeds()
    clock, of = (time.thread_time, np.median) if threads == 1 else (time.perf_counter, min)
    session.run([output], feeds)
    taken, deadline = [], time.perf_counter() + SECONDS
    while len(taken) < 3 or time.perf_counter() < deadline:
        start = clock()
        session.run([output], feeds)
        taken.append(clock() - start)
    return 1e3 * float(of(taken))


def fit(works: list[dict[str, float]], ms: np.ndarray) -> dict[str, float]:
    """ns per unit by term, all positive: the most probable ones, errors being relative, by Gauss-Newton in logarithms."""
    amounts = np.array([[work.get(term, 0.0) for term in TERMS] for work in works]) / 1e6
    middle = np.log([MIDDLE[term] for term in TERMS])
    logs, damping = middle.copy(), 1e-2
    for _ in range(200):
        shares = amounts * np.exp(logs)
        total = shares.sum(1)
        off = (np.log(ms) - np.log(total)) / NOISE
        weights = 1 / np.maximum(1, np.abs(off) / 2)  # Huber: an odd probe pulls no harder than a fair one
        slopes = shares / total[:, None] / NOISE
        curvature = (slopes * weights[:, None]).T @ slopes + np.eye(len(TERMS)) / SPREAD**2
        downhill = (slopes * weights[:, None]).T @ off - (logs - middle) / SPREAD**2
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill)
        logs = logs + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-5:
            break
    return {term: float(f"{value:.5g}") for term, value in zip(TERMS, np.exp(logs))}


def copy_rate() -> float:
    """GB/s that one core copies: the best of some copies of 64 MB (16 on small machines)."""
    size = (64 if memory_mib("MemAvailable") > 512 else 16) << 20
    source, target, best = np.ones(size, np.uint8), np.empty(size, np.uint8), math.inf
    for _ in range(8):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return size / best / 1e9


def memory_mib(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def profile_text(device: str, made: Calibration) -> str:
    """The TOML of a profile, as `gems-edge devices check` wants it."""
    import onnxruntime

    cpuinfo, today = _read("/proc/cpuinfo"), date.today().isoformat()
    by = f"measured {today} by gems-edge devices calibrate, onnxruntime {onnxruntime.__version__}"
    part = re.search(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    core = CORES.get(part[1], f"Arm part {part[1]}") if part else model[1].strip() if model else platform.machine()
    board = _read("/proc/device-tree/model").strip("\0\n ") or core
    flags = re.search(r"^(?:Features|flags)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    wanted = (
        "asimd",
        "asimdhp",
        "asimddp",
        "i8mm",
        "sve",
        "avx2",
        "fma",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "amx_int8",
    )
    simd = " ".join(flag for flag in wanted if flags and flag in flags[1].split()) or "none of those known here"
    facts: list[tuple[str, Any, str, str]] = [
        ("soc", board, "", "/proc/device-tree/model or /proc/cpuinfo"),
        ("core", core, "", "/proc/cpuinfo"),
        ("cores", available_cores(), "", "the cores that this process may use"),
        ("clock", _clock(cpuinfo), "GHz", "/sys/devices/system/cpu or /proc/cpuinfo; 1 where neither tells"),
        ("simd", f"{platform.machine()}: {simd}", "", "/proc/cpuinfo"),
        *_caches(),
        ("ram", max(64, memory_mib("MemTotal")), "MiB", "/proc/meminfo, MemTotal"),
        ("ram_usable", max(16, memory_mib("MemAvailable")), "MiB", f"/proc/meminfo, MemAvailable on {today}"),
        ("bandwidth", round(made.copy_gbs, 3), "GB/s", f"{by}: one core, bytes copied"),
        ("fp32_peak_core", round(made.gemm_gflops, 2), "GFLOP/s", f"{by}: the fastest MatMul on one thread, so the peak is no lower"),
        ("call_overhead", round(made.call_us, 2), "us", f"{by}: a graph of one op on four numbers"),
    ]  # fmt: skip
    lines = [f"id = {_quoted(device)}", f"name = {_quoted(board)}", f'updated = "{today}"']
    for name, value, unit, source in facts:
        lines += ["", f"[facts.{name}]", f"value = {_quoted(value) if isinstance(value, str) else value}"]
        lines += [f"unit = {_quoted(unit)}"] * bool(unit) + [f"source = {_quoted(source)}"]
    off = [abs(predicted / ms - 1) for _, _, ms, predicted in made.errors]
    check = f"off by {np.mean(off):.0%} on average, {max(off):.0%} at most, on {len(off)} checks with networks that were not fitted"
    lines += ["", "# ns per MAC, element or op, by term of work and number of threads.", "[measured]"]
    spread = ", ".join(f"{threads} = {value:.3f}" for threads, value in made.spread.items())
    lines += [f"spread = {{ {spread} }}", f"source = {_quoted(f'{by}; {check}')}"]
    for threads, rates in made.ns.items():
        lines += ["", f"[measured.threads.{threads}]", *(f"{term} = {value!r}" for term, value in rates.items())]
    return "\n".join([*lines, ""])


def _clock(cpuinfo: str) -> float:
    most = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    if most.isdigit():
        return round(int(most) / 1e6, 3)
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)
    return round(float(found[1]) / 1e3, 3) if found else 1.0


def _caches() -> list[tuple[str, int, str, str]]:
    found = []
    for place in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(str(place / name)).strip() for name in ("level", "type", "size"))
        name = {"1Data": "l1_data", "2Unified": "l2", "3Unified": "l3"}.get(level + kind)
        if name and size.endswith("K"):
            found.append((name, int(size[:-1]), "KiB", f"{place}"))
    return found


def _quoted(text: str) -> str:
    return '"' + "".join(c for c in text if c.isprintable()).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
