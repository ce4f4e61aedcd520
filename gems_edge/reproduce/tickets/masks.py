"""Figures 6, 7, 9, 10, 11 and 15 of a reproduction: masks computed from the weights that its dense runs have left."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gems_edge.meta.run import Run
from gems_edge.models.ticket import Masks, load_ticket
from gems_edge.report import ticket_sections
from gems_edge.report.page import Note, Section
from gems_edge.reproduce.protocol import RUN, Trial
from gems_edge.reproduce.tickets import mask_claims
from gems_edge.reproduce.tickets.plan import TicketRow, TicketRows
from gems_edge.reproduce.tickets.protocol import TicketPreset, TicketSetup
from gems_edge.reproduce.tickets.tables import title_of
from gems_edge.reproduce.verdicts import Claim, percent
from gems_edge.tickets import analysis, criteria

TITLES = {
    6: "share removed per layer", 7: "what tickets keep in common", 9: "when the primary mask is there",
    10: "distance between masks of checkpoints", 11: "distance between masks of checkpoints",
    15: "what tickets keep in common",
}  # fmt: skip
Drawn = tuple[Section, Claim | None]


def mask_sections(
    number: int, preset: TicketPreset, rows: TicketRows, directory: Path
) -> tuple[list[Section], list[Claim]]:
    """A section per setup and the claims that it checks. A setup of which nothing is done has a note in its place."""
    draw = {6: _layer_ratios, 7: _overlap, 15: _overlap, 9: _emergence, 10: _hamming, 11: _hamming}[number]
    sections, claims = [], []
    for row in rows:
        title = f"Figure {number}: {TITLES[number]}, {title_of(row.setup)}"
        runs = _runs(row, directory)
        if not runs:
            sections.append(Section(title, (Note("No dense network of this figure is trained yet."),)))
            continue
        section, claim = draw(row.setup, preset, runs, title)
        missing = len(row.wanted) - len(runs)
        if missing:
            note = Note(f"{missing} of {len(row.wanted)} networks are not trained yet.")
            section = replace(section, blocks=(*section.blocks, note))
        sections.append(section)
        if claim:
            claims.append(claim)
    return sections, claims


def _runs(row: TicketRow, directory: Path) -> list[Run]:
    """The runs of a row that are done."""
    trials = [
        Trial(row.setup, row.method, seed, row.ratio, row.variant, shared_init=row.shared_init) for seed in row.done
    ]
    return [Run(directory / "cells" / trial.name / RUN) for trial in trials]


def _layer_ratios(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run], title: str) -> Drawn:
    scores = [best_scores(run) for run in runs]
    groups = {ratio: [analysis.layer_ratios(criteria.largest(s, ratio)) for s in scores] for ratio in preset.ratios}
    section = ticket_sections.ratios_section({percent(ratio): group for ratio, group in groups.items()}, title)
    return section, mask_claims.ratios_claim(setup, groups)


def _overlap(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run], title: str) -> Drawn:
    scores, notes = [best_scores(run) for run in runs], []
    panels: dict[float, dict[str, list[float]]] = {}
    kept: dict[float, dict[str, float]] = {}
    for ratio in preset.curve_ratios:
        tickets = [criteria.largest(score, ratio) for score in scores]
        empty = [name for name, mask in tickets[0].items() if not mask.any()]
        if empty:
            notes.append(Note(f"At {percent(ratio)} the first ticket keeps nothing of {', '.join(empty)}: left out."))
        tickets = [{name: mask for name, mask in masks.items() if name not in empty} for masks in tickets]
        panels[ratio] = analysis.overlap(tickets)
        kept[ratio] = {name: float(np.mean([masks[name].mean() for masks in tickets])) for name in tickets[0]}
        notes += _untrained(runs[0], tickets[0], ratio)
    section = ticket_sections.overlap_section({percent(ratio): panel for ratio, panel in panels.items()}, title)
    return Section(title, (*section.blocks, *notes)), mask_claims.overlap_claim(setup, panels, kept)


def _untrained(run: Run, ticket: Masks, ratio: float) -> list[Note]:
    """How much of the ticket the initial weights, which all tickets share, would have given by themselves."""
    if 0 not in run.kept_iterations():
        return []
    start = criteria.largest(criteria.magnitudes(run.kept(0)), ratio)
    common = {name: int((mask & start[name]).sum()) for name, mask in ticket.items()}
    kept = {name: int(mask.sum()) for name, mask in ticket.items()}
    first, *others = ticket
    behind = sum(common[name] for name in others) / sum(kept[name] for name in others)
    text = f"{percent(ratio)} removed: {common[first] / kept[first]:.1%} of the first ticket's first layer and {behind:.1%} "
    return [Note(text + "of its other layers are in the mask of the untrained weights, which all tickets share.")]


def _emergence(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run], title: str) -> Drawn:
    """The primary mask is that of the tickets of all runs; a curve is the mean over the runs."""
    scores, notes = [best_scores(run) for run in runs], []
    first = next(iter(scores[0]))
    curves: dict[float, list[list[tuple[int, float]]]] = {}
    for ratio in preset.ratios:
        tickets = [criteria.largest(score, ratio) for score in scores]
        if np.logical_and.reduce([masks[first] for masks in tickets]).any():
            primary = analysis.primary(tickets, first)
            curves[ratio] = [analysis.emergence(_kept_masks(run, ratio, first), primary) for run in runs]
        else:
            text = f"At {percent(ratio)} the tickets share no position of {first}: there is no primary mask."
            notes.append(Note(text))
    if not curves:
        return Section(title, tuple(notes)), None
    means = {f"{percent(ratio)} removed": _mean_curve(group) for ratio, group in curves.items()}
    section = ticket_sections.emergence_section(means, setup.config.iterations, title)
    about = Note(
        f"Primary mask: what the first layers of all {len(runs)} tickets share. Curves are means over their "
        f"{len(runs)} trainings; each mask is the first layer of the whole network pruned at that iteration."
    )
    return Section(title, (*section.blocks, about, *notes)), mask_claims.emergence_claim(setup, curves)


def _kept_masks(run: Run, ratio: float, layer: str) -> list[tuple[int, np.ndarray]]:
    """(iteration, the layer's mask) of the weights that the run has kept."""
    kept = {iteration: criteria.magnitudes(run.kept(iteration)) for iteration in run.kept_iterations()}
    return [(iteration, criteria.largest(scores, ratio)[layer]) for iteration, scores in kept.items()]


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    return [(looks[0][0], sum(share for _, share in looks) / len(looks)) for looks in zip(*curves)]


def _hamming(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run], title: str) -> Drawn:
    """Of the first run: its whole-network masks at the iterations that it kept."""
    iterations = runs[0].kept_iterations()
    checkpoints = [criteria.magnitudes(runs[0].kept(iteration)) for iteration in iterations]
    panels = {
        percent(ratio): (iterations, analysis.hamming([criteria.largest(scores, ratio) for scores in checkpoints]))
        for ratio in preset.curve_ratios
    }
    return ticket_sections.hamming_section(panels, title), None


def best_scores(run: Run) -> dict[str, np.ndarray]:
    """Magnitudes of the weights that MWT prunes by: the best on validation."""
    return criteria.magnitudes(run.model()[1])


def untrained_shares(rows: TicketRows, directory: Path) -> dict[tuple[str, float], float]:
    """(setup, ratio) → least share over the seeds of PMT's first-layer mask that the mask of its untrained weights has."""
    shares: dict[tuple[str, float], float] = {}
    for row in rows:
        if row.method != "pmt" or row.variant or row.shared_init:
            continue
        for run in _runs(row, directory):
            if run.ticket_path.exists() and run.initial_path.exists():
                first, mask = next(iter(load_ticket(run.ticket_path).masks.items()))
                start = criteria.largest_of(criteria.magnitudes(run.initial())[first], int(mask.sum()))
                key = row.setup.name, row.ratio
                shares[key] = min(shares.get(key, 1.0), analysis.overlap_of(start, mask))
    return shares
