"""Claims of a paper and whether they hold here: bounds, verdicts and their words. Numbers are compared unrounded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gems_edge.reproduce.pooling import Difference, Spread
from gems_edge.wording import percent_text

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not decided", "not done"

SIDES = "the seeds lie on both sides of the bound"
INSIDE = "the interval has the bound in it"
ONE = "one training each"
NONE = "–"  # a number that is not there


@dataclass(frozen=True)
class Quote:
    """A claim in a paper's words, and where they stand."""

    words: str
    where: str


def quotes_of(text: str) -> dict[str, Quote]:
    """Key → quote, from lines "key | where | words"; what is indented goes on with the words."""
    joined = text.strip().replace("\n    ", " ")
    parts = [[part.strip() for part in line.split("|")] for line in joined.splitlines()]
    return {key: Quote(words, where) for key, where, words in parts}


@dataclass(frozen=True)
class Finding:
    """What a claim comes down to at one place (a ratio, a distribution)."""

    label: str
    text: str
    verdict: str
    data: Mapping[str, Any]
    reason: str = ""  # why it is not decided


def not_done(label: str, text: str = NONE) -> Finding:
    return Finding(label, text, MISSING, {})


@dataclass(frozen=True)
class Claim:
    """A claim holds if all of its findings do, and fails if one does."""

    key: str
    quote: Quote
    text: str  # as it is checked here
    setup: str  # what it is checked on
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        verdicts = [finding.verdict for finding in self.findings]
        for word in (FAILS, MISSING, OPEN):
            if word in verdicts:
                return word
        return HOLDS if verdicts else MISSING

    @property
    def explained(self) -> str:
        """The verdict, and why it is none."""
        if self.verdict != OPEN:
            return self.verdict
        reasons = dict.fromkeys(finding.reason for finding in self.findings if finding.verdict == OPEN)
        return f"{OPEN}: {'; '.join(reasons)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "claim": self.key, "text": self.text, "setup": self.setup, "verdict": self.verdict,
            "explained": self.explained, "paper": {"words": self.quote.words, "where": self.quote.where},
            "figures": [{"at": f.label, "verdict": f.verdict, **f.data} for f in self.findings],
        }  # fmt: skip


# --- Bounds ---

Bound = Callable[[Difference], str]


def above(bound: float) -> Bound:
    """Holds where the whole interval is at or above `bound` (a share)."""
    return lambda d: HOLDS if d.mean - d.half >= bound else FAILS if d.mean + d.half < bound else OPEN


def below(bound: float) -> Bound:
    return lambda d: HOLDS if d.mean + d.half < bound else FAILS if d.mean - d.half >= bound else OPEN


def above_zero(d: Difference) -> str:
    return HOLDS if d.mean - d.half > 0 else FAILS if d.mean + d.half <= 0 else OPEN


def within(bound: float) -> Bound:
    """Holds where the whole interval is inside ±bound, fails where none of it is."""

    def verdict(d: Difference) -> str:
        if abs(d.mean) + d.half <= bound:
            return HOLDS
        return FAILS if abs(d.mean) - d.half > bound else OPEN

    return verdict


def at_least(values: Spread, bound: float) -> str:
    return HOLDS if values.low >= bound else FAILS if values.high < bound else OPEN


def at_most(values: Spread, bound: float) -> str:
    return HOLDS if values.high <= bound else FAILS if values.low > bound else OPEN


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
