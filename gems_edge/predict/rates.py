"""Cycles per unit of work by core type, precision, threads and board: device_profiles/latency.toml, read. Plain Python.

The file is written by tools/fit_latency.py from published latencies. cycles = cores[core][term] · threads^exponent ·
precision factor · the board's own factor, where a factor that is not known is 1; time = amount · cycles / clock.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from gems_edge.errors import UserError
from gems_edge.predict.work import MEASURED_TERMS, TERMS

FILE = "latency.toml"
_COUNT = re.compile("[1-9][0-9]{0,3}")  # of threads
Constants = dict[str, Any]  # the file's content


@dataclass(frozen=True)
class Rates:
    """Time per unit of one board's setting, and how far a prediction from it may be off."""

    ns: dict[str, float]  # per unit, by term; MEASURED_TERMS, and further ones where they were measured
    spread: float  # a latency lies within a factor of exp(±spread), 9 times of 10
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
        counts = sorted(self.ns)
        below = max((count for count in counts if count <= threads), default=counts[0])
        above = min((count for count in counts if count >= threads), default=counts[-1])
        fewer, more = self._fastest(below), self._fastest(above)
        share = 0.0 if above == below else math.log(threads / below) / math.log(above / below)
        ns = {
            term: fewer[term] ** (1 - share) * more[term] ** share if fewer[term] and more[term] else fewer[term]
            for term in fewer
        }
        return Rates(ns, max(self.spread[below], self.spread[above]), self.source, measured=True)

    def _fastest(self, threads: int) -> dict[str, float]:
        """The least time of each term on so many threads or fewer."""
        counts = [count for count in sorted(self.ns) if count <= threads]
        return {term: min(self.ns[count][term] for count in counts) for term in self.ns[threads]}


def measured_of(where: str, table: Any) -> Measured:
    """The [measured] table of a profile: source, spread by N, and [measured.threads.N] with ns per unit of every term.

    UserError, naming `where`, for an incomplete table.
    """
    if not isinstance(table, dict) or not isinstance(table.get("source"), str) or not table["source"].strip():
        raise UserError(f"{where}: [measured] needs a source: what was measured, with what, when")
    spread, threads = table.get("spread"), table.get("threads")
    if not isinstance(threads, dict) or "1" not in threads or not all(map(_COUNT.fullmatch, threads)):
        raise UserError(f"{where}: [measured.threads.N] is missing; N are numbers of threads, 1 among them")
    spreads = spread if isinstance(spread, dict) else {}
    for count, rates in threads.items():
        if not _is_number(spreads.get(count)) or not 0 < spreads[count] < 3:
            raise UserError(
                f"{where}: [measured] spread must have a number between 0 and 3 for {count} threads, "
                f"not {spreads.get(count)!r}"
            )
        if not isinstance(rates, dict):
            raise UserError(f"{where}: [measured.threads.{count}] must be a table of ns per unit")
        if set(rates) != set(TERMS):
            term = sorted(set(rates) ^ set(TERMS))[0]
            raise UserError(f"{where}: [measured.threads.{count}] must hold every term of work once; see {term!r}")
        for term, value in rates.items():
            if not _is_number(value) or not 0 <= value < 1e9:
                raise UserError(f"{where}: [measured.threads.{count}] {term} must be ns per unit, not {value!r}")
    ns = {int(count): dict(rates) for count, rates in threads.items()}
    return Measured(ns, {int(count): float(spreads[count]) for count in threads}, table["source"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def constants() -> Constants:
    text = (resources.files("gems_edge.device_profiles") / FILE).read_text(encoding="utf-8")
    return tomllib.loads(text)


def published_rates(
    board: str, core: str, clock: float, precision: str, threads: int, fitted: Constants | None = None
) -> Rates:
    """Rates of ncnn on a board with `core` (e.g. Cortex-A72) at `clock` GHz.

    A board whose id or core has no rows gets the average core's, with the interval of boards that were left out.
    `fitted`: constants to use instead of the file's.
    """
    fitted = constants() if fitted is None else fitted
    board_fit = fitted["boards"].get(board, {})
    name = core.replace("Cortex-", "").split()[0].rstrip(",")
    cores = fitted["cores"]
    base = cores.get(name) or {term: _mean(cores, term) for term in MEASURED_TERMS}
    log_threads, of_precision = math.log(threads), fitted["precision"].get(precision, {})
    setting = board_fit.get("settings", {}).get(f"{precision}-{threads}", 1.0)
    ns = {}
    for term in MEASURED_TERMS:
        exponent = fitted["threads"][term] + board_fit.get("threads", 0.0)
        cycles = base[term] * of_precision.get(term, 1.0) * board_fit.get("factor", {}).get(term, 1.0) * setting
        ns[term] = cycles * math.exp(exponent * log_threads) / clock
    by_board, by_core = precision in board_fit.get("precisions", ()), name in cores
    left_out = "board" if by_board else "core" if by_core else "no"
    spread = fitted["spread"][left_out + suffix_of(precision)]
    if by_board:
        source = f"fitted to {board_fit['rows']} published ncnn rows of this board ({fitted['provenance']['date']})"
    elif board_fit:
        others = " or ".join(board_fit["precisions"])
        source = f"not calibrated at {precision}: this board's {board_fit['rows']} published ncnn rows are all {others}"
    elif by_core:
        source = (
            f"not calibrated on the board: published ncnn rows of other boards with {core}, scaled to {clock:g} GHz"
        )
    else:
        source = f"not calibrated: no published row of a {core}; the average of {', '.join(cores)} at {clock:g} GHz"
    return Rates(ns, spread, source)


def suffix_of(precision: str) -> str:
    """What the file adds to the names of spreads of rows at this precision."""
    return "" if precision == "fp32" else f"_{precision}"


def _mean(cores: dict[str, dict[str, float]], term: str) -> float:
    """The geometric mean of all cores."""
    return math.exp(sum(math.log(core[term]) for core in cores.values()) / len(cores))
