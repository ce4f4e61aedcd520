"""How many trainings a claim takes. After some numbers of them (looks) claims are judged; see training.py.

Whoever looks several times and stops when it suits him errs more often than once in twenty. So each of n looks has
intervals of 1 − 0.05/n (Bonferroni): all looks together err at most as often as a single one of 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gems_edge.report.page import Note, Section, Table
from gems_edge.reproduce import verdicts
from gems_edge.reproduce.claims import Claim, Finding
from gems_edge.reproduce.pooling import student
from gems_edge.reproduce.verdicts import NONE

# How likely seeds decide a difference of the size that a plan names.
POWER = 0.8
# Of the seeds' paired differences, where no two trainings are done: what the small presets showed is half to twice it.
ASSUMED = 0.01
MOST_SEEDS = 100


@dataclass(frozen=True)
class Looks:
    """Numbers of seeds after which claims are judged, rising."""

    seeds: tuple[int, ...]

    @classmethod
    def between(cls, first: int, most: int) -> "Looks":
        """The first, half-way, and the last: fewer looks have narrower intervals."""
        return cls(tuple(sorted({first, (first + most + 1) // 2, most})))

    @property
    def range_text(self) -> str:
        first, last = self.seeds[0], self.seeds[-1]
        return str(first) if first == last else f"{first} to {last}"

    @property
    def confidence(self) -> float:
        return 1 - 0.05 / len(self.seeds)


# --- Power ---


def decidable(deviation: float, seeds: int, confidence: float) -> float:
    """How far from its bound a difference must lie for so many seeds to decide it in POWER of all cases.

    `deviation`: of the seeds' paired differences, as if they were normal: the mean over its standard error then follows
    the noncentral t distribution.
    """
    from scipy.special import nctdtrinc

    if seeds < 2:
        return math.inf
    standard_errors: float = nctdtrinc(seeds - 1, 1 - POWER, student(seeds - 1, confidence))
    return standard_errors * deviation / math.sqrt(seeds)


def seeds_for(distance: float, deviation: float, confidence: float) -> int | None:
    """The fewest seeds that decide a difference so far from its bound; None if MOST_SEEDS do not."""
    enough = (seeds for seeds in range(2, MOST_SEEDS + 1) if decidable(deviation, seeds, confidence) <= distance)
    return next(enough, None)


def plan_text(looks: Looks) -> str:
    """What the looks are worth, before anything is trained."""
    sizes = [decidable(ASSUMED, seeds, looks.confidence) for seeds in looks.seeds]
    after = ", ".join(map(str, looks.seeds))
    worth = ", ".join(f"{100 * size:.1f}" for size in sizes)
    return (
        f"Claims are judged after {after} trainings, each time by intervals of {100 * looks.confidence:.1f} %. Where "
        f"the trainings' differences deviate by {100 * ASSUMED:g} point (assumed), that decides {POWER:.0%} of those "
        f"claims whose difference lies {worth} points from its bound."
    )


def power_section(claims: Sequence[Claim], looks: Looks) -> Section:
    """Of every difference: how far it lies from its bound, how far its trainings differ, and how many decide that."""
    header = ("claim", "at", "from the bound, points", "deviation, points", "seeds", "seeds that decide it", "verdict")
    rows = [
        (f"{claim.setup}: {claim.text}", finding.label, *_power(finding, looks.confidence), finding.verdict)
        for claim in claims
        for finding in claim.findings
        if finding.data.get("deviation") is not None
    ]
    caption = f"Of equal differences and deviations, in {POWER:.0%} of all cases; more than {MOST_SEEDS} are “–”."
    return Section("What it takes to decide", (Note(plan_text(looks)), Table(header, tuple(rows), caption)))


def _power(finding: Finding, confidence: float) -> tuple[str, str, str, str]:
    mean, deviation = finding.data["points"], finding.data["deviation"]
    distance = min(abs(mean - end) for end in finding.bound if math.isfinite(end))
    seeds = seeds_for(distance, deviation, confidence)
    return (
        verdicts.points(distance).lstrip("+"), verdicts.points(deviation).lstrip("+"),
        str(finding.data["trainings"]), str(seeds) if seeds else NONE,
    )  # fmt: skip
