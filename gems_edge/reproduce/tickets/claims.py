"""Does what KDD'22 claims hold here? Each claim is computed, with the figures it rests on.

RULES says in words how a verdict comes about. The claims about masks are in mask_claims.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gems_edge.reproduce.pooling import Spread, spread
from gems_edge.reproduce.tickets.paper import QUOTES
from gems_edge.reproduce.tickets.results import Row, Rows, difference, factor
from gems_edge.reproduce.verdicts import (
    HOLDS,
    MISSING,
    NONE,
    OPEN,
    SIDES,
    Bound,
    Claim,
    Figure,
    above,
    above_zero,
    at_least,
    at_most,
    below,
    difference_figure,
    part,
    percent,
    spread_text,
    within,
)

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


def claim_of(key: str, text: str, setup: str, figures: tuple[Figure, ...]) -> Claim:
    """The claim of paper.QUOTES with this key."""
    return Claim(key, QUOTES[key], text, setup, figures)


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


def accuracy_claims(rows: Rows) -> list[Claim]:
    """The claims whose methods `rows` has, setup by setup."""
    return [
        claim_of(check.key, check.text, setup.name, figures)
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
    return difference_figure(percent(row.ratio), difference(row, reference), bound, len(row.wanted), row.mode)


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
        claims.append(claim_of("settles", "PMT's first-layer mask settles within 10 % of the run", setup.name, settled))
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
                claims.append(claim_of(key, what.format(bound) + " (paper's book)", setup.name, figures))
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
        return Figure(label, NONE, MISSING, {})
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
    return Figure(label, text + part(len(row.done), len(row.wanted)), verdict, data, reason)


def _factor_figure(mwt: Row, row: Row, name: str, bound: float) -> Figure:
    label, values = percent(row.ratio), factor(mwt, row, name)
    if values is None:
        return Figure(label, NONE, MISSING, {})
    done = len(row.done.keys() & mwt.done.keys())
    text = spread_text(values, "{:.2f}×")
    if name == "paper.find" and earliest(row):
        text += ", stopped at the first look that can: γ sets the factor"
    verdict = at_least(values, bound) if done == len(row.wanted) else MISSING
    return Figure(label, text + part(done, len(row.wanted)), verdict, values.as_dict(), SIDES)
