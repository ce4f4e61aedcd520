"""Claims of a paper, the findings of rows that they rest on, and in words how a verdict comes about (`rules`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gems_edge.reproduce import verdicts
from gems_edge.reproduce.pooling import Difference, Noise, Spread
from gems_edge.reproduce.protocol import Key, S, Setup
from gems_edge.reproduce.results import Row, common_seeds, difference, factor, wanted_seeds
from gems_edge.reproduce.verdicts import FAILS, HOLDS, INSIDE, MISSING, NONE, ONE, OPEN, SIDES, Bound


@dataclass(frozen=True)
class Quote:
    """A claim in the paper's words, and where it makes it."""

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
    bound: Bound | None = None  # of a difference of accuracies, which more seeds make more exact
    rows: tuple[Key, ...] = ()  # that it is the difference of
    noise: Noise | None = None  # found in it


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
        """The verdict; if it is open, the reasons too."""
        if self.verdict != OPEN:
            return self.verdict
        reasons = dict.fromkeys(finding.reason for finding in self.findings if finding.verdict == OPEN)
        return f"{OPEN}: {'; '.join(reasons)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "claim": self.key, "text": self.text, "setup": self.setup, "verdict": self.verdict,
            "explained": self.explained, "paper": {"words": self.quote.words, "where": self.quote.where},
            "figures": [{"at": f.label, "here": f.text, "verdict": f.verdict, **f.data} for f in self.findings],
        }  # fmt: skip


def rules(alike: str, *of_paper: str) -> tuple[str, ...]:
    """How verdicts are reached. `alike`: what networks of one seed share; `of_paper`: rules of its other claims."""
    return (
        f"Accuracies: the difference is taken seed by seed and episode by episode (one seed gives both networks "
        f"{alike}; the test episodes are the same for all). The variance of its mean is that of the seeds' mean "
        "differences by the number of seeds plus that of the episodes' by theirs; its interval is Student's with "
        "Satterthwaite's degrees of freedom, and never narrower than Student's over the seeds alone. Results of an "
        "older version, without their episodes, take the wider of Student's over the seeds and the episodes' as if "
        "both were tested on different ones. A claim holds at a place (a ratio, a distribution) if the whole interval "
        "is on the claim's side of the bound, does not hold if all of it is on the other side, and is not decided "
        "otherwise; with one training it never is.",
        "Its level is 95 %. Where a preset reads verdicts after several numbers of seeds and trains more only for what "
        "is not decided, the 5 % are divided by the number of readings, so that all readings of a claim together "
        "decide wrongly in 5 % of cases at most.",
        *of_paper,
        "A claim over several places holds if it holds at each, and does not hold if it fails at one. A place of "
        "which a training is missing is “not done”, and so is the claim unless it has failed elsewhere.",
    )


def claim_of(
    quotes: Mapping[str, Quote], key: str, text: str, setup: Setup, findings: Iterable[Finding | None]
) -> Claim:
    """The claim of the paper's `quotes` with this key; a finding whose rows are not asked for is None and left out."""
    return Claim(key, quotes[key], text, setup.label, tuple(finding for finding in findings if finding))


def accuracy_finding(
    label: str, row: Row[S] | None, reference: Row[S] | None, bound: Bound, sets: Sequence[str] = ()
) -> Finding | None:
    """`row` less `reference`, on the distributions `sets`; None where one of them is not asked for.

    It is not done as long as one of the wanted seeds is missing.
    """
    if row is None or reference is None:
        return None
    finding = difference_finding(label, difference(row, reference, sets), bound, row, reference)
    return replace(finding, bound=bound, rows=(row.key, reference.key))


def difference_finding(
    label: str, gap: Difference | None, bound: Bound, row: Row[S], reference: Row[S]
) -> Finding:  # fmt: skip
    if gap is None:
        return not_done(label)
    text, reason, wanted = f"{verdicts.points(gap.mean)} points", ONE, len(wanted_seeds(row, reference))
    if gap.trainings > 1:
        seeds = f"{verdicts.points(gap.low)} … {verdicts.points(gap.high)}"
        text = f"{verdicts.points(gap.mean, gap.half)} points (seeds {seeds})"
        reason = INSIDE
    verdict = bound.verdict(gap.mean - gap.half, gap.mean + gap.half) if gap.trainings == wanted else MISSING
    data = gap.as_dict() | {"mode": row.mode}
    return Finding(label, text + verdicts.part(gap.trainings, wanted), verdict, data, reason, noise=gap.noise)


def factor_finding(label: str, reference: Row[S], row: Row[S], cost: str, least: float, note: str = "") -> Finding:
    """How many times less `row` costs than `reference`, at least `least` times where it holds."""
    seeds = len(common_seeds(row, reference)), len(wanted_seeds(row, reference))
    return spread_finding(label, factor(reference, row, cost), Bound(least), "{:.2f}×", seeds, note)


def spread_finding(
    label: str, values: Spread | None, bound: Bound, form: str, seeds: tuple[int, int] = (0, 0), note: str = "",
    doubt: str = "", **data: Any,
) -> Finding:  # fmt: skip
    """Holds if the numbers of all seeds lie within `bound`, and fails if none does.

    `seeds`: how many are done, and how many were asked for; `doubt`: a reason not to decide what would hold;
    `data`: what its document says besides.
    """
    if values is None:
        return not_done(label)
    verdict, reason = bound.verdict(values.low, values.high), SIDES
    if verdict == HOLDS and doubt:
        verdict, reason = OPEN, doubt
    if seeds[0] < seeds[1]:
        verdict = MISSING
    text = verdicts.spread_text(values, form) + note + verdicts.part(*seeds)
    return Finding(label, text, verdict, values.as_dict() | data, reason)
