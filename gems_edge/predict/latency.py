"""How long a graph takes on a board, predicted, with an interval and where it comes from. Plain Python, no onnx.

A graph is amounts of work by term (`work` in GRAPHCOST, work.py), a board is nanoseconds per unit of each. These come
from the profile itself where `devices calibrate` measured them with onnxruntime on the board, else from ncnn's published
latencies (rates.py), turned into onnxruntime's by its family's factor: onnxruntime's kernels on Arm are slower than ncnn's, and
have no Winograd, so a 3×3 convolution costs what its multiplications cost in a 1×1 one.
"""

import math
from collections.abc import Mapping
from typing import Any

from gems_edge.errors import UserError
from gems_edge.predict.prediction import Prediction
from gems_edge.predict.profiles import DeviceProfile
from gems_edge.predict.rates import Rates, constants, published_rates
from gems_edge.predict.work import TERMS, work_of_ops

RUNTIMES = ("onnxruntime", "ncnn", "xnnpack", "tengine")
PRECISIONS = ("fp32", "fp16", "int8")
# What gradient steps do beside the published networks, on boards that were not measured: as multiples of what a published
# term's unit takes, or in cycles where the kernel goes element by element or calls something for each: (base, lowest,
# typical, highest). From what `devices calibrate` finds on x86 (Sapphire Rapids, onnxruntime 1.31.1; its own ratio behind
# each), lowered where x86's vectors or its caches are what makes the base so fast; nobody has measured them on Arm.
CYCLES = "cycles"
DERIVED = {
    "fed": ("conv1x1", 0.9, 1.4, 2.4),  # 1.7 to 2.3: x86 has kernels for packed weights that Arm does not have
    "columns": ("elementwise", 1.0, 2.0, 4.5),  # 3.9 to 6
    "matmul": ("conv1x1", 0.7, 1.1, 1.7),  # 1.0 to 1.2
    "matmul_maps": ("elementwise", 0.5, 1.5, 3.0),  # 1.2 to 3
    "transposed": ("conv1x1", 0.9, 1.6, 2.6),  # 1.6 to 2.5
    "selected": ("elementwise", 1.0, 2.0, 4.0),  # 2.5 to 3.5
    "resized": ("elementwise", 1.0, 2.0, 4.0),  # 2 to 3
    "windows": ("elementwise", 0.7, 1.5, 4.0),  # 1.6 to 4
    "far": ("elementwise", 0.1, 0.4, 1.5),  # 0.5 to 1.5; small boards' published rates have most of it in them
    "rows": (CYCLES, 13.0, 35.0, 80.0),  # 13 to 21
    "sums": (CYCLES, 8.0, 20.0, 50.0),  # 8 to 12
    "byte_windows": (CYCLES, 15.0, 35.0, 70.0),  # 16 to 19
    "views": (CYCLES, 600.0, 3000.0, 9000.0),  # 600 to 1900
    "setups": (CYCLES, 3000.0, 9000.0, 25000.0),  # 4600 to 6100
}
# What other runtimes' published rows have in their other terms.
ONLY_ONNXRUNTIME = frozenset({"far", "rows", "setups", "sums", "views", "windows"})
# How times in cycles shrink with threads: as those of published elementwise ops do.
SCALING = 0.6
# A network of few, tiny ops is beyond the published ones: their fixed time per op holds layers of some MMACs.
OPS = (0.15, 1.0, 1.3)
# Every op that the model does not know may take as long as the graph's mean op, times this at most.
UNKNOWN = 5.0
# How far work that is guessed from an older bundle's `ops` may be off.
OLD = 1.5


def latency(
    graph_cost: Mapping[str, Any],
    profile: DeviceProfile,
    threads: int | None = None,
    *,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    given: dict[str, Any] | None = None,
) -> Prediction:
    """Time of one run of a graph (a GRAPHCOST) on a board; `threads` defaults to all its (big) cores.

    `precision` int8 is for a quantised graph, given its own cost or that of the fp32 graph that it was made from: both
    count the same work. The interval is meant to hold 9 of 10 graphs; see `gems-edge devices show` for a board's calibration.
    A bundle from before `work` was counted is predicted from its `ops`, with a wider interval.
    Raises UserError for more threads than cores, a board without onnxruntime, and unknown runtimes and precisions.
    """
    threads = _checked(profile, threads, runtime, precision)
    work = graph_cost["work"] if "work" in graph_cost else work_of_ops(graph_cost["ops"])
    if odd := [term for term in work if term not in TERMS]:
        raise UserError(f"this bundle counts work in {odd[0]!r}, which this gems-edge does not know; update gems-edge")
    # Threads that are there need not be used: more of them are never slower.
    made = [_with_threads(work, profile, count, runtime, precision, given) for count in range(1, threads + 1)]
    ms, low, high, rates, derived = min(made, key=lambda one: one[0])
    notes = [rates.source]
    if "work" not in graph_cost:
        low, high = low / OLD, high * OLD
        notes.append("counted by an older gems-edge: export again for a narrower interval")
    if derived > 0.05:
        notes.append(f"{100 * derived:.0f} % in ops that no published row holds, hence the wider interval")
    if unknown := graph_cost.get("unknown"):
        count = sum(unknown.values())
        high += UNKNOWN * count * ms / max(1.0, work.get("ops", 1.0))
        notes.append(f"{count} ops unknown and not counted ({', '.join(unknown)}), hence a high upper end")
    return Prediction(ms, low, high, "ms", "; ".join(notes))


def _with_threads(
    work, profile, threads: int, runtime: str, precision: str, given
) -> tuple[float, float, float, Rates, float]:
    """(ms, lowest, highest, rates, share of terms that were neither published nor measured).

    What is uncertain of single terms, of the board's rates and of the runtime's factor is taken to be independent: it
    adds up as squares do.
    """
    rates, (least, typical, most) = _rates(profile, threads, runtime, precision, given)
    clock = profile["clock"]
    total = sure_less = derived = below = above = 0.0
    for term, amount in work.items():
        (low, middle, high), ns = _factors(term, rates, runtime, clock, threads)
        in_cycles = term not in rates.ns and DERIVED[term][0] == CYCLES  # onnxruntime's own: no factor of its family
        ms = amount * ns / 1e6 * (1.0 if in_cycles else typical)
        total += ms * middle
        if term in DERIVED:
            derived += ms * middle * (term not in rates.ns)
            below += (ms * (middle - low)) ** 2
        else:
            sure_less += ms * (middle - low)
        above += (ms * (high - middle)) ** 2
    fewest = total - sure_less - math.sqrt(below)
    shrink = math.exp(-math.hypot(rates.spread, math.log(typical / least)))
    grow = math.exp(math.hypot(rates.spread, math.log(most / typical)))
    call = _call(profile) if runtime == "onnxruntime" else (0.0, 0.0, 0.0)
    return (
        total + call[1],
        fewest * shrink + call[0],
        total + math.hypot(total * (grow - 1), math.sqrt(above)) + call[2],
        rates,
        derived / total if total else 0.0,
    )


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


def _factors(
    term: str, rates: Rates, runtime: str, clock: float, threads: int
) -> tuple[tuple[float, float, float], float]:
    """(lowest, typical, highest) factors of a term, and the ns per unit that they multiply."""
    if term in rates.ns:
        unsure = term == "ops" and runtime == "onnxruntime" and not rates.measured
        return OPS if unsure else (1.0, 1.0, 1.0), rates.ns[term]
    if runtime != "onnxruntime" and term in ONLY_ONNXRUNTIME:
        return (0.0, 0.0, 0.0), 0.0
    base, *factors = DERIVED[term]
    return tuple(factors), 1 / clock / threads**SCALING if base == CYCLES else rates.ns[base]


def _call(profile: DeviceProfile) -> tuple[float, float, float]:
    """ms that a call from Python takes beside its ops: an estimate unless it was measured."""
    ms = profile["call_overhead"] / 1e3
    return (ms, ms, ms) if profile.measured else (ms / 3, ms, 3 * ms)
