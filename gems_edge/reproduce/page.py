"""The page of a reproduction: what was done, the paper's claims with their verdicts, its tables and figures, and how.

Each paper gives the sections that are its own.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from gems_edge.device.host import host_facts
from gems_edge.meta.settings.run import TrainConfig, read_config
from gems_edge.models.pretrained import RANDOM
from gems_edge.report.page import Block, KeyFigure, KeyFigures, Note, Section, Table
from gems_edge.reproduce.claims import Claim
from gems_edge.reproduce.grid import Cell, core_hours
from gems_edge.reproduce.job import Document
from gems_edge.reproduce.power import needs, needs_section
from gems_edge.reproduce.protocol import RUN, TEST_SEED, Preset, S, Trial
from gems_edge.reproduce.results import Row, Rows, rows_of
from gems_edge.reproduce.verdicts import FAILS, HOLDS, MISSING, NONE, OPEN

P = TypeVar("P", bound=Preset)
# What validation may rise by from one fifth of a training to the next if it is at its end.
FLAT = 0.01


@dataclass(frozen=True)
class Study(Generic[P, S]):
    """What is asked for, and what is done of it."""

    preset: P
    directory: Path
    parts: Mapping[str, Sequence[Trial[S]]]  # "table 2", … → its trials
    cells: Sequence[Cell]
    results: Mapping[str, Document]  # of the trials that are done

    def rows(self, part: str) -> Rows[S]:
        return rows_of(self.parts[part], self.results, self.preset.alpha)

    @cached_property
    def trials(self) -> list[Trial[S]]:
        return [trial for trials in self.parts.values() for trial in trials]

    @cached_property
    def all_rows(self) -> Rows[S]:
        return rows_of(self.trials, self.results, self.preset.alpha)

    @property
    def missing(self) -> list[str]:
        """Names of the cells that are not done."""
        return [cell.name for cell in self.cells if cell.name not in self.results]

    def resolved(self, trials: Iterable[Trial[S]], config: TrainConfig) -> TrainConfig:
        """The settings of the first run of `trials`, which has found image size, channels and widths; else `config`."""
        runs = (self.directory / "cells" / trial.name / RUN for trial in trials if trial.name in self.results)
        return next((read_config(path) for run in runs if (path := run / "config.toml").exists()), config)


@dataclass(frozen=True)
class Reproduction:
    sections: tuple[Section, ...]
    printed: tuple[Section, ...]  # those whose tables a terminal shows
    document: dict[str, Any]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class PaperPage:
    """What a paper says of its own page."""

    source: str  # authors, title, place and year
    rules: Sequence[str]  # how a verdict comes about
    at: str  # heading of what tells a claim's findings apart
    title: str = "The paper's claims"
    notes: Sequence[str] = ()  # where the paper is damaged, contradicts itself or is read wrongly
    advice: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # claim → verdict → what it means in practice


def reproduction(
    study: Study[P, S], paper: PaperPage, claims: Sequence[Claim], shown: Sequence[Section], printed: Sequence[Section],
    how: Sequence[Block], row_document: Callable[[Row[S]], Mapping[str, Any]],
) -> Reproduction:  # fmt: skip
    """`shown`: the paper's tables and figures; `printed`: those of them for a terminal; `how`: what was trained how."""
    sections = [_summary(study, paper, claims), *_claims_sections(claims, paper), *shown]
    if needed := needs_section(study.preset, claims):
        sections.append(needed)
    if claims:
        sections.append(_quotes_section(claims, paper))
    sections.append(Section("How it was done", tuple(how)))
    lines = [(claim.setup, claim.text, claim.explained) for claim in claims]
    brief = [Section(paper.title, [Table(("setup", "claim", "here"), lines)])] if claims else []
    document = _document(study, paper, claims, row_document)
    return Reproduction(tuple(sections), (*printed, *brief), document, tuple(claims))


def _document(
    study: Study[P, S], paper: PaperPage, claims: Sequence[Claim], row_document: Callable[[Row[S]], Mapping[str, Any]]
) -> dict[str, Any]:
    rows = [
        {
            "method": row.method, "variant": row.variant, "mode": row.mode,
            "seeds": {"wanted": list(row.wanted), "done": list(row.done)}, **row_document(row),
        }
        for row in study.all_rows
    ]  # fmt: skip
    preset, planned, missing = study.preset, len(study.cells), study.missing
    return {
        "preset": preset.name, "about": preset.about, "parts": list(study.parts), "source": paper.source,
        "claims_title": paper.title, "at": paper.at, "rules": list(paper.rules), "notes": list(paper.notes),
        "advice": {key: dict(words) for key, words in paper.advice.items()}, "margin": preset.margin,
        "cells": {"planned": planned, "done": planned - len(missing), "missing": missing},
        "seeds": preset.seeds, "episodes": preset.episodes,
        "core_hours": core_hours(study.results.values()), "flatness": flatness(study.results),
        "readings": list(preset.readings), "level": 1 - preset.alpha, "needs": needs(preset, claims), "rows": rows,
        "claims": [claim.as_dict() for claim in claims],
    }  # fmt: skip


def _summary(study: Study[P, S], paper: PaperPage, claims: Sequence[Claim]) -> Section:
    preset, counts = study.preset, Counter(claim.verdict for claim in claims)
    rest = ", ".join(f"{counts[word]} {word}" for word in (OPEN, MISSING) if counts[word])
    planned, missing = len(study.cells), len(study.missing)
    figures = (
        KeyFigure("preset", preset.name, "what was asked for: " + ", ".join(study.parts)),
        KeyFigure("cells done", f"{planned - missing} of {planned}", "trainings, each tested on new episodes"),
        KeyFigure("trainings", str(preset.seeds), "of each entry, from other seeds"),
        KeyFigure("test episodes", str(preset.episodes), "a training, the same for all"),
        KeyFigure(paper.title, f"{counts[HOLDS]} hold, {counts[FAILS]} do not", rest),
    )
    blocks: list[Block] = [KeyFigures(figures), Note(preset.about), *_flat_note(study.results)]
    if missing:
        text = "Not everything is done: what is missing is shown as “–”. The same command goes on with it."
        blocks.append(Note(text))
    return Section("What was done", tuple(blocks))


def flatness(results: Mapping[str, Document]) -> dict[str, Any] | None:
    """Whether trainings were at their end: by how much validation rose from the last fifth but one to the last fifth.

    None where no training was validated often enough to say.
    """
    gains = [gain for result in results.values() if (gain := _late_gain(result["training"])) is not None]
    if not gains:
        return None
    flat = sum(gain < FLAT for gain in gains)
    return {"mean": sum(gains) / len(gains), "most": max(gains), "flat": flat, "trainings": len(gains)}


def _late_gain(training: Mapping[str, Any]) -> float | None:
    fifth = training.get("iterations", 0) / 5
    fifths: tuple[list[float], list[float]] = ([], [])
    for iteration, accuracy in training.get("validation", ()):
        if iteration > 3 * fifth:
            fifths[iteration > 4 * fifth].append(accuracy)
    before, last = (sum(each) / len(each) if each else None for each in fifths)
    return None if before is None or last is None else last - before


def _flat_note(results: Mapping[str, Document]) -> list[Note]:
    if (found := flatness(results)) is None:
        return []
    text = (
        f"Trained to the end? From the last fifth of the iterations but one to the last, accuracy on validation rose "
        f"by {100 * found['mean']:.1f} points on average and {100 * found['most']:.1f} at most; in {found['flat']} of "
        f"{found['trainings']} trainings by less than {100 * FLAT:g}."
    )
    return [Note(text)]


# --- Claims ---


def _claims_sections(claims: Sequence[Claim], paper: PaperPage) -> list[Section]:
    """A section per setup, a line per finding."""
    header = ("claim", paper.at, "here", "there", "verdict")
    caption = "Accuracies in the mode that was trained in. When a claim holds: see the end of this page."
    rows: dict[str, list[tuple[str, ...]]] = {}
    for claim in claims:
        first, *others = [(f.label, f.text, f.verdict) for f in claim.findings] or [("", NONE, "")]
        rows.setdefault(claim.setup, []).append((claim.text, *first, claim.explained))
        rows[claim.setup] += [("", *line, "") for line in others]
    return [Section(f"{paper.title}: {setup}", [Table(header, own, caption)]) for setup, own in rows.items()]


def _quotes_section(claims: Sequence[Claim], paper: PaperPage) -> Section:
    """The paper's words, what was made of them, and how a verdict comes about."""
    checked: dict[Any, dict[str, None]] = {}
    for claim in claims:
        checked.setdefault(claim.quote, {})[claim.text] = None
    rows = tuple((quote.words, quote.where, "; ".join(texts)) for quote, texts in checked.items())
    caption = f"{paper.source} “[…]” marks what is left out."
    table = Table(("the paper's words", "where", "checked as"), rows, caption)
    return Section("What the paper claims, and when it holds here", (table, *map(Note, paper.rules)))


# --- How it was done ---


def recipe(config: TrainConfig) -> dict[str, str]:
    """The settings that the page shows of every training."""
    episode = f"{config.ways}-way {config.shots}-shot"
    channels = f"{config.channels} channel{'s' * (config.channels > 1)}"
    if config.train_ways:
        episode += f", trained on {config.train_ways}-way"
    start = {} if config.init == RANDOM else {"starts from": config.init}
    split = {"learns from": config.learn_from} if config.splits else {}
    return {
        "network": f"{config.backbone}, widths {config.widths_text}, head {config.head}",
        **start,
        **split,
        "images": f"{config.image_size} px, {channels}" if config.image_size else "the data's own size",
        "episodes": f"{episode}, {config.queries} queries a class, {config.meta_batch} an iteration",
        "inner loop": f"{config.steps} steps of SGD, {config.inner_lr:g}",
        "outer loop": f"Adam {config.lr:g}, {config.schedule}, {config.iterations:,} iterations",
        "normalisation": config.normalization,
        "validation": f"{config.validation_episodes} episodes every {config.validate_every:,} iterations; best kept",
    }


def settings_table(ours: Mapping[str, str], theirs: Mapping[str, str], paper: str, caption: str = "") -> Table:
    """Our settings beside those under the heading `paper`, where there are any."""
    if not theirs:
        return Table(("setting", "here"), tuple(ours.items()), caption)
    rows = [(name, own, theirs.get(name, "")) for name, own in ours.items()]
    return Table(("setting", "here", paper), rows, caption)


def conditions_table(preset: Preset, *more: tuple[str, str]) -> Table:
    """How much was trained and tested, and on what machine the page was written."""
    episodes, facts = f"{preset.episodes} of each distribution, seed {TEST_SEED}", host_facts()
    rows = (
        ("trainings of each entry", str(preset.seeds)),
        *more,
        ("test episodes a training", f"{episodes}: the same for every network"),
        ("CPU cores of the machine that wrote this page", str(facts["cores"])),
        ("processor", f"{facts.get('cpu', 'unknown')}, {facts['machine']}"),
        ("torch", importlib.metadata.version("torch")),
        ("Python", facts["python"]),
    )
    return Table(("", ""), rows)
