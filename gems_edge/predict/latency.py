"""How long a graph takes on a board, predicted, with an interval and a source. Plain Python, no onnx.

A graph is amounts of work by term (`work` in GRAPHCOST, work.py), a board is nanoseconds per unit of each. These come
from the profile itself where `devices calibrate` measured them with onnxruntime on the board, else from ncnn's
published latencies (rates.py), turned into onnxruntime's by a factor of its family: onnxruntime's kernels on Arm are
slower than ncnn's, and have no Winograd, so a 3×3 convolution costs what its multiplications cost in a 1×1 one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gems_edge.errors import UserError
from gems_edge.predict.prediction import Prediction
from gems_edge.predict.profiles import DeviceProfile
from gems_edge.predict.rates import Constants, Rates, constants, published_rates
from gems_edge.predict.work import TERMS

RUNTIMES = ("onnxruntime", "ncnn", "xnnpack", "tengine")
PRECISIONS = ("fp32", "fp16", "int8")
# What gradient steps do beside the published networks, on boards that were not measured: as multiples of what a
# published term's unit takes, or in cycles where the kernel goes element by element or calls something for each: (base,
# lowest, typical, highest). From what `devices calibrate` finds on x86 (Sapphire Rapids, onnxruntime 1.31.1; its own
# ratio behind each), lowered where x86's vectors or its caches are what makes the base so fast (late_ops, matrices,
# spans and transposed: AMD EPYC, onnxruntime 1.32.0); nobody has measured them on Arm.
CYCLES = "cycles"
DERIVED = {
    "fed": ("conv1x1", 0.9, 1.4, 2.4),  # 1.7 to 2.3: x86 has kernels for packed weights that Arm does not have
    "columns": ("elementwise", 1.0, 2.0, 4.5),  # 3.9 to 6
    "matmul": ("conv1x1", 0.7, 1.1, 1.7),  # 1.0 to 1.2
    "matmul_maps": ("elementwise", 0.5, 1.5, 3.0),  # 1.2 to 3
    "transposed": ("conv1x1", 0.9, 1.3, 2.2),  # 1.2
    "selected": ("elementwise", 1.0, 2.0, 4.0),  # 2.5 to 3.5
    "resized": ("elementwise", 1.0, 2.0, 4.0),  # 2 to 3
    "windows": ("elementwise", 0.7, 1.5, 4.0),  # 1.6 to 4
    "far": ("elementwise", 0.1, 0.4, 1.5),  # 0.5 to 1.5; small boards' published rates have most of it in them
    "late_ops": (CYCLES, 1500.0, 4500.0, 12000.0),  # 3000 to 5300: their maps have left the caches, too
    "matrices": (CYCLES, 250.0, 700.0, 1800.0),  # 480 to 500
    "rows": (CYCLES, 13.0, 35.0, 80.0),  # 13 to 21
    "spans": (CYCLES, 15.0, 35.0, 80.0),  # 28 to 30
    "sums": (CYCLES, 8.0, 20.0, 50.0),  # 8 to 12
    "byte_windows": (CYCLES, 15.0, 35.0, 70.0),  # 16 to 19
    "views": (CYCLES, 600.0, 3000.0, 9000.0),  # 600 to 1900
    "setups": (CYCLES, 3000.0, 9000.0, 25000.0),  # 4600 to 6100
}
# What other runtimes' published rows have in their other terms.
ONLY_ONNXRUNTIME = frozenset({"far", "late_ops", "rows", "setups", "spans", "sums", "views", "windows"})
# How times in cycles shrink with threads: as those of published elementwise ops do.
SCALING = 0.6
# Every op that the model does not know may take as long as the graph's mean op, times this at most.
UNKNOWN = 5.0


class Factors(NamedTuple):
    """What a typical time is multiplied by, and the ends of its interval."""

    low: float
    typical: float
    high: float


EXACT = Factors(1.0, 1.0, 1.0)
# A network of few, tiny ops is beyond the published ones: their fixed time per op holds layers of some MMACs.
OPS = Factors(0.15, 1.0, 1.3)


@dataclass(frozen=True)
class _Setting:
    """Where and how a graph runs."""

    profile: DeviceProfile
    runtime: str
    precision: str
    fitted: Constants  # of published rows

    @property
    def on_onnxruntime(self) -> bool:
        return self.runtime == "onnxruntime"


@dataclass(frozen=True)
class _Estimate:
    """Milliseconds of one run on some number of threads."""

    ms: float
    low: float
    high: float
    rates: Rates
    derived: Mapping[str, float]  # the share of each term that was neither published nor measured


def latency(
    graph_cost: Mapping[str, Any],
    profile: DeviceProfile,
    threads: int | None = None,
    *,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    fitted: Constants | None = None,
) -> Prediction:
    """Milliseconds of one run of a graph (a GRAPHCOST) on a board; `threads` defaults to all its (big) cores.

    `precision` int8 is for a quantised graph, given its own cost or that of the fp32 graph that it was made from: both
    count the same work. The interval is meant to hold 9 of 10 graphs; `gems-edge devices show` tells a board's
    calibration. `fitted`: constants to use instead of the file's (tools/fit_latency.py tries its own first).
    Raises UserError for more threads than cores, a board without onnxruntime, and unknown runtimes and precisions.
    """
    threads = _checked(profile, threads, runtime, precision)
    work = graph_cost["work"]
    if unknown_terms := [term for term in work if term not in TERMS]:
        raise UserError(
            f"this bundle counts work in {unknown_terms[0]!r}, which this gems-edge does not know; update gems-edge"
        )
    setting = _Setting(profile, runtime, precision, constants() if fitted is None else fitted)
    # Threads that are there need not be used: more of them are never slower.
    best = min((_estimate(work, setting, count) for count in range(1, threads + 1)), key=lambda estimate: estimate.ms)
    high, notes = best.high, [best.rates.source]
    if (share := sum(best.derived.values())) > 0.05:
        most = sorted(best.derived, key=lambda term: -best.derived[term])[:3]
        notes.append(
            f"{100 * share:.0f} % in ops that no published row holds and nobody calibrated here, most of it in "
            f"{', '.join(most)}, hence the wider interval"
        )
    if unknown_ops := graph_cost.get("unknown"):
        count = sum(unknown_ops.values())
        high += UNKNOWN * count * best.ms / max(1.0, work.get("ops", 1.0))
        notes.append(f"{count} ops unknown and not counted ({', '.join(unknown_ops)}), hence a high upper end")
    return Prediction(best.ms, best.low, high, "ms", "; ".join(notes))


def _checked(profile: DeviceProfile, threads: int | None, runtime: str, precision: str) -> int:
    """The number of threads. UserError for what cannot be predicted."""
    if profile.memory_only:
        raise UserError(f"{profile.name}: no onnxruntime here, so there is no time to predict; {profile.memory_only}")
    cores: int = profile["cores"]
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise UserError(f"{profile.name} has {cores} cores; threads must be 1 to {cores}, not {threads}")
    if runtime not in RUNTIMES:
        raise UserError(f"unknown runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    return threads


def _estimate(work: Mapping[str, float], setting: _Setting, threads: int) -> _Estimate:
    """The time on exactly `threads` threads.

    What is uncertain of single terms, of the board's rates and of the runtime's factor is taken to be independent: it
    adds up as squares do.
    """
    rates, family = _rates(setting, threads)
    total = published_below = derived_below = above = 0.0
    derived: dict[str, float] = {}
    for term, amount in work.items():
        ns, factors = _term(term, rates, setting, threads)
        # Times in cycles are onnxruntime's own: its family's factor is not for them.
        in_cycles = term not in rates.ns and DERIVED[term][0] == CYCLES
        ms = amount * ns / 1e6 * (1.0 if in_cycles else family.typical)
        total += ms * factors.typical
        if term in DERIVED:
            if term not in rates.ns:
                derived[term] = ms * factors.typical
            derived_below += (ms * (factors.typical - factors.low)) ** 2
        else:
            published_below += ms * (factors.typical - factors.low)
        above += (ms * (factors.high - factors.typical)) ** 2
    fewest = total - published_below - math.sqrt(derived_below)
    shrink = math.exp(-math.hypot(rates.spread, math.log(family.typical / family.low)))
    grow = math.exp(math.hypot(rates.spread, math.log(family.high / family.typical)))
    call = _call(setting.profile) if setting.on_onnxruntime else Factors(0.0, 0.0, 0.0)
    return _Estimate(
        total + call.typical,
        fewest * shrink + call.low,
        total + math.hypot(total * (grow - 1), math.sqrt(above)) + call.high,
        rates,
        {term: ms / total for term, ms in derived.items()} if total else {},
    )


def _rates(setting: _Setting, threads: int) -> tuple[Rates, Factors]:
    """The board's rates for a runtime, and that runtime's factors on top."""
    profile, runtime, precision, fitted = setting.profile, setting.runtime, setting.precision, setting.fitted
    if profile.measured and setting.on_onnxruntime and precision != "fp16":
        measured = profile.measured.at(threads)
        if precision == "fp32":
            return measured, EXACT
        factor = fitted["precision"]["int8"]["conv1x1"]  # int8 over fp32: the published rows' of a 1×1 convolution
        return measured, Factors(factor * 0.5, factor, factor * 2.0)
    if setting.on_onnxruntime and precision == "fp16":
        raise UserError("onnxruntime has no fp16 kernels for processors; ask for fp32 or int8")
    rates = published_rates(profile.id, profile["core"], profile["clock"], precision, threads, fitted)
    if runtime == "ncnn":
        return rates, EXACT
    family = fitted["families"][runtime]
    ns = dict(rates.ns)
    if "conv3x3_over_conv1x1" in family:
        ns["conv3x3"] = max(ns["conv1x1"] * family["conv3x3_over_conv1x1"], ns["conv3x3"])
        ns["conv3x3_maps"], ns["conv3x3_weights"] = ns["conv_maps"], ns["conv_weights"]
    factors = Factors(family["lowest"], family["typical"], family["highest"])
    source = f"{runtime} taken as {factors.typical:.2g} times ncnn ({factors.low:.2g} to {factors.high:.2g})"
    return Rates(ns, rates.spread, f"{rates.source}; {source}"), factors


def _term(term: str, rates: Rates, setting: _Setting, threads: int) -> tuple[float, Factors]:
    """ns per unit of a term, and the factors on it."""
    if term in rates.ns:
        uncertain = term == "ops" and setting.on_onnxruntime and not rates.measured
        return rates.ns[term], OPS if uncertain else EXACT
    if not setting.on_onnxruntime and term in ONLY_ONNXRUNTIME:
        return 0.0, Factors(0.0, 0.0, 0.0)
    base, *factors = DERIVED[term]
    ns = 1 / setting.profile["clock"] / threads**SCALING if base == CYCLES else rates.ns[base]
    return ns, Factors(*factors)


def _call(profile: DeviceProfile) -> Factors:
    """ms that a call from Python takes beside its ops: an estimate unless it was measured."""
    ms = profile["call_overhead"] / 1e3
    return Factors(ms, ms, ms) if profile.measured else Factors(ms / 3, ms, 3 * ms)
