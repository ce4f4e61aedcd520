"""Does what KDD'22 claims hold here? Each claim is computed from results or masks, with the figures it rests on.

RULES says in words how a verdict comes about; every number is compared unrounded. numpy only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gems_edge.tickets.paper import QUOTES, Quote
from gems_edge.tickets.presets import Setup
from gems_edge.tickets.results import Difference, Row, Rows, Spread, difference, factor, spread

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not decided", "not done"

RULES = (
    "Accuracies: the difference is taken seed by seed (same initial weights, same training episodes, same test episodes). Its "
    "95 % interval is the wider of two: that of the episodes, as if both networks were tested on different ones, and "
    "Student's over the seeds' differences. A claim holds at a ratio if the whole interval is on the claim's side of the "
    "bound, does not hold if all of it is on the other side, and is not decided otherwise; with one training it never is.",
    "Costs and iterations: a claim holds at a ratio if every seed meets the bound, does not hold if none does, and is not "
    "decided if the seeds lie on both sides.",
    "A claim over several ratios holds if it holds at each, and does not hold if it fails at one. Ratios without results "
    "leave it “not done”, unless it has failed already.",
)


@dataclass(frozen=True)
class Figure:
    """What a claim comes down to at one ratio (or for one thing)."""

    label: str
    text: str
    verdict: str
    data: Mapping[str, Any]


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
        if all(figure.data.get("trainings", 2) == 1 for figure in self.figures if figure.verdict == OPEN):
            return f"{OPEN}: one training each"
        counted = all("ci95" not in figure.data for figure in self.figures)
        return f"{OPEN}: {'the seeds lie on both sides of the bound' if counted else 'the intervals overlap the bound'}"

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
    label, found = f"{100 * row.ratio:g} %", difference(row, reference)
    if found is None:
        return Figure(label, "–", MISSING, {})
    text = f"{_points(found.mean)}"
    if found.trainings > 1:
        text += f" ± {100 * found.half:.2f} (seeds {_points(found.low)} … {_points(found.high)})"
    return Figure(label, text + _part(row, found.trainings), bound(found), found.as_dict() | {"mode": row.mode})


# --- Costs ---


def cost_claims(rows: Rows) -> list[Claim]:
    """When PMT's first layer settles, and what that saves against MWT in the paper's book."""
    claims = []
    for setup in rows.setups:
        small = setup.config.backbone == "conv4"
        tickets = [row for row in rows.of(setup) if row.method == "pmt" and not row.variant and not row.shared_init]
        if not tickets:
            continue
        shares = [(row, settled_share(row)) for row in tickets]
        claims.append(Claim(
            "settles", "PMT's first-layer mask settles within 10 % of the run", setup.name,
            tuple(_spread_figure(row, found, lambda s: at_most(s, 0.1), "{:.1%}") for row, found in shares),
        ))  # fmt: skip
        for key, what, bound in (
            (
                "find-cost",
                "Finding the ticket costs PMT at least {:g}× less than MWT (paper's book)",
                7 if small else 3.51,
            ),
            (
                "total-cost",
                "Finding and training it costs PMT at least {:g}× less (paper's book)",
                2 if small else 1.77,
            ),
        ):
            name = "paper.find" if key == "find-cost" else "paper.total"
            factors = [(row, factor(rows.find(setup, "mwt", row.ratio), row, name)) for row in tickets]
            if any(rows.find(setup, "mwt", row.ratio) for row in tickets):
                test = _at_least(bound)
                figures = tuple(_spread_figure(row, found, test, "{:.2f}×") for row, found in factors)
                claims.append(Claim(key, what.format(bound), setup.name, figures))
    return claims


def settled_share(row: Row) -> Spread | None:
    """The iteration at which PMT stopped as a share of the training; the whole if it never did."""
    found = [(document["ticket"]["found"], document["training"]) for document in row.done.values()]
    return spread(ticket["iterations"] / training["iterations"] for ticket, training in found)


def _at_least(bound: float) -> Callable[[Spread], str]:
    return lambda values: at_least(values, bound)


def _spread_figure(row: Row, values: Spread | None, test: Callable[[Spread], str], form: str) -> Figure:
    label = f"{100 * row.ratio:g} %"
    if values is None:
        return Figure(label, "–", MISSING, {})
    text = spread_text(values, form) + _part(row, len(row.done))
    return Figure(label, text, test(values), values.as_dict())


def spread_text(values: Spread, form: str) -> str:
    """The mean, and the seeds' range where it is seen: "7.51× (6.20× … 9.00×)"."""
    mean, low, high = (form.format(value) for value in (values.mean, values.low, values.high))
    return mean if low == high else f"{mean} ({low} … {high})"


# --- Masks ---


def ratios_claim(setup: Setup, groups: Mapping[float, Sequence[Mapping[str, float]]]) -> Claim:
    """Figure 6. `groups`: ratio → analysis.layer_ratios of each ticket."""
    figures = []
    for ratio, tickets in groups.items():
        if len(tickets) < 2:
            figures.append(Figure(f"{100 * ratio:g} %", "fewer than two tickets", MISSING, {}))
            continue
        spans = {name: max(t[name] for t in tickets) - min(t[name] for t in tickets) for name in tickets[0]}
        name = max(spans, key=spans.__getitem__)
        text = f"at most {100 * spans[name]:.2f} points apart ({_layer(name)})"
        data = {"apart": spans[name], "layer": name, "tickets": len(tickets)}
        figures.append(Figure(f"{100 * ratio:g} %", text, HOLDS if spans[name] <= 0.02 else FAILS, data))
    text = "Tickets of one network: the share removed of each layer differs by at most 2 points"
    return Claim("layer-ratios", text, setup.name, tuple(figures))


def overlap_claim(
    setup: Setup, panels: Mapping[float, Mapping[str, Sequence[float]]], kept: Mapping[float, Mapping[str, float]]
) -> Claim:
    """Figures 7 and 15. `panels`: ratio → analysis.overlap; `kept`: ratio → share of each layer that the tickets keep.

    G random masks that keep the share k have k^(G−1) in common; that is chance.
    """
    figures = []
    for ratio, layers in panels.items():
        (first, shares), *others = layers.items()
        count = len(shares)
        if ratio < 0.6 or count < 2:
            continue
        excess = {name: values[-1] - kept[ratio][name] ** (count - 1) for name, values in layers.items()}
        worst = max((name for name, _ in others), key=excess.__getitem__)
        chance = {name: kept[ratio][name] ** (count - 1) for name in (first, worst)}
        holds = shares[-1] >= 0.4 and excess[first] > 0.05 and excess[worst] <= 0.05
        text = (
            f"O_{count}: first layer {shares[-1]:.1%} (chance {chance[first]:.1%}), {_layer(worst)} "
            f"{layers[worst][-1]:.1%} (chance {chance[worst]:.1%})"
        )
        data = {"tickets": count, "first": shares[-1], "first_chance": chance[first], "other": layers[worst][-1],
                "other_chance": chance[worst], "other_layer": worst}  # fmt: skip
        figures.append(Figure(f"{100 * ratio:g} %", text, HOLDS if holds else FAILS, data))
    text = (
        "From 60 % on all tickets share at least 40 % of the first layer's mask, more than chance; every other layer's "
        "share is at most 5 points above chance"
    )
    return Claim("overlap", text, setup.name, tuple(figures))


def emergence_claim(setup: Setup, runs: Mapping[float, Sequence[Sequence[tuple[int, float]]]]) -> Claim:
    """Figure 9. `runs`: ratio → analysis.emergence of each ticket's training."""
    figures = []
    for ratio, curves in runs.items():
        values = spread(min(1.0, since(curve, 0.9) / setup.config.iterations) for curve in curves)
        verdict = at_most(values, 0.1)
        figures.append(Figure(f"{100 * ratio:g} %", spread_text(values, "{:.1%}"), verdict, values.as_dict()))
    text = "90 % of the primary mask is there, and stays, from 10 % of the run on"
    return Claim("emergence", text, setup.name, tuple(figures))


def since(curve: Iterable[tuple[int, float]], level: float) -> float:
    """The iteration from which the share never falls below `level` again; infinite if the last one does."""
    curve = sorted(curve)
    below_level = np.array([share < level for _, share in curve])
    first = int(np.flatnonzero(below_level)[-1]) + 1 if below_level.any() else 0
    return curve[first][0] if first < len(curve) else np.inf


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _part(row: Row, done: int) -> str:
    return f" [{done} of {len(row.wanted)} seeds]" if done < len(row.wanted) else ""


def _layer(name: str) -> str:
    return name.removeprefix("backbone.").removesuffix(".weight")
