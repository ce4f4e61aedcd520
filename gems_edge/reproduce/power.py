"""How many trainings each claim needs to be decided: said before any is done, and better once some are."""

import math
from collections.abc import Sequence
from typing import Any

from gems_edge.report.page import Note, Section, number_table
from gems_edge.reproduce.claims import Claim
from gems_edge.reproduce.pooling import Noise, half_width
from gems_edge.reproduce.protocol import Preset

# How often a difference that lies as far from its bound as the margin is to be decided.
POWER = 0.8
_MOST_SEEDS = 50


def power(noise: Noise, seeds: int, preset: Preset) -> float:
    """How probable it is that `seeds` trainings decide a difference that lies the preset's margin from its bound."""
    from scipy.stats import nct

    error = math.hypot(noise.seeds / math.sqrt(seeds), noise.episodes / math.sqrt(preset.episodes))
    if not error:
        return 1.0
    limit = half_width(noise, seeds, preset.episodes, preset.alpha) / error
    return float(nct.sf(limit, seeds - 1, preset.margin / error))


def seeds_needed(noise: Noise, preset: Preset) -> int | None:
    """The least number of seeds that has the power; None where no sensible number has it."""
    return next((seeds for seeds in range(2, _MOST_SEEDS + 1) if power(noise, seeds, preset) >= POWER), None)


def needs(preset: Preset, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Of every claimed difference: its bound, how far differences scatter, and the seeds that decide it."""
    rows = []
    for claim, finding in [(each, finding) for each in claims for finding in each.findings]:
        if finding.bound is None:
            continue
        noise = finding.noise or preset.noise
        rows.append({
            "claim": claim.key, "text": claim.text, "setup": claim.setup, "at": finding.label,
            "bound": finding.bound.text(), "assumed": finding.noise is None,
            "noise": {"seeds": noise.seeds, "episodes": noise.episodes}, "seeds": seeds_needed(noise, preset),
            "half": [half_width(noise, reading, preset.episodes, preset.alpha) if reading > 1 else None
                     for reading in preset.readings],
        })  # fmt: skip
    return rows


def needs_section(preset: Preset, claims: Sequence[Claim]) -> Section | None:
    found = needs(preset, claims)
    if not found:
        return None
    readings = ", ".join(map(str, preset.readings))
    body = [
        (
            row["text"], row["setup"], row["at"], row["bound"],
            f"{100 * row['noise']['seeds']:.1f} / {100 * row['noise']['episodes']:.1f}",
            "assumed" if row["assumed"] else "found", " / ".join(_points(half) for half in row["half"]),
            str(row["seeds"] or f"over {_MOST_SEEDS}"),
        )
        for row in found
    ]  # fmt: skip
    header = (
        "claim", "setup", "at", "bound, points", "deviation of seeds / episodes, points", "known how",
        f"± at {readings} seeds, points", "seeds needed",
    )  # fmt: skip
    caption = (
        f"Seeds needed: so many decide a difference that lies {100 * preset.margin:g} points from its bound with a "
        f"probability of {POWER:.0%}, with {preset.episodes} test episodes and intervals of {1 - preset.alpha:.1%}. "
        f"Verdicts are read after {readings} seeds; only what is not decided is trained further."
    )
    table = number_table(header, body, caption, words=3)
    assumed = (
        f"Before the first trainings a deviation of {100 * preset.noise.seeds:g} points of the seeds' differences and "
        f"{100 * preset.noise.episodes:g} of the episodes' is assumed."
    )
    return Section("How many trainings each claim needs", (table, Note(assumed)))


def _points(half: float | None) -> str:
    return "–" if half is None else f"{100 * half:.1f}"
