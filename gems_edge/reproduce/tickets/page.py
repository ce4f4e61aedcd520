"""The page of `reproduce tickets`: what is done of a paper's tables and figures, beside what the paper says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gems_edge.data.specs import specs_text
from gems_edge.meta.settings.run import TrainConfig, read_config
from gems_edge.report import ticket_plots as plots
from gems_edge.report.page import Block, Note, Picture, Section, Table
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
from gems_edge.reproduce.tickets import plan
from gems_edge.reproduce.tickets import tables as tables
from gems_edge.reproduce.tickets.cell import RUN
from gems_edge.reproduce.tickets.claims import RULES, accuracy_claims, cost_claims
from gems_edge.reproduce.tickets.curves import CURVES, curve_sections
from gems_edge.reproduce.tickets.masks import mask_sections, untrained_shares
from gems_edge.reproduce.tickets.plan import TEST_SEED, Want
from gems_edge.reproduce.tickets.protocol import PAPER, Preset, Setup
from gems_edge.reproduce.tickets.results import COSTS, Row, Rows, factor, rows_of
from gems_edge.reproduce.verdicts import Claim, percent

FIGURE = "figure "
SOURCE = "Gao et al., Finding Meta Winning Ticket to Train Your MAML, KDD 2022."


@dataclass(frozen=True)
class Study:
    """What is asked for, and what is done of it."""

    preset: Preset
    directory: Path
    parts: Mapping[str, Sequence[Want]]  # see plan.parts
    cells: Sequence[Cell]
    results: Mapping[str, Document]  # of the cells that are done

    def rows(self, part: str) -> Rows:
        return rows_of(self.parts[part], self.results)

    @cached_property
    def all_rows(self) -> Rows:
        return rows_of([want for wants in self.parts.values() for want in wants], self.results)

    @property
    def figures(self) -> list[int]:
        return [int(part.removeprefix(FIGURE)) for part in self.parts if part.startswith(FIGURE)]


def reproduce(study: Study) -> Reproduction:
    """Everything that is known, as sections of a page and as a document."""
    rows = study.all_rows
    claims = accuracy_claims(rows) + cost_claims(rows, untrained_shares(rows, study.directory))
    accuracies, costs, figures = [], [], []
    for part in study.parts:
        if part.startswith(FIGURE):
            continue
        own = study.rows(part)
        accuracies += [tables.accuracy_section(own, setup) for setup in own.setups]
        for setup in own.setups:
            section = tables.cost_section(own, setup, study.preset.name == PAPER.name)
            costs.append(Section(section.title, (*section.blocks, *_watched(own.of(setup)))))
    for number in study.figures:
        own = study.rows(f"{FIGURE}{number}")
        if number in CURVES:
            figures += curve_sections(number, own)
            continue
        drawn, found = mask_sections(number, study.preset, own, study.directory)
        figures, claims = figures + drawn, claims + found
    order = [setup.name for setup in rows.setups]
    claims.sort(key=lambda claim: order.index(claim.setup))
    shown = [*claims_sections(claims, "removed"), *accuracies, *costs, *figures]
    quotes = [quotes_section(claims, SOURCE, RULES)] if claims else []
    summary = summary_section(study.preset, list(study.parts), study.cells, study.results, claims)
    sections = (summary, *shown, *quotes, *protocol_sections(study))
    # Who asks for Table 2 or 3 asks for costs; the accuracies stand on the page.
    answered = accuracies if plan.ACCURACY in study.parts else []
    printed = (*answered, *costs, *figures, *brief_claims(claims))
    return Reproduction(sections, printed, _document(study, claims))


def _watched(rows: Rows) -> list[Block]:
    """The overlaps that PMT has watched, of all seeds at the ratio nearest to the paper's 80 %."""
    tickets = [row for row in rows if row.method == "pmt" and row.done]
    if not tickets:
        return []
    row = min(tickets, key=lambda row: abs(row.ratio - 0.8))
    found = {seed: document["ticket"]["found"] for seed, document in row.done.items()}
    curves = {f"seed {seed}": one["overlaps"] for seed, one in found.items() if one["overlaps"]}
    if not curves:
        return []
    about = f"Overlap of successive first-layer masks that PMT watches, {percent(row.ratio)} removed."
    return [Picture(plots.watched_overlap(curves, row.setup.ticket.delta), about)]


# --- How it was done ---


def protocol_sections(study: Study) -> list[Section]:
    blocks: list[Block] = []
    for setup in study.all_rows.setups:
        theirs = next(
            (s for s in PAPER.setups if s.row == setup.row and s.config.backbone == setup.config.backbone), None
        )
        ours = _settings(setup, _resolved(study, setup))
        other = _settings(theirs, theirs.config) if theirs else {}
        rows = tuple((name, value, other.get(name, "")) for name, value in ours.items())
        blocks.append(Table(("setting", "here", f"the paper's {setup.row}"), rows, tables.title_of(setup)))
    preset = study.preset
    rows = (
        ("trainings of each entry", str(preset.seeds)),
        ("tickets of one network (figures 6, 7, 9 to 11, 14, 15)", str(preset.tickets)),
        ("test episodes a training", f"{preset.episodes}, seed {TEST_SEED}: the same for every network"),
        *machine_rows(),
    )
    about = Note(
        "PMT can stop after two looks at the earliest, so γ and δ bound what it can save. δ, l, γ's share of the run and the "
        "masks behind the first layer are ours: the paper does not give them."
    )
    return [Section("How it was done", (*blocks, Table(("", ""), rows), about))]


def _resolved(study: Study, setup: Setup) -> TrainConfig:
    """The setup's settings with image size and widths as a run of it has found them."""
    for row in study.all_rows:
        for document in row.done.values() if row.setup == setup else ():
            path = study.directory / "cells" / document["name"] / RUN / "config.toml"
            if path.exists():
                return read_config(path)
    return setup.config


def _settings(setup: Setup, config: TrainConfig) -> dict[str, str]:
    ticket = setup.ticket
    return {
        "data": setup.data if config.data == TrainConfig.data else specs_text(config.data),
        "network": f"{config.backbone}, widths {config.widths_text}, head {config.head}",
        "images": f"{config.image_size} px, {config.channels} channels" if config.image_size else "the data's own size",
        "episodes": f"{config.ways}-way {config.shots}-shot, {config.queries} queries a class, {config.meta_batch} an iteration",
        "method": config.method,
        "inner loop": f"{config.steps} steps of SGD, {config.inner_lr:g}",
        "outer loop": f"Adam {config.lr:g}, {config.schedule}, {config.iterations:,} iterations",
        "normalisation": config.normalization,
        "validation": f"{config.validation_episodes} episodes every {config.validate_every:,} iterations; the best stays",
        "PMT": f"γ = {ticket.interval}, l = {ticket.queue}, δ = {ticket.delta:g}, {ticket.stable} of the queue; behind the "
        f"first layer: {ticket.secondary}",
    }  # fmt: skip


# --- As a document ---


def _document(study: Study, claims: Sequence[Claim]) -> dict[str, Any]:
    return {
        "preset": study.preset.name,
        "parts": list(study.parts),
        "cells": cells_document(study.cells, study.results),
        "seeds": study.preset.seeds,
        "episodes": study.preset.episodes,
        "rows": [_row_document(study.all_rows, row) for row in study.all_rows],
        "claims": [claim.as_dict() for claim in claims],
    }  # fmt: skip


def _row_document(rows: Rows, row: Row) -> dict[str, Any]:
    accuracies = {mode: found.as_dict() for mode in row.modes if (found := row.accuracy(mode))}
    costs = {name: found.as_dict() if (found := row.cost(name)) else None for name in COSTS}
    mwt = rows.find(row.setup, "mwt", row.ratio, shared=row.shared_init) if row.ratio else None
    factors = {name: found.as_dict() for name in COSTS if (found := factor(mwt, row, name))} if mwt else {}
    return {
        "setup": row.setup.name, "method": row.method, "ratio": row.ratio, "variant": row.variant,
        "shared_init": row.shared_init, "mode": row.mode, "seeds": {"wanted": list(row.wanted), "done": list(row.done)},
        "accuracy": accuracies, "cost": costs, "times_less_than_mwt": factors,
    }  # fmt: skip
