"""Trains seeds until claims are decided: which rows get more trainings after a reading of the verdicts."""

from collections.abc import Mapping, Sequence

from gems_edge.reproduce.claims import Claim, Finding
from gems_edge.reproduce.page import P, Study
from gems_edge.reproduce.protocol import Key, Preset, S, Trial
from gems_edge.reproduce.verdicts import FAILS, HOLDS, OPEN

Seeds = Mapping[Key, int]  # of the rows that get more than the first reading has


def asked(study: Study[P, S], seeds: Seeds) -> dict[str, list[Trial[S]]]:
    """The parts of `study` with the trainings that are due: those of the first reading, and `seeds` of some rows."""
    preset = study.preset
    return {
        part: [trial for trial in trials if _due(preset, trial, seeds)] for part, trials in study.parts.items()
    }  # fmt: skip


def _due(preset: Preset, trial: Trial[S], seeds: Seeds) -> bool:
    return trial.variant in preset.not_repeated or trial.seed <= seeds.get(trial.key, preset.readings[0])


def more(preset: Preset, claims: Sequence[Claim], seeds: Seeds) -> dict[Key, int]:
    """`seeds`, with those of the next reading for the rows of what is not decided yet.

    A claim that fails at one place is decided, whatever its other places say.
    """
    wanted = dict(seeds)
    for finding in undecided(claims):
        due = min(seeds.get(key, preset.readings[0]) for key in finding.rows)
        later = [reading for reading in preset.readings if reading > due]
        for key in finding.rows if later else ():
            wanted[key] = max(wanted.get(key, 0), later[0])
    return wanted


def undecided(claims: Sequence[Claim]) -> list[Finding]:
    """The differences that more seeds may decide."""
    return [
        finding
        for claim in claims
        if claim.verdict != FAILS
        for finding in claim.findings
        if finding.verdict == OPEN and finding.rows
    ]


def progress_line(claims: Sequence[Claim]) -> str:
    decided = sum(claim.verdict in (HOLDS, FAILS) for claim in claims)
    names = [f"{claim.key} ({claim.setup})" for claim in claims if claim.verdict not in (HOLDS, FAILS)]
    rest = f"; not yet: {', '.join(names[:6])}{', …' if len(names) > 6 else ''}" if names else ""
    return f"{decided} of {len(claims)} claims are decided{rest}"
