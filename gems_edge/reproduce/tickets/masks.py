"""Figures 6, 7, 9, 10, 11 and 15 of a reproduction: masks computed from the weights that its dense runs have left."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gems_edge.meta.run import Run
from gems_edge.models.ticket import Masks, load_ticket
from gems_edge.report import ticket_sections
from gems_edge.report.page import Note, Section
from gems_edge.reproduce.tickets import mask_claims
from gems_edge.reproduce.tickets.cell import RUN
from gems_edge.reproduce.tickets.plan import Want
from gems_edge.reproduce.tickets.protocol import Preset, Setup
from gems_edge.reproduce.tickets.results import Rows
from gems_edge.reproduce.tickets.tables import title_of
from gems_edge.reproduce.verdicts import Claim, percent
from gems_edge.tickets import analysis, criteria

Scores = dict[str, np.ndarray]


def mask_sections(number: int, preset: Preset, rows: Rows, directory: Path) -> tuple[list[Section], list[Claim]]:
    """A section per setup and the claims that it checks. A setup of which nothing is done has a note in its place."""
    draw = {6: _layer_ratios, 7: _overlap, 15: _overlap, 9: _emergence, 10: _hamming, 11: _hamming}[number]
    sections, found = [], []
    for row in rows:
        title = f"Figure {number}: {TITLES[number]}, {title_of(row.setup)}"
        runs = [
            Run(directory / "cells" / Want(row.setup, "dense", 0.0, seed, shared_init=True).name / RUN)
            for seed in row.done
        ]
        if not runs:
            sections.append(Section(title, (Note("No dense network of this figure is trained yet."),)))
            continue
        section, claim = draw(row.setup, preset, runs, title)
        missing = len(row.wanted) - len(runs)
        if missing:
            section = Section(
                title, (*section.blocks, Note(f"{missing} of {len(row.wanted)} networks are not trained yet."))
            )
        sections.append(section)
        found += [claim] if claim else []
    return sections, found


TITLES = {
    6: "share removed per layer", 7: "what tickets keep in common", 9: "when the primary mask is there",
    10: "distance between masks of checkpoints", 11: "distance between masks of checkpoints",
    15: "what tickets keep in common",
}  # fmt: skip


def _layer_ratios(setup: Setup, preset: Preset, runs: Sequence[Run], title: str):
    scores = [best_scores(run) for run in runs]
    groups = {ratio: [analysis.layer_ratios(criteria.largest(s, ratio)) for s in scores] for ratio in preset.ratios}
    section = ticket_sections.ratios_section({percent(ratio): group for ratio, group in groups.items()}, title)
    return section, mask_claims.ratios_claim(setup, groups)


def _overlap(setup: Setup, preset: Preset, runs: Sequence[Run], title: str):
    scores, panels, kept, notes = [best_scores(run) for run in runs], {}, {}, []
    for ratio in preset.curve_ratios:
        tickets = [criteria.largest(one, ratio) for one in scores]
        empty = [name for name, mask in tickets[0].items() if not mask.any()]
        if empty:
            notes.append(Note(f"At {percent(ratio)} the first ticket keeps nothing of {', '.join(empty)}: left out."))
        tickets = [{name: mask for name, mask in masks.items() if name not in empty} for masks in tickets]
        panels[ratio] = analysis.overlap(tickets)
        kept[ratio] = {name: _share([masks[name] for masks in tickets]) for name in tickets[0]}
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


def _emergence(setup: Setup, preset: Preset, runs: Sequence[Run], title: str):
    """The primary mask is that of the tickets of all runs; a curve is the mean over the runs."""
    best, means, single, notes = [best_scores(run) for run in runs], {}, {}, []
    first = next(iter(best[0]))
    looks = {ratio: [[] for _ in runs] for ratio in preset.ratios}
    for place, run in enumerate(runs):
        for iteration in run.kept_iterations():
            scores = criteria.magnitudes(run.kept(iteration))
            for ratio in preset.ratios:
                looks[ratio][place].append((iteration, criteria.largest(scores, ratio)[first]))
    for ratio in preset.ratios:
        tickets: list[Masks] = [criteria.largest(scores, ratio) for scores in best]
        if not np.logical_and.reduce([masks[first] for masks in tickets]).any():
            notes.append(
                Note(f"At {percent(ratio)} the tickets share no position of {first}: there is no primary mask.")
            )
            continue
        primary = analysis.primary(tickets, first)
        single[ratio] = [analysis.emergence(masks, primary) for masks in looks[ratio]]
        mean = [(points[0][0], sum(share for _, share in points) / len(points)) for points in zip(*single[ratio])]
        means[f"{percent(ratio)} removed"] = mean
    if not means:
        return Section(title, tuple(notes)), None
    section = ticket_sections.emergence_section(means, setup.config.iterations, title)
    about = Note(
        f"Primary mask: what the first layers of all {len(runs)} tickets share. Curves are means over their {len(runs)} "
        "trainings; each mask is the first layer of the whole network pruned at that iteration."
    )
    return Section(title, (*section.blocks, about, *notes)), mask_claims.emergence_claim(setup, single)


def _hamming(setup: Setup, preset: Preset, runs: Sequence[Run], title: str):
    """Of the first run: its whole-network masks at the iterations that it kept."""
    iterations = runs[0].kept_iterations()
    scores = [criteria.magnitudes(runs[0].kept(iteration)) for iteration in iterations]
    panels = {
        percent(ratio): (iterations, analysis.hamming([criteria.largest(one, ratio) for one in scores]))
        for ratio in preset.curve_ratios
    }
    return ticket_sections.hamming_section(panels, title), None


def best_scores(run: Run) -> Scores:
    """Magnitudes of the weights that MWT prunes by: the best on validation."""
    return criteria.magnitudes(run.model()[1])


def untrained_shares(rows: Rows, directory: Path) -> dict[tuple[str, float], float]:
    """(setup, ratio) → least share over the seeds of PMT's first-layer mask that the mask of its untrained weights has."""
    shares: dict[tuple[str, float], float] = {}
    for row in rows:
        if row.method != "pmt" or row.variant or row.shared_init:
            continue
        for document in row.done.values():
            run = Run(directory / "cells" / document["name"] / RUN)
            if run.ticket_path.exists() and run.initial_path.exists():
                first, mask = next(iter(load_ticket(run.ticket_path).masks.items()))
                start = criteria.largest_of(criteria.magnitudes(run.initial())[first], int(mask.sum()))
                key = row.setup.name, row.ratio
                shares[key] = min(shares.get(key, 1.0), analysis.overlap_of(start, mask))
    return shares


def _share(masks: Sequence[np.ndarray]) -> float:
    return float(np.mean([mask.mean() for mask in masks]))
