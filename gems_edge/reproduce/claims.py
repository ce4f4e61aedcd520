"""From rows to the findings that a claim rests on; `rules` says in words how a verdict comes about."""

from collections.abc import Iterable, Mapping, Sequence

from gems_edge.reproduce import verdicts
from gems_edge.reproduce.pooling import Difference
from gems_edge.reproduce.protocol import S, Setup
from gems_edge.reproduce.results import Row, common_seeds, difference, factor
from gems_edge.reproduce.verdicts import INSIDE, MISSING, ONE, SIDES, Bound, Claim, Finding, Quote


def rules(alike: str, *of_paper: str) -> tuple[str, ...]:
    """How verdicts come about. `alike`: what networks of one seed share; `of_paper`: rules of its other claims."""
    return (
        f"Accuracies: the difference is taken seed by seed (one seed gives both networks {alike}; the test episodes "
        "are the same for all). Its 95 % interval is the wider of two: that of the episodes, as if both were tested "
        "on different ones, and Student's over the seeds' differences. A claim holds at a place (a ratio, a "
        "distribution) if the whole interval is on the claim's side of the bound, does not hold if all of it is on "
        "the other side, and is not decided otherwise; with one training it never is.",
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
    return difference_finding(label, difference(row, reference, sets), bound, row)


def difference_finding(label: str, gap: Difference | None, bound: Bound, row: Row[S]) -> Finding:
    if gap is None:
        return verdicts.not_done(label)
    text, reason = f"{verdicts.points(gap.mean)} points", ONE
    if gap.trainings > 1:
        seeds = f"{verdicts.points(gap.low)} … {verdicts.points(gap.high)}"
        text = f"{verdicts.points(gap.mean, gap.half)} points (seeds {seeds})"
        reason = INSIDE
    verdict = bound(gap) if gap.trainings == len(row.wanted) else MISSING
    data = gap.as_dict() | {"mode": row.mode}
    return Finding(label, text + verdicts.part(gap.trainings, len(row.wanted)), verdict, data, reason)


def factor_finding(label: str, reference: Row[S], row: Row[S], cost: str, bound: float, note: str = "") -> Finding:
    """How many times less `row` costs than `reference`, at least `bound` times where it holds."""
    values, done = factor(reference, row, cost), len(common_seeds(row, reference))
    if values is None:
        return verdicts.not_done(label)
    verdict = verdicts.at_least(values, bound) if done == len(row.wanted) else MISSING
    text = verdicts.spread_text(values, "{:.2f}×") + note + verdicts.part(done, len(row.wanted))
    return Finding(label, text, verdict, values.as_dict(), SIDES)
