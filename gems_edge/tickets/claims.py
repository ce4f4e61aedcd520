"""Does what KDD'22 claims hold here? Each claim is computed, with the figures it rests on.

RULES says in words how a verdict comes about; every number is compared unrounded. The claims about masks are in
mask_claims.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gems_edge.tickets.paper import QUOTES, Quote
from gems_edge.tickets.results import Difference, Row, Rows, Spread, difference, factor, spread

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not decided", "not done"

SIDES = "the seeds lie on both sides of the bound"

RULES = (
    "Accuracies: the difference is taken seed by seed (one seed gives both their initial weights and training episodes; the test episodes are the same for all). Its "
    "95 % interval is the wider of two: that of the episodes, as if both networks were tested on different ones, and "
    "Student's over the seeds' differences. A claim holds at a ratio if the whole interval is on the claim's side of the "
    "bound, does not hold if all of it is on the other side, and is not decided otherwise; with one training it never is.",
    "Costs and iterations: a claim holds at a ratio if every seed meets the bound, does not hold if none does, and is not "
    "decided if the seeds lie on both sides. Where the untrained weights have the mask already, or the first layer keeps every "
    "weight, nothing has to emerge or to settle, and a claim that it does so early is not decided.",
    "A claim over several ratios holds if it holds at each, and does not hold if it fails at one. A ratio of which a training "
    "is missing is “not done”, and so is the claim unless it has failed elsewhere.",
)


@dataclass(frozen=True)
class Figure:
    """What a claim comes down to at one ratio (or for one thing)."""

    label: str
    text: str
    verdict: str
    data: Mapping[str, Any]
    reason: str = ""  # why it is not decided


@dataclass(frozen=True)
class Claim:
    key: str  # of paper.QUOTES
    text: str  # as it is checked here
    setup: str
    figures: tuple[Figure, ...]

    @property
    def quote(self) -> Quote:
        return QUOTES[self.key]

    @property
    def verdict(self) -> str:
        verdicts = [figure.verdict for figure in self.figures]
        for word in (FAILS, MISSING, OPEN):
            if word in verdicts:
                return word
        return HOLDS if verdicts else MISSING

    @property
    def explained(self) -> str:
        """The verdict, and why it is none."""
        if self.verdict != OPEN:
            return self.verdict
        reasons = dict.fromkeys(figure.reason for figure in self.figures if figure.verdict == OPEN)
        return f"{OPEN}: {'; '.join(reasons)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "claim": self.key, "text": self.text, "setup": self.setup, "verdict": self.verdict,
            "explained": self.explained, "paper": {"words": self.quote.words, "where": self.quote.where},
            "figures": [{"at": f.label, "verdict": f.verdict, **f.data} for f in self.figures],
        }  # fmt: skip


# --- Bounds ---

Bound = Callable[[Difference], str]


def above(bound: float) -> Bound:
    """Holds where the whole interval is at or above `bound` (a share)."""
    return lambda d: HOLDS if d.mean - d.half >= bound else FAILS if d.mean + d.half < bound else OPEN


def below(bound: float) -> Bound:
    return lambda d: HOLDS if d.mean + d.half < bound else FAILS if d.mean - d.half >= bound else OPEN


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


# --- Accuracy ---


@dataclass(frozen=True)
class Check:
    """Accuracy of `method` against `reference`, ratio by ratio. A variant is known by how its name begins."""

    key: str
    text: str
    method: str
    reference: str
    bound: Bound
    ratios: Callable[[float], bool] = lambda ratio: True
    variant: str = ""
    reference_variant: str = ""


def _checks(backbone: str) -> tuple[Check, ...]:
    points = 2 if backbone == "resnet12" else 1
    high, most = (lambda ratio: ratio >= 0.8), (lambda ratio: ratio >= 0.6)
    baselines = tuple(
        Check("pmt-baselines", f"PMT is above {name.upper()} from 60 % on", "pmt", name, above_zero, most)  # fmt: skip
        for name in ("rm", "sr", "snip")
    )
    return (
        Check(
            "mwt-dense", "MWT is at most 3 points below dense at 80 %", "mwt", "dense", above(-0.03), lambda r: r == 0.8
        ),
        Check("pmt-mwt", f"PMT is at most {points} point{'s' * (points > 1)} below MWT", "pmt", "mwt", above(-points / 100)),
        Check("rr-mwt", "RR is below MWT from 80 % on (the paper: −4 points)", "rr", "mwt", below(0), high),
        Check("rm-mwt", "RM is below MWT from 80 % on (the paper: −5 points)", "rm", "mwt", below(0), high),
        Check("rm-rr", "RM is below RR from 80 % on", "rm", "rr", below(0), high),
        *baselines,
        Check("iterative", "Iterative pruning is within 1 point of one-shot", "mwt", "mwt", within(0.01), variant="rounds"),
        Check("global", "Global pruning is above layer-wise", "mwt", "mwt", above_zero, reference_variant="layer"),
        Check("rewind", "The largest rewind k is below k = 0", "mwt", "mwt", below(0), variant="k"),
        Check("pm-sr", "PM is above SR from 60 % on", "pm", "sr", above_zero, most),
        Check("omt-sr", "OMT is within 1 point of SR from 60 % on", "omt", "sr", within(0.01), most),
    )  # fmt: skip


def above_zero(d: Difference) -> str:
    return HOLDS if d.mean - d.half > 0 else FAILS if d.mean + d.half <= 0 else OPEN


def accuracy_claims(rows: Rows) -> list[Claim]:
    """The claims whose methods `rows` has, setup by setup."""
    return [
        Claim(check.key, check.text, setup.name, figures)
        for setup in rows.setups
        for check in _checks(setup.config.backbone)
        if (figures := _checked(check, [row for row in rows.of(setup) if not row.shared_init]))
    ]


def _checked(check: Check, rows: list[Row]) -> tuple[Figure, ...]:
    own = _variant([row for row in rows if row.method == check.method and check.ratios(row.ratio)], check.variant)
    others = _variant([row for row in rows if row.method == check.reference], check.reference_variant)
    figures = []
    for row in own:
        alike = [other for other in others if other.ratio in (0.0, row.ratio)]
        if alike:
            figures.append(_accuracy_figure(row, alike[0], check.bound))
    return tuple(figures)


def _variant(rows: list[Row], begin: str) -> list[Row]:
    """The rows of the variant that begins so; of several (rewinds) the last."""
    names = list(
        dict.fromkeys(row.variant for row in rows if row.variant.startswith(begin) and bool(row.variant) == bool(begin))
    )
    return [row for row in rows if names and row.variant == names[-1]]


def _accuracy_figure(row: Row, reference: Row, bound: Bound) -> Figure:
    label, found = percent(row.ratio), difference(row, reference)
    if found is None:
        return Figure(label, "–", MISSING, {})
    text, reason = f"{_points(found.mean)} points", "one training each"
    if found.trainings > 1:
        text = f"{_points(found.mean)} ± {100 * found.half:.2f} points (seeds {_points(found.low)} … {_points(found.high)})"
        reason = "the interval has the bound in it"
    text += _part(row, found.trainings)
    verdict = bound(found) if found.trainings == len(row.wanted) else MISSING
    return Figure(label, text, verdict, found.as_dict() | {"mode": row.mode}, reason)


# --- Costs ---


def cost_claims(rows: Rows, untrained: Mapping[tuple[str, float], float] | None = None) -> list[Claim]:
    """When PMT's first layer settles, and what that saves against MWT in the paper's book.

    `untrained`: (setup, ratio) → share of the first layer's mask that the untrained weights' mask has, where it is known.
    """
    claims = []
    for setup in rows.setups:
        small = setup.config.backbone == "conv4"
        tickets = [row for row in rows.of(setup) if row.method == "pmt" and not row.variant and not row.shared_init]
        if not tickets:
            continue
        settled = tuple(_settled_figure(row, (untrained or {}).get((setup.name, row.ratio))) for row in tickets)
        claims.append(Claim("settles", "PMT's first-layer mask settles within 10 % of the run", setup.name, settled))
        for key, name, what, bound in (
            (
                "find-cost",
                "paper.find",
                "Finding the ticket costs PMT at least {:g}× less than MWT",
                7 if small else 3.51,
            ),
            (
                "total-cost",
                "paper.total",
                "Finding and training it costs PMT at least {:g}× less",
                2 if small else 1.77,
            ),
        ):
            figures = tuple(
                _factor_figure(mwt, row, name, bound) for row in tickets if (mwt := rows.find(setup, "mwt", row.ratio))
            )
            if figures:
                claims.append(Claim(key, what.format(bound) + " (paper's book)", setup.name, figures))
    return claims


def settled_share(row: Row) -> Spread | None:
    """The iteration at which PMT stopped as a share of the training; the whole if it never did."""
    found = [(document["ticket"]["found"], document["training"]) for document in row.done.values()]
    return spread(ticket["iterations"] / training["iterations"] for ticket, training in found)


def earliest(row: Row) -> bool:
    """Whether every search of PMT stopped at the second look, the first that has an overlap."""
    found = [document["ticket"]["found"] for document in row.done.values()]
    return bool(found) and all(one["iterations"] <= 2 * one["interval"] for one in found)


def _settled_figure(row: Row, untrained: float | None) -> Figure:
    label, values = percent(row.ratio), settled_share(row)
    if values is None:
        return Figure(label, "–", MISSING, {})
    verdict, reason, data = at_most(values, 0.1), SIDES, values.as_dict()
    text = spread_text(values, "{:.1%}")
    if earliest(row):
        text += ", the first look that can stop it"
    if untrained is not None:
        text += f"; the untrained weights have {untrained:.1%} of the mask"
        data["untrained"] = untrained
    first = [next(iter(document["ticket"]["layer_ratios"].values())) for document in row.done.values()]
    if verdict == HOLDS and not any(first):
        verdict, reason = OPEN, "the first layer keeps every weight"
    elif verdict == HOLDS and untrained is not None and untrained > row.setup.ticket.delta:
        verdict, reason = OPEN, "the untrained weights have the mask already"
    if len(row.done) < len(row.wanted):
        verdict = MISSING
    return Figure(label, text + _part(row, len(row.done)), verdict, data, reason)


def _factor_figure(mwt: Row, row: Row, name: str, bound: float) -> Figure:
    label, values = percent(row.ratio), factor(mwt, row, name)
    if values is None:
        return Figure(label, "–", MISSING, {})
    done = len(row.done.keys() & mwt.done.keys())
    text = spread_text(values, "{:.2f}×")
    if name == "paper.find" and earliest(row):
        text += ", stopped at the first look that can: γ sets the factor"
    verdict = at_least(values, bound) if done == len(row.wanted) else MISSING
    return Figure(label, text + _part(row, done), verdict, values.as_dict(), SIDES)


def spread_text(values: Spread, form: str) -> str:
    """The mean, and the seeds' range where it is seen: "7.51× (6.20× … 9.00×)"."""
    mean, low, high = (form.format(value) for value in (values.mean, values.low, values.high))
    return mean if low == high else f"{mean} ({low} … {high})"


def percent(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _part(row: Row, done: int) -> str:
    return f" [{done} of {len(row.wanted)} seeds]" if done < len(row.wanted) else ""
