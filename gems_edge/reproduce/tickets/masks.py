"""Figures 6, 7, 9, 10, 11 and 15 of a reproduction: masks computed from the weights that its dense runs have left."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.meta.run import Run
from gems_edge.models.ticket import Masks, load_ticket
from gems_edge.report import ticket_sections
from gems_edge.report.page import Block, Note, Section
from gems_edge.report.ticket_plots import layer_label
from gems_edge.report.ticket_sections import since
from gems_edge.reproduce import verdicts
from gems_edge.reproduce.claims import Claim, Finding, claim_of, not_done, spread_finding
from gems_edge.reproduce.pooling import spread
from gems_edge.reproduce.protocol import RUN, Trial
from gems_edge.reproduce.tickets.paper import QUOTES
from gems_edge.reproduce.tickets.plan import TicketRow, TicketRows
from gems_edge.reproduce.tickets.protocol import TicketPreset, TicketSetup
from gems_edge.reproduce.tickets.tables import title_of
from gems_edge.reproduce.verdicts import FAILS, HOLDS, Bound, percent
from gems_edge.tickets import analysis, criteria

TITLES = {
    6: "share removed per layer", 7: "what tickets keep in common", 9: "when the primary mask is there",
    10: "distance between masks of checkpoints", 11: "distance between masks of checkpoints",
    15: "what tickets keep in common",
}  # fmt: skip
Drawn = tuple[Sequence[Block], Claim | None]


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
        blocks, claim = draw(row.setup, preset, runs)
        if missing := len(row.wanted) - len(runs):
            blocks = [*blocks, Note(f"{missing} of {len(row.wanted)} networks are not trained yet.")]
        sections.append(Section(title, blocks))
        if claim:
            claims.append(claim)
    return sections, claims


def _runs(row: TicketRow, directory: Path) -> list[Run]:
    trials = [Trial(row.setup, row.method, seed, row.ratio, row.variant) for seed in row.done]
    return [Run(directory / "cells" / trial.name / RUN) for trial in trials]


def _layer_ratios(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run]) -> Drawn:
    scores = [best_scores(run) for run in runs]
    groups = {ratio: [analysis.layer_ratios(criteria.largest(s, ratio)) for s in scores] for ratio in preset.ratios}
    section = ticket_sections.ratios_section({percent(ratio): group for ratio, group in groups.items()})
    return section.blocks, ratios_claim(setup, groups)


def _overlap(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run]) -> Drawn:
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
    section = ticket_sections.overlap_section({percent(ratio): panel for ratio, panel in panels.items()})
    return [*section.blocks, *notes], overlap_claim(setup, panels, kept)


def _untrained(run: Run, ticket: Masks, ratio: float) -> list[Note]:
    """How much of the ticket the initial weights, which all tickets share, would have given by themselves."""
    if 0 not in run.kept_iterations():
        return []
    start = criteria.largest(criteria.magnitudes(run.kept(0)), ratio)
    first, *others = [(int((mask & start[name]).sum()), int(mask.sum())) for name, mask in ticket.items()]
    common, kept = map(sum, zip(*others))
    text = f"{percent(ratio)} removed: {first[0] / first[1]:.1%} of the first ticket's first layer and "
    text += (
        f"{common / kept:.1%} of its other layers are in the mask of the untrained weights, which all tickets share."
    )
    return [Note(text)]


def _emergence(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run]) -> Drawn:
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
            notes.append(
                Note(f"At {percent(ratio)} the tickets share no position of {first}: there is no primary mask.")
            )
    if not curves:
        return notes, None
    means = {f"{percent(ratio)} removed": _mean_curve(group) for ratio, group in curves.items()}
    section = ticket_sections.emergence_section(means, setup.config.iterations)
    about = Note(
        f"Primary mask: what the first layers of all {len(runs)} tickets share. Curves are means over their "
        f"{len(runs)} trainings; each mask is the first layer of the whole network pruned at that iteration."
    )
    return [*section.blocks, about, *notes], emergence_claim(setup, curves)


def _kept_masks(run: Run, ratio: float, layer: str) -> list[tuple[int, np.ndarray]]:
    """(iteration, the layer's mask) of the weights that the run has kept."""
    kept = {iteration: criteria.magnitudes(run.kept(iteration)) for iteration in run.kept_iterations()}
    return [(iteration, criteria.largest(scores, ratio)[layer]) for iteration, scores in kept.items()]


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    return [(looks[0][0], sum(share for _, share in looks) / len(looks)) for looks in zip(*curves)]


def _hamming(setup: TicketSetup, preset: TicketPreset, runs: Sequence[Run]) -> Drawn:
    """Masks of the whole network at the iterations that the first run kept."""
    iterations = runs[0].kept_iterations()
    checkpoints = [criteria.magnitudes(runs[0].kept(iteration)) for iteration in iterations]
    panels = {
        percent(ratio): (iterations, analysis.hamming([criteria.largest(scores, ratio) for scores in checkpoints]))
        for ratio in preset.curve_ratios
    }
    return ticket_sections.hamming_section(panels).blocks, None


def best_scores(run: Run) -> dict[str, np.ndarray]:
    """Magnitudes of the weights that MWT prunes by: the best on validation."""
    return criteria.magnitudes(run.model()[1])


def untrained_shares(rows: TicketRows, directory: Path) -> dict[tuple[str, float], float]:
    """(setup, ratio) → least share over the seeds of PMT's first mask that its untrained weights have."""
    shares: dict[tuple[str, float], float] = {}
    for row in rows:
        if row.method != "pmt" or row.variant:
            continue
        for run in _runs(row, directory):
            if run.ticket_path.exists() and run.initial_path.exists():
                first, mask = next(iter(load_ticket(run.ticket_path).masks.items()))
                start = criteria.largest_of(criteria.magnitudes(run.initial())[first], int(mask.sum()))
                key = row.setup.name, row.ratio
                shares[key] = min(shares.get(key, 1.0), analysis.overlap_of(start, mask))
    return shares


# --- Claims ---


def ratios_claim(setup: TicketSetup, groups: Mapping[float, Sequence[Mapping[str, float]]]) -> Claim:
    """Figure 6. `groups`: ratio → analysis.layer_ratios of each ticket."""
    findings = []
    for ratio, tickets in groups.items():
        if len(tickets) < 2:
            findings.append(not_done(percent(ratio), "fewer than two tickets"))
            continue
        spans = {name: max(t[name] for t in tickets) - min(t[name] for t in tickets) for name in tickets[0]}
        name = max(spans, key=spans.__getitem__)
        text = f"at most {100 * spans[name]:.2f} points apart ({layer_label(name)})"
        data = {"apart": spans[name], "layer": name, "tickets": len(tickets)}
        findings.append(Finding(percent(ratio), text, HOLDS if spans[name] <= 0.02 else FAILS, data))
    text = "Tickets of one network: the share removed of each layer differs by at most 2 points"
    return claim_of(QUOTES, "layer-ratios", text, setup, findings)


def overlap_claim(
    setup: TicketSetup, panels: Mapping[float, Mapping[str, Sequence[float]]], kept: Mapping[float, Mapping[str, float]]
) -> Claim:
    """Figures 7 and 15. `panels`: ratio → analysis.overlap; `kept`: ratio → share of each layer that the tickets keep.

    G random masks that keep the share k have k^(G−1) in common; that is chance.
    """
    findings = []
    for ratio, layers in panels.items():
        (first, shares), *others = layers.items()
        count = len(shares)
        if ratio < 0.6 or count < 2:
            continue
        chance = {name: kept[ratio][name] ** (count - 1) for name in layers}
        excess = {name: values[-1] - chance[name] for name, values in layers.items()}
        worst = max((name for name, _ in others), key=excess.__getitem__)
        holds = shares[-1] >= 0.4 and excess[first] > 0.05 and excess[worst] <= 0.05
        text = (
            f"O_{count}: first layer {shares[-1]:.1%} (chance {chance[first]:.1%}), {layer_label(worst)} "
            f"{layers[worst][-1]:.1%} (chance {chance[worst]:.1%})"
        )
        data = {"tickets": count, "first": shares[-1], "first_chance": chance[first], "other": layers[worst][-1],
                "other_chance": chance[worst], "other_layer": worst}  # fmt: skip
        findings.append(Finding(percent(ratio), text, HOLDS if holds else FAILS, data))
    text = (
        "From 60 % on all tickets share at least 40 % of the first layer's mask, more than chance; every other layer's "
        "share is at most 5 points above chance"
    )
    return claim_of(QUOTES, "overlap", text, setup, findings)


def emergence_claim(setup: TicketSetup, runs: Mapping[float, Sequence[Sequence[tuple[int, float]]]]) -> Claim:
    """Figure 9. `runs`: ratio → analysis.emergence of each ticket's training."""
    findings = []
    for ratio, curves in runs.items():
        settled = spread(min(1.0, since(curve, 0.9) / setup.config.iterations) for curve in curves)
        untrained = spread(dict(curve).get(0) for curve in curves)  # None if the untrained weights were not kept
        note, doubt = "", ""
        data: dict[str, Any] = {}
        if untrained:
            note = f" of the run; untrained weights have {verdicts.spread_text(untrained, '{:.1%}')} of it"
            doubt = "the untrained weights have it already" if untrained.low >= 0.9 else ""
            data = {"untrained": untrained.mean}
        bound = Bound(most=0.1)
        findings.append(spread_finding(percent(ratio), settled, bound, "{:.1%}", note=note, doubt=doubt, **data))
    text = "90 % of the primary mask is there, and stays, from 10 % of the run on"
    return claim_of(QUOTES, "emergence", text, setup, findings)
