"""Does what KDD'22 claims hold here? Each claim is computed, with the findings it rests on.

RULES says in words how a verdict comes about. The claims about masks are in masks.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gems_edge.reproduce import verdicts
from gems_edge.reproduce.claims import Claim, Finding, accuracy_finding, claim_of, factor_finding, rules, spread_finding
from gems_edge.reproduce.pooling import spread
from gems_edge.reproduce.tickets.paper import QUOTES
from gems_edge.reproduce.tickets.plan import TicketRow, TicketRows
from gems_edge.reproduce.verdicts import ABOVE_ZERO, Bound, above, below, within

RULES = rules(
    "their initial weights and training episodes",
    "Costs and iterations: a claim holds at a ratio if every seed meets the bound, does not hold if none does, and "
    "is not decided if the seeds lie on both sides. Where the untrained weights have the mask already, or the first "
    "layer keeps every weight, nothing has to emerge or to settle, and a claim that it does so early is not decided.",
)


# --- Accuracy ---


@dataclass(frozen=True)
class Check:
    """Accuracy of `method` against `reference`, ratio by ratio. A variant is known by how its name begins."""

    key: str
    text: str
    method: str
    reference: str
    bound: Bound
    least: float = 0.0  # ratios from here
    most: float = 1.0  # to here
    variant: str = ""
    reference_variant: str = ""


def _checks(backbone: str) -> tuple[Check, ...]:
    drop = 2 if backbone == "resnet12" else 1
    baselines = [
        Check("pmt-baselines", f"PMT is above {name.upper()} from 60 % on", "pmt", name, ABOVE_ZERO, 0.6)
        for name in ("rm", "sr", "snip")
    ]
    return (
        Check("mwt-dense", "MWT is at most 3 points below dense at 80 %", "mwt", "dense", above(-0.03), 0.8, 0.8),
        Check("pmt-mwt", f"PMT is at most {drop} point{'s' * (drop > 1)} below MWT", "pmt", "mwt", above(-drop / 100)),
        Check("rr-mwt", "RR is below MWT from 80 % on (the paper: −4 points)", "rr", "mwt", below(0), 0.8),
        Check("rm-mwt", "RM is below MWT from 80 % on (the paper: −5 points)", "rm", "mwt", below(0), 0.8),
        Check("rm-rr", "RM is below RR from 80 % on", "rm", "rr", below(0), 0.8),
        *baselines,
        Check(
            "iterative", "Iterative pruning is within 1 point of one-shot", "mwt", "mwt", within(0.01), variant="rounds"
        ),
        Check("global", "Global pruning is above layer-wise", "mwt", "mwt", ABOVE_ZERO, reference_variant="layer"),
        Check("rewind", "The largest rewind k is below k = 0", "mwt", "mwt", below(0), variant="k"),
        Check("pm-sr", "PM is above SR from 60 % on", "pm", "sr", ABOVE_ZERO, 0.6),
        Check("control", "MWT is above the mask of the untrained weights", "mwt", "untrained", ABOVE_ZERO, 0.8),
        *(
            Check("control", f"MWT is above {what}", "mwt", method, ABOVE_ZERO, 0.8, reference_variant=variant)
            for what, method, variant in (
                ("a dense network of as many weights", "dense", "narrow"),
                ("a dense network trained for so many iterations less", "dense", "short"),
                ("channels removed as a whole", "mwt", "channel"),
            )
        ),
        Check("omt-sr", "OMT is within 1 point of SR from 60 % on", "omt", "sr", within(0.01), 0.6),
    )


def accuracy_claims(rows: TicketRows) -> list[Claim]:
    """The claims whose methods `rows` has, setup by setup."""
    return [
        claim_of(QUOTES, check.key, check.text, setup, findings)
        for setup in rows.setups
        for check in _checks(setup.config.backbone)
        if (findings := _checked(check, rows.of(setup)))
    ]


def _checked(check: Check, rows: list[TicketRow]) -> list[Finding | None]:
    tickets = [row for row in rows if row.method == check.method and check.least <= row.ratio <= check.most]
    references = _variant([row for row in rows if row.method == check.reference], check.reference_variant)
    by_ratio = {row.ratio: row for row in reversed(references)}
    pairs = [(row, by_ratio.get(row.ratio, by_ratio.get(0.0))) for row in _variant(tickets, check.variant)]
    return [accuracy_finding(verdicts.percent(row.ratio), row, other, check.bound) for row, other in pairs if other]


def _variant(rows: list[TicketRow], begin: str) -> list[TicketRow]:
    """The rows of the variant that begins so; of several (rewinds) the last."""
    alike = [row for row in rows if row.variant.startswith(begin) and bool(row.variant) == bool(begin)]
    return [row for row in alike if row.variant == alike[-1].variant]


# --- Costs ---


def cost_claims(rows: TicketRows, untrained: Mapping[tuple[str, float], float] | None = None) -> list[Claim]:
    """When PMT's first layer settles, and what that saves against MWT in the paper's book.

    `untrained`: (setup, ratio) → share of the first layer's mask that the untrained weights' mask has, where known.
    """
    claims = []
    for setup in rows.setups:
        tickets = [row for row in rows.of(setup) if row.method == "pmt" and not row.variant]
        if not tickets:
            continue
        settled = [_settled_finding(row, (untrained or {}).get((setup.name, row.ratio))) for row in tickets]
        text = "PMT's first-layer mask settles within 10 % of the run"
        claims.append(claim_of(QUOTES, "settles", text, setup, settled))
        find, total = (7, 2) if setup.config.backbone == "conv4" else (3.51, 1.77)
        finding = f"Finding the ticket costs PMT at least {find:g}× less than MWT (paper's book)"
        both = f"Finding and training it costs PMT at least {total:g}× less (paper's book)"
        for part, text, bound in (("find", finding, find), ("total", both, total)):
            mwts = [rows.find(setup, "mwt", row.ratio) for row in tickets]
            factors = [_factor_finding(mwt, row, f"paper.{part}", bound) for mwt, row in zip(mwts, tickets) if mwt]
            claims += [claim_of(QUOTES, f"{part}-cost", text, setup, factors)] if factors else []
    return claims


def _earliest(row: TicketRow) -> bool:
    """Whether every search of PMT stopped at the second look, the first that has an overlap."""
    searches = [document["ticket"]["found"] for document in row.done.values()]
    return bool(searches) and all(found["iterations"] <= 2 * found["interval"] for found in searches)


def _settled_finding(row: TicketRow, untrained: float | None) -> Finding:
    """The iteration at which PMT stopped as a share of the training; the whole if it never did."""
    done = row.done.values()
    shares = spread(cell["ticket"]["found"]["iterations"] / cell["training"]["iterations"] for cell in done)
    note, doubt = ", the first look that can stop it" if _earliest(row) else "", ""
    if untrained is not None:
        note += f"; the untrained weights have {untrained:.1%} of the mask"
        doubt = "the untrained weights have the mask already" if untrained > row.setup.ticket.delta else ""
    if not any(next(iter(cell["ticket"]["layer_ratios"].values())) for cell in done):
        doubt = "the first layer keeps every weight"
    label, seeds = verdicts.percent(row.ratio), (len(done), len(row.wanted))
    data = {} if untrained is None else {"untrained": untrained}
    return spread_finding(label, shares, Bound(most=0.1), "{:.1%}", seeds, note, doubt, **data)


def _factor_finding(mwt: TicketRow, row: TicketRow, cost: str, bound: float) -> Finding:
    early = cost == "paper.find" and _earliest(row)
    note = ", stopped at the first look that can: γ sets the factor" if early else ""
    return factor_finding(verdicts.percent(row.ratio), mwt, row, cost, bound, note)
