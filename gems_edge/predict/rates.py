"""Cycles per unit of work by core type, precision, threads and board: device_profiles/latency.toml, read. Plain Python.

The file is written by tools/fit_latency.py from published latencies. cycles = cores[core][term] · threads^exponent ·
precision factor · the board's own factor, each left out (1) where nothing is known; time = amount · cycles / clock.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from gems_edge.errors import UserError
from gems_edge.predict.work import MEASURED_TERMS, TERMS

FILE = "latency.toml"


@dataclass(frozen=True)
class Rates:
    """Time per unit of one board's setting, and how far a prediction from it may be off."""

    ns: dict[str, float]  # per unit, by term; MEASURED_TERMS, and further ones where they were measured
    spread: float  # a published latency lies within a factor of exp(±spread), 9 times of 10
    calibrated: bool  # rows or measurements of this very board stand behind it
    source: str
    measured: bool = False  # by `devices calibrate`, with onnxruntime


@dataclass(frozen=True)
class Measured:
    """What `devices calibrate` measured on the board itself: ns per unit by threads and term."""

    ns: dict[int, dict[str, float]]
    spread: dict[int, float]  # by threads
    source: str

    def at(self, threads: int) -> Rates:
        """Rates for a number of threads: a power law between the measured ones, and beyond the last no gain.

        No term is slower with more threads: onnxruntime runs what does not gain from them on one.
        """
        known = sorted(self.ns)
        below = max((t for t in known if t <= threads), default=known[0])
        above = min((t for t in known if t >= threads), default=known[-1])
        low, high = (
            {term: min(self.ns[t][term] for t in known if t <= count) for term in self.ns[count]}
            for count in (below, above)
        )
        share = 0.0 if above == below else math.log(threads / below) / math.log(above / below)
        ns = {
            term: low[term] ** (1 - share) * high[term] ** share if low[term] and high[term] else low[term]
            for term in low
        }
        return Rates(ns, max(self.spread[below], self.spread[above]), True, self.source, True)


def measured_of(where: str, table: Any) -> Measured:
    """The [measured] table of a profile: source, spread by N and [measured.threads.N] with ns per unit of every term."""
    if not isinstance(table, dict) or not isinstance(table.get("source"), str) or not table["source"].strip():
        raise UserError(f"{where}: [measured] needs a source: what was measured, with what, when")
    spread, threads = table.get("spread"), table.get("threads")
    if not isinstance(threads, dict) or "1" not in threads or not all(count.isdigit() for count in threads):
        raise UserError(f"{where}: [measured.threads.N] is missing; N are numbers of threads, 1 among them")
    for count, rates in threads.items():
        width = spread.get(count) if isinstance(spread, dict) else None
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < 3:
            raise UserError(
                f"{where}: [measured] spread must have a number between 0 and 3 for {count} threads, not {width!r}"
            )
        if set(rates) != set(TERMS):
            odd = sorted(set(rates) ^ set(TERMS))[0]
            raise UserError(f"{where}: [measured.threads.{count}] must hold every term of work once; see {odd!r}")
        for term, value in rates.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise UserError(f"{where}: [measured.threads.{count}] {term} must be ns per unit, not {value!r}")
    ns = {int(count): dict(rates) for count, rates in threads.items()}
    return Measured(ns, {int(count): float(spread[count]) for count in threads}, table["source"])


@cache
def constants() -> dict[str, Any]:
    text = (resources.files("gems_edge.device_profiles") / FILE).read_text(encoding="utf-8")
    return tomllib.loads(text)


def known_cores() -> tuple[str, ...]:
    return tuple(constants()["cores"])


def published_rates(
    board: str, core: str, clock: float, precision: str, threads: int, given: dict | None = None
) -> Rates:
    """Rates of ncnn on a board with `core` (e.g. Cortex-A72) at `clock` GHz.

    A board whose id or core has no rows gets the average core's, with the interval of boards that were left out.
    `given`: constants to use instead of the file's (tools/fit_latency.py tries its own before it writes them).
    """
    known = constants() if given is None else given
    own = known["boards"].get(board, {})
    name = core.replace("Cortex-", "").split()[0].rstrip(",")
    cores = known["cores"]
    base = cores.get(name) or {term: _middle(cores, term) for term in MEASURED_TERMS}
    many, kind = math.log(threads), known["precision"].get(precision, {})
    setting = own.get("settings", {}).get(f"{precision}-{threads}", 1.0)
    ns = {}
    for term in MEASURED_TERMS:
        exponent = known["threads"][term] + own.get("threads", 0.0)
        cycles = base[term] * kind.get(term, 1.0) * own.get("factor", {}).get(term, 1.0) * setting
        ns[term] = cycles * math.exp(exponent * many) / clock
    seen = precision in own.get("precisions", ())
    where = "board" if seen else "core" if name in cores else "no"
    spread = known["spread"][f"{where}_int8" if precision == "int8" else f"{where}"]
    if seen:
        source = f"fitted to {own['rows']} published ncnn rows of this board ({known['provenance']['date']})"
    elif own:
        others = " or ".join(own["precisions"])
        source = f"not calibrated at {precision}: this board's {own['rows']} published ncnn rows are all {others}"
    elif name in cores:
        source = (
            f"not calibrated on the board: published ncnn rows of other boards with {core}, scaled to {clock:g} GHz"
        )
    else:
        source = f"not calibrated: no published row of a {core}; the average of {', '.join(cores)} at {clock:g} GHz"
    return Rates(ns, spread, seen, source)


def _middle(cores: dict[str, dict[str, float]], term: str) -> float:
    return math.exp(sum(math.log(core[term]) for core in cores.values()) / len(cores))
