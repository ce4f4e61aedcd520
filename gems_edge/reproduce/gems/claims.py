"""Does what GEMS claims hold here? Each claim is computed, with the figures it rests on."""

from collections.abc import Sequence

from gems_edge.reproduce.gems.paper import QUOTES
from gems_edge.reproduce.gems.plan import MULTI, steps_of
from gems_edge.reproduce.gems.protocol import Mixture, Preset
from gems_edge.reproduce.gems.results import Row, Rows, common, difference, factor
from gems_edge.reproduce.pooling import Difference
from gems_edge.reproduce.verdicts import (
    FAILS,
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
    below,
    difference_figure,
    part,
    points,
    spread_text,
)

RULES = (
    "Accuracies: the difference is taken seed by seed (one seed gives both their initial weights; the test episodes are the "
    "same for all). Its 95 % interval is the wider of two: that of the episodes, as if both networks were tested on different "
    "ones, and Student's over the seeds' differences. It holds if the whole interval is on the claim's side of the bound, does "
    "not hold if all of it is on the other side, and is not decided otherwise; with one training it never is.",
    "Times are CPU seconds of training; Multi-MAML's are the sum over its trainings. A claim holds if every seed meets the "
    "bound, does not hold if none does, and is not decided if the seeds lie on both sides.",
    "A claim over several figures holds if it holds at each, and does not hold if it fails at one. A figure of which a training "
    "is missing is “not done”, and so is the claim unless it has failed elsewhere.",
    "“Up to 5 points” holds if the gain on some distribution has its whole interval at or above 5 points, and does not hold if "
    "that of every distribution lies below.",
)

MEAN = "mean"
# At how many distributions the paper's factor in training time is checked, and what it is.
MANY, FASTER = 4, 2.0
# How much fewer steps may cost and count as no harm (our reading).
HARMLESS = 0.01


def claims_of(preset: Preset, rows: Rows) -> list[Claim]:
    """The claims whose rows `rows` has, mixture by mixture."""
    claims = []
    for mixture in rows.mixtures:
        own = rows.of(mixture)
        found = [
            *_same_distribution(own, mixture), *_times(own, mixture), *_cross_domain(own, preset.unseen(mixture), mixture),
            *_sparsity(own, mixture), *_steps(preset, own, mixture),
        ]  # fmt: skip
        claims += [claim for claim in found if claim.figures]
    return claims


def _claim(key: str, text: str, mixture: Mixture, figures: Sequence[Figure | None]) -> Claim:
    return Claim(key, QUOTES[key], text, " + ".join(mixture), tuple(figure for figure in figures if figure))


def _figure(label: str, row: Row | None, reference: Row | None, sets: Sequence[str], bound: Bound) -> Figure | None:
    """None where one of the two rows is not asked for."""
    if row is None or reference is None:
        return None
    return difference_figure(label, difference(row, reference, sets), bound, len(row.wanted), row.mode)


# --- Tables 1 and 2 ---


def _same_distribution(rows: Rows, mixture: Mixture) -> list[Claim]:
    bmp, mmsup, maml, multi = (rows.find(mixture, method) for method in ("bmp", "mmsup", "maml", MULTI))
    places = {MEAN: mixture, **{name: (name,) for name in mixture}}
    return [
        _claim(
            "bmp-maml", "BMP is not below MAML, on each distribution and their mean", mixture,
            [_figure(label, bmp, maml, sets, above(0)) for label, sets in places.items()],
        ),
        _claim("bmp-five", "BMP is up to 5 points above MAML", mixture, [_greatest(bmp, maml, mixture, 0.05)]),
        _claim(
            "mmsup-between", "MMSUP lies between MAML and Multi-MAML (means over the distributions)", mixture,
            [
                _figure("MMSUP − MAML", mmsup, maml, mixture, above(0)),
                _figure("Multi-MAML − MMSUP", multi, mmsup, mixture, above(0)),
            ],
        ),
    ]  # fmt: skip


def _greatest(row: Row | None, reference: Row | None, mixture: Mixture, bound: float) -> Figure | None:
    """The distribution on which `row` gains most; it holds if any does, and fails if all do."""
    if row is None or reference is None:
        return None
    found: dict[str, Difference | None] = {name: difference(row, reference, (name,)) for name in mixture}
    if None in found.values():
        return Figure(MEAN, NONE, MISSING, {})
    verdicts = {name: difference_figure(name, d, above(bound), len(row.wanted), row.mode) for name, d in found.items()}
    best = max(found, key=lambda name: found[name].mean)
    words = [figure.verdict for figure in verdicts.values()]
    verdict = next((word for word in (MISSING, HOLDS, OPEN) if word in words), FAILS)
    others = ", ".join(f"{name} {points(d.mean)}" for name, d in found.items() if name != best)
    shown = verdicts[best]
    reason = next((figure.reason for figure in verdicts.values() if figure.verdict == OPEN), "")
    return Figure(best, f"{shown.text}; {others}", verdict, shown.data, reason)


def _times(rows: Rows, mixture: Mixture) -> list[Claim]:
    multi = rows.find(mixture, MULTI)
    if len(mixture) < MANY or multi is None:
        return []
    text = f"BMP and MMSUP take at least {FASTER:g}× less training time than Multi-MAML at {len(mixture)} distributions"
    return [
        _claim("time", text, mixture, [_time_figure(multi, rows.find(mixture, method)) for method in ("bmp", "mmsup")])
    ]


def _time_figure(multi: Row, row: Row | None) -> Figure | None:
    if row is None:
        return None
    label, values, done = row.method.upper(), factor(multi, row, "cpu_seconds"), len(common(row, multi))
    if values is None:
        return Figure(label, NONE, MISSING, {})
    verdict = at_least(values, FASTER) if done == len(row.wanted) else MISSING
    text = spread_text(values, "{:.2f}×") + part(done, len(row.wanted))
    return Figure(label, text, verdict, values.as_dict(), SIDES)


def _cross_domain(rows: Rows, unseen: tuple[str, ...], mixture: Mixture) -> list[Claim]:
    if not unseen:
        return []
    maml = rows.find(mixture, "maml")
    text = f"BMP and MMSUP are above MAML on unseen distributions (mean over {', '.join(unseen)})"
    methods = [(method, rows.find(mixture, method)) for method in ("bmp", "mmsup")]
    return [_claim("cross", text, mixture, [_figure(m.upper(), row, maml, unseen, above_zero) for m, row in methods])]


# --- Tables 3 and 5 ---


def _sparsity(rows: Rows, mixture: Mixture) -> list[Claim]:
    fixed = {row.variant.removeprefix("sparsity"): row for row in rows if row.variant.startswith("sparsity")}
    if not fixed:
        return []
    learned, first, last = rows.find(mixture, "mmsup"), *(list(fixed.values())[place] for place in (0, -1))
    least, most = list(fixed)[0], list(fixed)[-1]
    return [
        _claim(
            "sparsity-learned", "MMSUP's learned keep shares are above every fixed sparsity", mixture,
            [_figure(f"sparsity {value}", learned, row, mixture, above_zero) for value, row in fixed.items()],
        ),
        _claim(
            "sparsity-falls", f"A sparsity of {most} is below one of {least}", mixture,
            [_figure(MEAN, last, first, mixture, below(0))] if first is not last else [],
        ),
    ]  # fmt: skip


def _steps(preset: Preset, rows: Rows, mixture: Mixture) -> list[Claim]:
    """Of the rows with several numbers of steps; the plain row is one of them."""
    most = max(preset.steps)
    series = {
        method: {steps: row for row in rows if row.method == method and (steps := _steps_in(preset, row))}
        for method in ("bmp", "mmsup", "maml")
    }
    claims, longest = [], series["bmp"].get(most)
    fewer = {steps: row for steps, row in sorted(series["bmp"].items()) if steps < most}
    if longest is not None and fewer:
        text = f"BMP with fewer inner steps is at most {100 * HARMLESS:g} point below {most} steps"
        figures = [_figure(_plural(steps), row, longest, mixture, above(-HARMLESS)) for steps, row in fewer.items()]
        claims.append(_claim("steps", text, mixture, figures))
    reference = series["maml"].get(most)
    several = [method for method in ("bmp", "mmsup") if len(series[method]) > 1]
    if reference is not None and several:
        text = f"BMP and MMSUP with any number of inner steps are above MAML with {most}"
        figures = [
            _figure(f"{method.upper()}, {_plural(steps)}", row, reference, mixture, above_zero)
            for method in several
            for steps, row in sorted(series[method].items())
        ]
        claims.append(_claim("steps-maml", text, mixture, figures))
    return claims


def _steps_in(preset: Preset, row: Row) -> int:
    """The row's number of steps, 0 for those of Tables 3 and 4."""
    plain = not row.variant or row.variant.startswith("steps")
    steps = steps_of(preset, row.method, row.variant) if plain else 0
    return steps if steps in preset.steps else 0


def _plural(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"
