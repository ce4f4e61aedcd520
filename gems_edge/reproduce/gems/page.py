"""The page of `reproduce gems`: what is done of a study's tables, beside what the paper says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gems_edge.meta.settings.run import TrainConfig, read_config
from gems_edge.report.page import Note, Section, Table
from gems_edge.reproduce.gems.cell import RUN
from gems_edge.reproduce.gems.choices import choice_sections
from gems_edge.reproduce.gems.claims import RULES, claims_of
from gems_edge.reproduce.gems.paper import training_on
from gems_edge.reproduce.gems.plan import TEST_SEED, Want
from gems_edge.reproduce.gems.protocol import PAPER, Preset
from gems_edge.reproduce.gems.results import TIMES, Row, Rows, rows_of
from gems_edge.reproduce.gems.tables import ABLATIONS, accuracy_section
from gems_edge.reproduce.grid import Cell, Document
from gems_edge.reproduce.page import (
    Reproduction,
    brief_claims,
    cells_document,
    claims_sections,
    machine_rows,
    quotes_section,
    summary_section,
)
from gems_edge.reproduce.verdicts import Claim

SOURCE = "Pimpalkhute et al., GEMS: Generating Efficient Meta-Subnets, WACV 2023."


@dataclass(frozen=True)
class Study:
    """What is asked for, and what is done of it."""

    preset: Preset
    directory: Path
    parts: Mapping[int, Sequence[Want]]  # see gems_plan.parts
    cells: Sequence[Cell]
    results: Mapping[str, Document]  # of the cells that are done

    def rows(self, number: int) -> Rows:
        return rows_of(self.parts[number], self.results, self.preset.config.normalization)

    @cached_property
    def all_rows(self) -> Rows:
        wants = [want for wants in self.parts.values() for want in wants]
        return rows_of(wants, self.results, self.preset.config.normalization)

    @property
    def names(self) -> list[str]:
        return [f"table {number}" for number in self.parts]


def reproduce_gems(study: Study) -> Reproduction:
    """Everything that is known, as sections of a page and as a document."""
    claims = claims_of(study.preset, study.all_rows)
    shown = [section for number in study.parts for section in _table_sections(study, number)]
    sections = (
        summary_section(study.preset, study.names, study.cells, study.results, claims),
        *claims_sections(claims, "of"), *shown, *choice_sections(study.all_rows),
        *([quotes_section(claims, SOURCE, RULES)] if claims else []), _protocol_section(study),
    )  # fmt: skip
    return Reproduction(sections, (*shown, *brief_claims(claims)), _document(study, claims))


def _table_sections(study: Study, number: int) -> list[Section]:
    rows = study.rows(number)
    if number in ABLATIONS:
        return [ABLATIONS[number](rows, study.preset)]
    sections = []
    for mixture in rows.mixtures:
        sets = mixture if number == 1 else study.preset.unseen(mixture)
        sections.append(accuracy_section(number, rows, mixture, sets))
    return sections


# --- How it was done ---


def _protocol_section(study: Study) -> Section:
    preset = study.preset
    ours, theirs = _settings(preset, _resolved(study)), _settings(PAPER, PAPER.config)
    rows = tuple((name, value, theirs[name]) for name, value in ours.items())
    data = tuple((name, spec, _use(preset, name)) for name, spec in preset.data.items())
    about = (
        "The paper's settings stand in a supplement that is not available; the preset paper's are our decision where the paper "
        "is silent. The adapter's architecture is our reading too (notes on the algorithms)."
    )
    tests = (
        ("trainings of each entry", str(preset.seeds)),
        ("test episodes", f"{preset.episodes} of each distribution, seed {TEST_SEED}: the same for every network"),
        *machine_rows(),
    )
    blocks = (
        Table(("setting", "here", "preset paper"), rows), Table(("distribution", "images", "use"), data),
        Table(("", ""), tests), Note(about),
    )  # fmt: skip
    return Section("How it was done", blocks)


def _use(preset: Preset, name: str) -> str:
    trained = any(name in mixture for mixture in preset.mixtures)
    return "trained and tested" if trained else "only tested"


def _resolved(study: Study) -> TrainConfig:
    """The settings with image size and widths as a run has found them."""
    for cell in study.cells:
        path = study.directory / "cells" / cell.name / RUN / "config.toml"
        if cell.name in study.results and path.exists() and "-steps" not in cell.name:
            return read_config(path)
    return study.preset.config


def _settings(preset: Preset, config: TrainConfig) -> dict[str, str]:
    others = [
        f"{method}: {', '.join(f'{k} {v}' for k, v in values.items())}" for method, values in preset.methods.items()
    ]
    return {
        "mixtures": "; ".join(" + ".join(mixture) for mixture in preset.mixtures),
        "network": f"{config.backbone}, widths {config.widths_text}, head {config.head}",
        "images": f"{config.image_size} px, {config.channels} channel{'s' * (config.channels > 1)}",
        "episodes": f"{config.ways}-way {config.shots}-shot, {config.queries} queries a class, {config.meta_batch} an iteration",
        "inner loop": f"{preset.config.steps} steps of SGD, {config.inner_lr:g}",
        "outer loop": f"Adam {config.lr:g}, {config.schedule}, {config.iterations:,} iterations (of each model of Multi-MAML)",
        "methods that differ": "; ".join(others) or "none",
        "normalisation": config.normalization,
        "validation": f"{config.validation_episodes} episodes every {config.validate_every:,} iterations; the best stays",
    }  # fmt: skip


# --- As a document ---


def _document(study: Study, claims: Sequence[Claim]) -> dict[str, Any]:
    return {
        "preset": study.preset.name,
        "parts": study.names,
        "cells": cells_document(study.cells, study.results),
        "seeds": study.preset.seeds,
        "episodes": study.preset.episodes,
        "mode": study.preset.config.normalization,
        "rows": [_row_document(study, row) for row in study.all_rows],
        "claims": [claim.as_dict() for claim in claims],
    }


def _row_document(study: Study, row: Row) -> dict[str, Any]:
    first = next(iter(row.done.values()), {"accuracy": {}})
    accuracy = {name: _accuracies(row, (name,)) for name in first["accuracy"]}
    unseen = tuple(name for name in first["accuracy"] if name not in row.mixture)
    means = {"seen": _accuracies(row, row.mixture), "unseen": _accuracies(row, unseen) if unseen else {}}
    document = {
        "mixture": list(row.mixture), "method": row.method, "variant": row.variant, "mode": row.mode,
        "seeds": {"wanted": list(row.wanted), "done": list(row.done)}, "accuracy": accuracy, "mean": means,
        "time": {name: found.as_dict() if (found := row.time(name)) else None for name in TIMES},
        "paper": None if row.variant else _paper(row),
    }  # fmt: skip
    chosen = {str(seed): done["choices"] for seed, done in row.done.items() if done.get("choices")}
    return document | ({"layers": first["layers"], "choices": chosen} if chosen else {})


def _accuracies(row: Row, sets: Sequence[str]) -> dict[str, Any]:
    """Mode → accuracy over the seeds."""
    return {mode: found.as_dict() for mode in row.modes if (found := row.accuracy(sets, mode))}


def _paper(row: Row) -> dict[str, Any] | None:
    """What the paper prints of its training on as many distributions."""
    trained = training_on(row.mixture)
    if trained is None or row.method not in trained.time:
        return None
    return {
        "mixture": list(trained.mixture), "time": trained.time[row.method],
        "seen": {name: one.accuracy for name, one in trained.seen[row.method].items()},
        "unseen": {name: one.accuracy for name, one in trained.unseen[row.method].items()},
    }  # fmt: skip
