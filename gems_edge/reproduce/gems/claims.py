"""Does what GEMS claims hold here? Each claim is computed, with the findings it rests on."""

from collections.abc import Iterator
from functools import partial

from gems_edge.reproduce import verdicts
from gems_edge.reproduce.claims import (
    Claim,
    Finding,
    accuracy_finding,
    claim_of,
    difference_finding,
    factor_finding,
    not_done,
    rules,
)  # fmt: skip
from gems_edge.reproduce.gems.paper import QUOTES
from gems_edge.reproduce.gems.plan import GemsRow, GemsRows, steps_of
from gems_edge.reproduce.gems.protocol import MULTI, GemsPreset
from gems_edge.reproduce.gems.tables import NAMES
from gems_edge.reproduce.protocol import Setup
from gems_edge.reproduce.results import difference
from gems_edge.reproduce.verdicts import ABOVE_ZERO, FAILS, HOLDS, MISSING, OPEN, above, below

RULES = rules(
    "their initial weights",
    "Times are CPU seconds of training; Multi-MAML's are the sum over its trainings. A claim holds if every seed "
    "meets the bound, does not hold if none does, and is not decided if the seeds lie on both sides.",
    "“Up to 5 points” holds if the gain on some distribution has its whole interval at or above 5 points, and does "
    "not hold if that of every distribution lies below.",
)

MEAN = "mean"
# At how many distributions the paper's factor in training time is checked, and what it is.
MANY, FASTER = 4, 2.0
# How much fewer steps may cost and count as no harm (our reading).
HARMLESS = 0.01


_claim = partial(claim_of, QUOTES)


def claims_of(preset: GemsPreset, rows: GemsRows) -> list[Claim]:
    """The claims whose rows `rows` has, setup by setup."""
    claims: list[Claim] = []
    for setup in rows.setups:
        own = rows.of(setup)
        claims += [*_same_distribution(own, setup), *_times(own, setup), *_cross_domain(own, setup, preset)]
        claims += [*_sparsity(own, setup), *_steps(preset, own, setup)]
    return [claim for claim in claims if claim.findings]


# --- Tables 1 and 2 ---


def _same_distribution(rows: GemsRows, setup: Setup) -> Iterator[Claim]:
    bmp, mmsup, maml, multi = (rows.find(setup, method) for method in ("bmp", "mmsup", "maml", MULTI))
    tested = {MEAN: setup.sets, **{name: (name,) for name in setup.sets}}
    findings = [accuracy_finding(label, bmp, maml, above(0), sets) for label, sets in tested.items()]
    yield _claim("bmp-maml", "BMP is not below MAML, on each distribution and their mean", setup, findings)
    yield _claim("bmp-five", "BMP is up to 5 points above MAML", setup, [_greatest(bmp, maml, 0.05)])
    between = [
        accuracy_finding("MMSUP − MAML", mmsup, maml, above(0)),
        accuracy_finding("Multi-MAML − MMSUP", multi, mmsup, above(0)),
    ]
    controls = [(NAMES[method], rows.find(setup, method)) for method in ("bmp-on", "rates-on")]
    findings = [accuracy_finding(label, bmp, row, ABOVE_ZERO) for label, row in controls]
    yield _claim("control", "BMP is above what learns its rates alone (mean over the distributions)", setup, findings)
    text = "MMSUP lies between MAML and Multi-MAML (means over the distributions)"
    yield _claim("mmsup-between", text, setup, between)


def _greatest(row: GemsRow | None, reference: GemsRow | None, bound: float) -> Finding | None:
    """The distribution on which `row` gains most; it holds if any does, and fails if all do."""
    if row is None or reference is None:
        return None
    gaps = {name: gap for name in row.setup.sets if (gap := difference(row, reference, (name,)))}
    if len(gaps) < len(row.setup.sets):
        return not_done(MEAN)
    findings = {name: difference_finding(name, gap, above(bound), row, reference) for name, gap in gaps.items()}
    words = [finding.verdict for finding in findings.values()]
    verdict = next((word for word in (MISSING, HOLDS, OPEN) if word in words), FAILS)
    best = max(gaps, key=lambda name: gaps[name].mean)
    others = ", ".join(f"{name} {verdicts.points(gap.mean)}" for name, gap in gaps.items() if name != best)
    reason = next((finding.reason for finding in findings.values() if finding.verdict == OPEN), "")
    return Finding(best, f"{findings[best].text}; {others}", verdict, findings[best].data, reason)


def _times(rows: GemsRows, setup: Setup) -> Iterator[Claim]:
    multi, count = rows.find(setup, MULTI), len(setup.sets)
    if count >= MANY and multi:
        text = f"BMP and MMSUP take at least {FASTER:g}× less training time than Multi-MAML at {count} distributions"
        learners = [row for method in ("bmp", "mmsup") if (row := rows.find(setup, method))]
        findings = [factor_finding(row.method.upper(), multi, row, "train.cpu_seconds", FASTER) for row in learners]
        yield _claim("time", text, setup, findings)


def _cross_domain(rows: GemsRows, setup: Setup, preset: GemsPreset) -> Iterator[Claim]:
    unseen, maml = preset.unseen(setup.sets), rows.find(setup, "maml")
    if unseen:
        text = f"BMP and MMSUP are above MAML on unseen distributions (mean over {', '.join(unseen)})"
        learners = {method.upper(): rows.find(setup, method) for method in ("bmp", "mmsup")}
        findings = [accuracy_finding(label, row, maml, ABOVE_ZERO, unseen) for label, row in learners.items()]
        yield _claim("cross", text, setup, findings)


# --- Tables 3 and 5 ---


def _sparsity(rows: GemsRows, setup: Setup) -> Iterator[Claim]:
    fixed = {row.variant.removeprefix("sparsity"): row for row in rows if row.variant.startswith("sparsity")}
    if fixed:
        learned, least, most = rows.find(setup, "mmsup"), list(fixed)[0], list(fixed)[-1]
        against = [accuracy_finding(f"sparsity {value}", learned, row, ABOVE_ZERO) for value, row in fixed.items()]
        text = "MMSUP's learned keep shares are above every fixed sparsity"
        yield _claim("sparsity-learned", text, setup, against)
        falls = [accuracy_finding(MEAN, fixed[most], fixed[least], below(0))] if most != least else []
        yield _claim("sparsity-falls", f"A sparsity of {most} is below one of {least}", setup, falls)


def _steps(preset: GemsPreset, rows: GemsRows, setup: Setup) -> Iterator[Claim]:
    """Compares rows that differ in their inner steps; the plain row is one of them."""
    most = max(preset.steps)
    bmp, mmsup, maml = (_by_steps(preset, rows, method) for method in ("bmp", "mmsup", "maml"))
    if most in bmp and len(bmp) > 1:
        text = f"BMP with fewer inner steps is at most {100 * HARMLESS:g} point below {most} steps"
        fewer = {steps: row for steps, row in bmp.items() if steps < most}
        findings = [accuracy_finding(_plural(steps), row, bmp[most], above(-HARMLESS)) for steps, row in fewer.items()]
        yield _claim("steps", text, setup, findings)
    several = [series for series in (bmp, mmsup) if len(series) > 1]
    if most in maml and several:
        text = f"BMP and MMSUP with any number of inner steps are above MAML with {most}"
        findings = [
            accuracy_finding(f"{row.method.upper()}, {_plural(steps)}", row, maml[most], ABOVE_ZERO)
            for series in several
            for steps, row in series.items()
        ]
        yield _claim("steps-maml", text, setup, findings)


def _by_steps(preset: GemsPreset, rows: GemsRows, method: str) -> dict[int, GemsRow]:
    """Inner steps → row, of those in Table 5; not those of Tables 3 and 4."""
    own = [row for row in rows if row.method == method and (not row.variant or row.variant.startswith("steps"))]
    by_steps = {steps_of(preset, method, row.variant): row for row in own}
    return {steps: row for steps, row in sorted(by_steps.items()) if steps in preset.steps}


def _plural(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"
