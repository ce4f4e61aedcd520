"""Whether a number holds what a claim says: bounds, verdicts and their words. Numbers are compared unrounded."""

import math
from typing import NamedTuple

from gems_edge.reproduce.pooling import Spread
from gems_edge.wording import percent_text

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not decided", "not done"

SIDES = "the seeds lie on both sides of the bound"
INSIDE = "the interval has the bound in it"
ONE = "one training each"
NONE = "–"  # a number that is not there


# --- Bounds ---


class Bound(NamedTuple):
    """Where a number has to lie for a claim to hold: both ends count."""

    least: float = -math.inf
    most: float = math.inf

    def verdict(self, low: float, high: float) -> str:
        """On a number between `low` and `high`: the ends of its interval, or the least and greatest of the seeds."""
        if self.least <= low and high <= self.most:
            return HOLDS
        return FAILS if high < self.least or low > self.most else OPEN

    def text(self) -> str:
        """Of a difference, in points: "≥ −3", "> 0", "< 0", "within ±1"."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"within ±{100 * self.most:g}"
        least, most = round(100 * self.least, 6), round(100 * self.most, 6)
        open_end = 0 < self.least < 1e-300  # what is strictly above 0
        return (f"{'>' if open_end else '≥'} {least:g}" if math.isfinite(least) else f"< {most + 0:g}").replace(
            "-", "−"
        )


def above(bound: float) -> Bound:
    """At or above `bound` (a share)."""
    return Bound(least=bound)


def below(bound: float) -> Bound:
    return Bound(most=math.nextafter(bound, -math.inf))


ABOVE_ZERO = Bound(least=math.nextafter(0.0, math.inf))


def within(bound: float) -> Bound:
    return Bound(-bound, bound)


# --- In words ---


def spread_text(values: Spread, form: str) -> str:
    """The mean, and the seeds' range where it is seen: "7.51× (6.20× … 9.00×)"."""
    mean, low, high = (form.format(value) for value in (values.mean, values.low, values.high))
    return mean if low == high else f"{mean} ({low} … {high})"


def percent(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def points(share: float, half: float | None = None, digits: int = 2) -> str:
    return percent_text(share, half, digits, signed=True).replace("-", "−")


def part(done: int, wanted: int) -> str:
    return f" [{done} of {wanted} seeds]" if done < wanted else ""
