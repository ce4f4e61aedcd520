"""What the report says of tickets: one of them, what several have in common, their accuracy and their cost.

Each section is a picture of ticket_plots.py and the table of its numbers, from the same arguments. No torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gems_edge.models.ticket import Ticket
from gems_edge.report import ticket_plots as plots
from gems_edge.report.page import KeyFigure, KeyFigures, Note, Picture, Section, Table
from gems_edge.report.plots import short
from gems_edge.wording import accuracy_text, number_text, percent_text

_ROWS = 16  # of a table over iterations; the picture shows them all
_OWN_PLACE = ("iterations", "seconds", "settled", "overlaps", "delta")  # parts of Ticket.found that no plain row shows


def ticket_section(ticket: Ticket, title: str = "") -> Section:
    """How a ticket was found and what it keeps of each layer.

    Of `ticket.found` these have their own place, all other parts are listed: iterations, seconds, settled (bool), overlaps
    (pairs of iteration and overlap 0…1) and delta, the overlap that they had to exceed.
    """
    found = ticket.found
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    total = sum(mask.size for mask in ticket.masks.values())
    figures = [
        KeyFigure("method", ticket.method, f"{ticket.unit} ticket of {ticket.model.get('backbone', 'a network')}"),
        KeyFigure("weights to remove", f"{ticket.ratio:.1%}", "asked"),
        KeyFigure(f"{ticket.unit}s kept", f"{kept:,}", f"of {total:,}: {1 - kept / total:.1%} removed", "counted"),
    ]
    if "iterations" in found:
        figures.append(KeyFigure("found after", f"{found['iterations']:,}", "meta-iterations", "counted"))
    if "seconds" in found:
        figures.append(KeyFigure("time", f"{number_text(found['seconds'])} s", "to find it", "measured"))
    if "settled" in found:
        note = "the first layer's mask" if found["settled"] else "training ended before the first layer's mask settled"
        figures.append(KeyFigure("settled", "yes" if found["settled"] else "no", note))
    rows = [_layer_row(plots.layer_label(name), int(mask.sum()), mask.size) for name, mask in ticket.masks.items()]
    rows.append(_layer_row("all", kept, total))
    ratios = {name: 1 - int(mask.sum()) / mask.size for name, mask in ticket.masks.items()}
    blocks: list = [
        KeyFigures(tuple(figures)),
        Picture(plots.layer_ratios({ticket.method: [ratios]}), f"Share of the {ticket.unit}s removed in each layer."),
        Table(("layer", "kept", "of", "removed"), tuple(rows), "Counted from the masks.", frozenset({1, 2, 3})),
    ]
    if found.get("overlaps"):
        blocks += _watched_blocks({"": found["overlaps"]}, found.get("delta"))
    if others := tuple((name, str(value)) for name, value in found.items() if name not in _OWN_PLACE):
        blocks.append(Table(("found with", "value"), others))
    return Section(title or f"Ticket: {ticket.method}, {ticket.ratio:.0%} removed", tuple(blocks))


def ratios_section(
    groups: Mapping[str, Sequence[Mapping[str, float]]], title: str = "Share removed per layer"
) -> Section:
    """Per-layer ratios of several tickets (KDD'22, Fig. 6). `groups`: label → analysis.layer_ratios of each ticket."""
    layers = list(dict.fromkeys(layer for tickets in groups.values() for ticket in tickets for layer in ticket))
    rows = tuple(
        (plots.layer_label(layer), *(_spread([ticket[layer] for ticket in tickets]) for tickets in groups.values()))
        for layer in layers
    )
    header = [f"{label} ({_count(len(tickets), 'ticket')})" for label, tickets in groups.items()]
    caption = "Mean of the tickets, and from the least to the most where there are several."
    table = Table(("layer", *header), rows, caption, frozenset(range(1, len(header) + 1)))
    return Section(title, (Picture(plots.layer_ratios(groups), "Bars reach from the least to the most."), table))


def overlap_section(
    panels: Mapping[str, Mapping[str, Sequence[float]]], title: str = "What the tickets keep in common"
) -> Section:
    """O_g of each layer (KDD'22, section 4.2, Figs. 7 and 15). `panels`: label → analysis.overlap."""
    most = max(len(shares) for layers in panels.values() for shares in layers.values())
    rows = tuple(
        (label, plots.layer_label(layer), *(f"{share:.1%}" for share in shares), *([""] * (most - len(shares))))
        for label, layers in panels.items()
        for layer, shares in layers.items()
    )
    caption = "O_g: positions that all of the first g tickets keep, as a share of those that the first ticket keeps."
    header = ("tickets", "layer", *(f"O_{g}" for g in range(1, most + 1)))
    table = Table(header, rows, caption, frozenset(range(2, most + 2)))
    return Section(title, (Picture(plots.overlap_curves(panels)), table))


def emergence_section(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    total: int | None = None,
    title: str = "When the primary mask is there",
) -> Section:
    """How early the primary mask appears (KDD'22, Fig. 9). `curves`: label → analysis.emergence.

    `total` is the iterations of the whole run; what is reached is then also given as a share of it.
    """
    rows = []
    for label, points in curves.items():
        points = sorted(points)
        start, end = points[0], points[-1]
        stays = tuple(_since(points, level, total) for level in (0.9, 0.95, 0.99))
        rows.append((label, f"{start[1]:.1%} ({start[0]:,})", *stays, f"{end[1]:.1%} ({end[0]:,})"))
    header = ("tickets", "first look", "90 % from", "95 % from", "99 % from", "last look")
    caption = (
        "Share of the primary mask that the first layer's mask has; meta-iterations in parentheses. "
        "“90 % from”: the iteration from which the share stays at 90 % or more."
    )
    table = Table(header, tuple(rows), caption, frozenset(range(1, len(header))))
    return Section(title, (Picture(plots.emergence_curves(curves)), table))


def hamming_section(
    panels: Mapping[str, tuple[Sequence[int], np.ndarray]], title: str = "How far the masks move in training"
) -> Section:
    """Distances between the masks of checkpoints (KDD'22, Figs. 10 and 11). `panels`: label → (iterations, analysis.hamming)."""
    rows = []
    for label, (iterations, distances) in panels.items():
        for place in _picked(len(iterations)):
            before = f"{distances[place, place - 1]:.2%}" if place else "–"
            rows.append((label, f"{iterations[place]:,}", before, f"{distances[place, -1]:.2%}"))
    header = ("tickets", "meta-iteration", "differs from the checkpoint before", "from the last")
    caption = f"Share of all positions. At most {_ROWS} checkpoints each; the picture has all."
    table = Table(header, tuple(rows), caption, frozenset({1, 2, 3}))
    return Section(title, (Picture(plots.hamming_maps(panels)), table))


def accuracy_section(
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    dense: Mapping[str, Any] | None,
    mode: str,
    task: str = "",
    title: str = "Accuracy of the tickets",
) -> Section:
    """Accuracy over the share removed (KDD'22, Figs. 3, 4, 12 and 13), all in one normalisation mode.

    `series`: method → entries {ratio, accuracy, ci95}, one a ratio; `dense`: {accuracy, ci95} without a ticket; `task`: such
    as "5-way 1-shot, Conv-4".
    """
    ratios = sorted({entry["ratio"] for entries in series.values() for entry in entries})
    rows = []
    for method, entries in series.items():
        by_ratio = {entry["ratio"]: _accuracy_cell(entry, dense) for entry in entries}
        rows.append((method, *(by_ratio.get(ratio, "–") for ratio in ratios)))
    about = f"Accuracy in % by share removed; ± is a 95 % interval. Mode {mode}{', ' + task if task else ''}."
    if dense:
        about += f" Dense: {accuracy_text(dense)}; in parentheses: points against dense."
    header = ("method", *(f"{100 * ratio:g} %" for ratio in ratios))
    table = Table(header, tuple(rows), about, frozenset(range(1, len(header))))
    return Section(title, (Picture(plots.ratio_curves(series, dense)), table))


def cost_section(
    costs: Mapping[str, Mapping[str, float]],
    unit: str,
    known: str,
    log: bool = False,
    title: str = "Cost of finding and training the tickets",
    note: str = "",
) -> Section:
    """Cost by method and ratio (KDD'22, Tables 2 and 3). `costs`: method → label of the ratio → cost; `known`: one of page.TAGS.

    Factors are against the first method.
    """
    reference = next(iter(costs))
    rows = []
    for group in dict.fromkeys(group for row in costs.values() for group in row):
        for method, row in costs.items():
            if group not in row:
                continue
            base = costs[reference].get(group)
            factor = plots.times(base / row[group]) if method != reference and base and row[group] else ""
            rows.append((group, method, short(row[group]), factor, known))
    header = ("ratio", "method", unit or "cost", f"against {reference}", "known how")
    table = Table(header, tuple(rows), note, frozenset({2, 3}))
    return Section(title, (Picture(plots.cost_bars(costs, unit, log)), table))


def watched_section(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    delta: float | None = None,
    title: str = "The first layer's mask settles",
) -> Section:
    """The overlaps that PMT watches (KDD'22, Algorithm 2). `curves`: label → (iteration, overlap 0…1)."""
    return Section(title, tuple(_watched_blocks(curves, delta)))


def _watched_blocks(curves: Mapping[str, Sequence[tuple[int, float]]], delta: float | None) -> list:
    curves = {label: sorted(map(tuple, points)) for label, points in curves.items() if points}
    if not curves:
        return [Note("No overlap yet: the first layer was looked at less than twice.")]
    rows = tuple(
        (label, f"{points[place][0]:,}", f"{points[place][1]:.4f}")
        for label, points in curves.items()
        for place in _picked(len(points))
    )
    columns = slice(None) if any(curves) else slice(1, None)
    caption = "Share of the first layer's mask that the mask before had too."
    if any(len(points) > _ROWS for points in curves.values()):
        caption += f" {_ROWS} of the looks; the picture has all."
    header, cells = ("ticket", "meta-iteration", "overlap")[columns], tuple(row[columns] for row in rows)
    table = Table(header, cells, caption, frozenset(range(len(header) - 2, len(header))))
    return [Picture(plots.watched_overlap(curves, delta)), table]


def _accuracy_cell(entry: Mapping[str, Any], dense: Mapping[str, Any] | None) -> str:
    """ "48.0 ± 0.8 (−0.7)": accuracy and interval in %, and the points that it is above the dense network's."""
    points = f" ({100 * (entry['accuracy'] - dense['accuracy']):+.1f})".replace("-", "−") if dense else ""
    return percent_text(entry["accuracy"], entry.get("ci95")) + points


def _layer_row(name: str, kept: int, size: int) -> tuple[str, ...]:
    return name, f"{kept:,}", f"{size:,}", f"{1 - kept / size:.1%}"


def _spread(values: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} … {100 * max(values):.1f})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _since(points: Sequence[tuple[int, float]], level: float, total: int | None) -> str:
    """The iteration from which the share never falls below `level` again."""
    below = [place for place, (_, share) in enumerate(points) if share < level]
    first = below[-1] + 1 if below else 0
    if first == len(points):
        return "never"
    iteration = points[first][0]
    return f"{iteration:,}" + (f" ({iteration / total:.1%})" if total else "")


def _picked(count: int) -> list[int]:
    """At most _ROWS of `count` places, evenly spread, first and last included."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, _ROWS))})
