"""The rates of the machine this runs on, from measurements with onnxruntime: in a minute or two, no onnx, no torch.

Small graphs of an op or a few tell the nanoseconds per unit of every term of work, for one thread and for all; whole
networks and gradient steps that the fit does not see tell how far it is off.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gems_edge.calibrate.counting import graph_work
from gems_edge.calibrate.graph import Graph
from gems_edge.calibrate.onnx_bytes import model_bytes
from gems_edge.calibrate.probe_sets import one_op_probes, whole_networks
from gems_edge.control_groups import available_cores
from gems_edge.device.host import memory_mib
from gems_edge.predict.work import TERMS, Work

# Medians of the rates' log-normal priors, ns per unit on a core of some GFLOP/s. The priors (standard deviation SPREAD)
# decide only what the probes leave open.
MIDDLE = dict.fromkeys(TERMS, 0.2) | dict.fromkeys(
    (
        "conv_maps", "conv3x3_maps", "conv_weights", "conv3x3_weights", "gemm_weights", "elementwise", "columns",
        "matmul_maps", "selected", "resized", "sums", "far",
    ),
    0.5,
)  # fmt: skip
MIDDLE |= {
    "ops": 2000.0,
    "views": 1000.0,
    "setups": 2000.0,
    "rows": 20.0,
    "byte_windows": 5.0,
    "matrices": 300.0,
    "spans": 15.0,
    "late_ops": 1000.0,
}
SPREAD = 2.0
# A probe's time is trusted to this share.
NOISE = 0.05
# A probe is timed so many times, with all the others between, so that no passing load spoils its every time.
ROUNDS = 5
SECONDS = 0.04  # per probe, number of threads and round
LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class Check:
    """A network that the fit did not see."""

    network: str
    threads: int
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """Of the prediction, relative."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Calibration:
    ns: dict[int, dict[str, float]]  # by threads and term
    call_us: float
    checks: list[Check]
    spread: dict[int, float]  # by threads
    gemm_gflops: float  # fastest product, one thread
    copy_gbs: float  # one core


def calibrate(on_stage: Callable[[str], None]) -> Calibration:
    """Measure this machine; `on_stage` is called with the name of each stage. MachineError if memory runs out."""
    probes, networks = one_op_probes(), whole_networks()
    works = {graph.name: graph_work(graph) for graph in probes + networks}
    rates: dict[int, dict[str, float]] = {}
    times: dict[int, dict[str, float]] = {}
    for threads in sorted({1, available_cores()}):
        title = f"{threads} thread" + ("s" if threads > 1 else "")
        times[threads] = _rounds(probes + networks, threads, title, on_stage)
        rates[threads] = _fit_probes([probe.name for probe in probes], works, times[threads])
    call_us = 1e3 * times[1]["call"]
    checks = [
        Check(network.name, threads, times[threads][network.name],
              call_us / 1e3 + sum(n * rates[threads][term] for term, n in works[network.name].items()) / 1e6)
        for threads in rates
        for network in networks
    ]  # fmt: skip
    products = (works[probe.name].get("matmul", 0) / times[1][probe.name] for probe in probes)
    on_stage("memory")
    spread = {threads: _spread([check for check in checks if check.threads == threads]) for threads in rates}
    return Calibration(rates, call_us, checks, spread, 2 * max(products) / 1e6, copy_rate())


def _rounds(graphs: Sequence[Graph], threads: int, title: str, on_stage: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds of each graph by its name: the median of the rounds."""
    taken: dict[str, list[float]] = {graph.name: [] for graph in graphs}
    for number in range(ROUNDS):
        on_stage(f"{title}: round {number + 1} of {ROUNDS}")
        for graph in graphs:
            taken[graph.name].append(run_ms(graph, threads))
    return {name: float(np.median(times)) for name, times in taken.items()}


def run_ms(graph: Graph, threads: int) -> float:
    """One thread's time is processor time, which other programs can hardly lengthen, and the median of the calls, as
    `bench` gives it. Several threads' is the clock's, and the least: what else runs only ever adds to that."""
    from gems_edge.device.runtime import Session

    session = Session(model_bytes(graph), f"the probe {graph.name}", threads=threads)
    outputs, feeds = [graph.output], graph.random_feeds()
    clock = time.thread_time if threads == 1 else time.perf_counter
    session.run(outputs, feeds)
    taken: list[float] = []
    deadline = time.perf_counter() + SECONDS
    while len(taken) < 3 or time.perf_counter() < deadline:
        start = clock()
        session.run(outputs, feeds)
        taken.append(clock() - start)
    return 1e3 * float(np.median(taken) if threads == 1 else min(taken))


def _fit_probes(names: Sequence[str], works: Mapping[str, Work], times: Mapping[str, float]) -> dict[str, float]:
    """The rates that explain the probes' times beyond a call's."""
    names = [name for name in names if name != "call"]
    ms = np.array([max(1e-4, times[name] - times["call"]) for name in names])
    return fit([works[name] for name in names], ms)


def fit(works: Sequence[Work], ms: npt.NDArray[np.float64]) -> dict[str, float]:
    """ns per unit by term, all positive: the most probable ones, by Gauss-Newton in logarithms. Errors are relative."""
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


def _spread(checks: Sequence[Check]) -> float:
    """What 9 of 10 checks lie within, as the logarithm of a factor, and a tenth more."""
    distances = [abs(math.log(check.predicted_ms / check.measured_ms)) for check in checks]
    return max(LEAST_SPREAD, 1.1 * float(np.quantile(distances, 0.9)))


def copy_rate() -> float:
    """GB/s that one core copies: the best of some copies of 64 MB (16 on small machines)."""
    size = (64 if memory_mib("MemAvailable") > 512 else 16) << 20
    source, target, best = np.ones(size, np.uint8), np.empty(size, np.uint8), math.inf
    for _ in range(8):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return size / best / 1e9
