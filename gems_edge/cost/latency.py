"""How long a graph takes on a board, predicted, with an interval and where it comes from. Plain Python, no onnx.

A graph is amounts of work by term (`work` in GRAPHCOST, work.py), a board is nanoseconds per unit of each. These come
from the profile itself where `devices calibrate` measured them with onnxruntime on the board, else from ncnn's published
latencies (rates.py), turned into onnxruntime's by its family's factor: onnxruntime's kernels on Arm are slower than ncnn's, and
have no Winograd, so a 3×3 convolution costs what its multiplications cost in a 1×1 one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gems_edge.cost.profiles import DeviceProfile
from gems_edge.cost.rates import Rates, constants, published_rates
from gems_edge.cost.work import MEASURED_TERMS, TERMS, work_of_ops
from gems_edge.errors import UserError

RUNTIMES = ("onnxruntime", "ncnn", "xnnpack", "tengine")
PRECISIONS = ("fp32", "fp16", "int8")
# What the ops of gradient steps cost, as multiples of a measured term's rate: (term, lowest, typical, highest). A
# convolution whose weight is fed is not packed ahead, a transposed one and a product of two maps run the same inner
# kernels over other layouts; measured on x86 (tests of the notes' ratios), so wide.
DERIVED = {
    "fed": ("conv1x1", 0.9, 1.25, 2.2),
    "matmul": ("conv1x1", 0.7, 1.1, 2.0),
    "transposed": ("conv1x1", 0.9, 1.3, 2.5),
    "moved": ("elementwise", 0.4, 1.0, 2.5),
}
# A network of few, tiny ops is beyond the published ones: their fixed time per op holds layers of some MMACs.
OPS = (0.15, 1.0, 1.3)
# Every op that the model does not know may take as long as the graph's mean op, times this at most.
UNKNOWN = 5.0
# How far work that is guessed from an older bundle's `ops` may be off.
OLD = 1.5


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run."""

    ms: float
    low_ms: float
    high_ms: float
    source: str
    calibrated: bool  # whether the board itself was measured, with any runtime

    def as_dict(self) -> dict[str, Any]:
        return {"ms": self.ms, "low_ms": self.low_ms, "high_ms": self.high_ms, "source": self.source}


def latency(
    graph_cost: Mapping[str, Any],
    profile: DeviceProfile,
    threads: int | None = None,
    *,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    given: dict[str, Any] | None = None,
) -> Latency:
    """Time of one run of a graph (a GRAPHCOST) on a board; `threads` defaults to all its (big) cores.

    `precision` int8 is for a quantised graph, given the cost of the fp32 graph that it was made from. The interval is
    meant to hold 9 of 10 graphs; see `gems-edge devices show` for a board's calibration.
    A bundle from before `work` was counted is predicted from its `ops`, with a wider interval.
    Raises UserError for more threads than cores, a board without onnxruntime, and unknown runtimes and precisions.
    """
    threads = _checked(profile, threads, runtime, precision)
    rates, family = _rates(profile, threads, runtime, precision, given)
    work = graph_cost["work"] if "work" in graph_cost else work_of_ops(graph_cost["ops"])
    bounds = [0.0, 0.0, 0.0]
    derived = 0.0
    for term, amount in work.items():
        if term not in TERMS:
            raise UserError(
                f"this bundle counts work in {term!r}, which this gems-edge does not know; update gems-edge"
            )
        factors, ns = _factors(term, rates, runtime)
        derived += amount * ns * factors[1] * (term not in MEASURED_TERMS and term not in rates.ns)
        for end in range(3):
            bounds[end] += amount * ns * factors[end] / 1e6
    call = _call(profile) if runtime == "onnxruntime" else (0.0, 0.0, 0.0)
    low, ms, high = (bound * factor + extra for bound, factor, extra in zip(bounds, family, call))
    low, high = low * math.exp(-rates.spread), high * math.exp(rates.spread)
    notes = [rates.source]
    if "work" not in graph_cost:
        low, high = low / OLD, high * OLD
        notes.append("counted by an older gems-edge: export again for a narrower interval")
    if bounds[1] and derived / 1e6 > 0.05 * bounds[1]:
        notes.append(f"{derived / 1e4 / bounds[1]:.0f} % in ops that no published row holds, hence the wider interval")
    if unknown := graph_cost.get("unknown"):
        count = sum(unknown.values())
        high += UNKNOWN * count * ms / max(1.0, work.get("ops", 1.0))
        notes.append(f"{count} ops unknown and not counted ({', '.join(unknown)}), hence a high upper end")
    return Latency(ms, low, high, "; ".join(notes), rates.calibrated)


def predict_latency(
    graph_cost: Mapping[str, Any], profile: DeviceProfile, threads: int | None = None, **options: Any
) -> dict[str, Any]:
    """`latency` as a dictionary: {"ms", "low_ms", "high_ms", "source"}."""
    return latency(graph_cost, profile, threads, **options).as_dict()


def _checked(profile: DeviceProfile, threads: int | None, runtime: str, precision: str) -> int:
    if profile.memory_only:
        raise UserError(f"{profile.name}: no onnxruntime here, so there is no time to predict; {profile.memory_only}")
    cores = profile["cores"]
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise UserError(f"{profile.name} has {cores} cores; threads must be 1 to {cores}, not {threads}")
    if runtime not in RUNTIMES:
        raise UserError(f"unknown runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    return threads


def _rates(profile, threads, runtime, precision, given) -> tuple[Rates, tuple[float, float, float]]:
    """The board's rates for a runtime, and that runtime's (lowest, typical, highest) factor on top."""
    if profile.measured and runtime == "onnxruntime" and precision != "fp16":
        measured = profile.measured.at(threads)
        if precision == "fp32":
            return measured, (1.0, 1.0, 1.0)
        factor = _int8(given)
        return measured, (factor * 0.5, factor, factor * 2.0)
    if runtime == "onnxruntime" and precision == "fp16":
        raise UserError("onnxruntime has no fp16 kernels for processors; ask for fp32 or int8")
    rates = published_rates(profile.id, profile["core"], profile["clock"], precision, threads, given)
    if runtime == "ncnn":
        return rates, (1.0, 1.0, 1.0)
    family = (constants() if given is None else given)["families"][runtime]
    ns = dict(rates.ns)
    if "conv3x3_over_conv1x1" in family:
        ns["conv3x3"] = max(ns["conv1x1"] * family["conv3x3_over_conv1x1"], ns["conv3x3"])
        ns["conv3x3_maps"], ns["conv3x3_weights"] = ns["conv_maps"], ns["conv_weights"]
    source = (
        f"{runtime} taken as {family['typical']:.2g} times ncnn ({family['lowest']:.2g} to {family['highest']:.2g})"
    )
    factors = family["lowest"], family["typical"], family["highest"]
    return Rates(ns, rates.spread, rates.calibrated, f"{rates.source}; {source}"), factors


def _int8(given) -> float:
    """What int8 takes over fp32: the published rows' typical ratio for a 1×1 convolution."""
    return (constants() if given is None else given)["precision"]["int8"]["conv1x1"]


def _factors(term: str, rates: Rates, runtime: str) -> tuple[tuple[float, float, float], float]:
    """(lowest, typical, highest) factors of a term, and the ns per unit that they multiply."""
    if term in rates.ns:
        unsure = term == "ops" and runtime == "onnxruntime" and not rates.measured
        return OPS if unsure else (1.0, 1.0, 1.0), rates.ns[term]
    base, *factors = DERIVED[term]
    return tuple(factors), rates.ns[base]


def _call(profile: DeviceProfile) -> tuple[float, float, float]:
    """ms that a call from Python takes beside its ops: an estimate unless it was measured."""
    ms = profile["call_overhead"] / 1e3
    return (ms, ms, ms) if profile.measured else (ms / 3, ms, 3 * ms)
