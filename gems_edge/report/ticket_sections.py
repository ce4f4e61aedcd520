"""What the report says of tickets: one of them, and what several have in common.

Each section is a picture of ticket_plots.py and the table of its numbers, from the same arguments. No torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gems_edge.models.ticket import Ticket
from gems_edge.report import ticket_plots as plots
from gems_edge.report.page import Block, KeyFigure, KeyFigures, Picture, Section, Table, number_table
from gems_edge.wording import count_text, number_text

_ROWS = 16  # of a table over iterations; the picture shows them all
_SHOWN = ("iterations", "seconds", "settled", "overlaps", "delta")  # parts of Ticket.found that no plain row shows


def ticket_section(ticket: Ticket, title: str = "") -> Section:
    """How a ticket was found and what it keeps of each layer.

    Some parts of `ticket.found` have a form of their own: iterations, seconds, settled (bool), overlaps (pairs of
    iteration and overlap 0…1) and delta, the overlap that they had to exceed. All others are listed.
    """
    kept = {name: int(mask.sum()) for name, mask in ticket.masks.items()}
    rows = [_layer_row(plots.layer_label(name), kept[name], mask.size) for name, mask in ticket.masks.items()]
    total = sum(mask.size for mask in ticket.masks.values())
    rows.append(_layer_row("all", sum(kept.values()), total))
    removed = {name: 1 - kept[name] / mask.size for name, mask in ticket.masks.items()}
    blocks: list[Block] = [
        KeyFigures((*_kept_figures(ticket, sum(kept.values()), total), *_search_figures(ticket.found))),
        Picture(plots.layer_ratios({ticket.method: [removed]}), f"Share of the {ticket.unit}s removed in each layer."),
        Table(("layer", "kept", "of", "removed"), tuple(rows), "Counted from the masks.", frozenset({1, 2, 3})),
    ]
    if ticket.found.get("overlaps"):
        blocks += _watched_blocks(ticket.found["overlaps"], ticket.found.get("delta"))
    if others := tuple((name, str(value)) for name, value in ticket.found.items() if name not in _SHOWN):
        blocks.append(Table(("found with", "value"), others))
    return Section(title or f"Ticket: {ticket.method}, {ticket.ratio:.0%} removed", tuple(blocks))


def _kept_figures(ticket: Ticket, kept: int, total: int) -> tuple[KeyFigure, ...]:
    return (
        KeyFigure("method", ticket.method, f"{ticket.unit} ticket of {ticket.model.get('backbone', 'a network')}"),
        KeyFigure("weights to remove", f"{ticket.ratio:.1%}", "asked"),
        KeyFigure(f"{ticket.unit}s kept", f"{kept:,}", f"of {total:,}: {1 - kept / total:.1%} removed", "counted"),
    )


def _search_figures(found: Mapping[str, Any]) -> Iterator[KeyFigure]:
    if "iterations" in found:
        yield KeyFigure("found after", f"{found['iterations']:,}", "meta-iterations", "counted")
    if "seconds" in found:
        yield KeyFigure("time", f"{number_text(found['seconds'])} s", "to find it", "measured")
    if "settled" in found:
        note = "the first layer's mask" if found["settled"] else "training ended before the first layer's mask settled"
        yield KeyFigure("settled", "yes" if found["settled"] else "no", note)


def ratios_section(groups: Mapping[str, Sequence[Mapping[str, float]]]) -> Section:
    """Per-layer ratios of several tickets (KDD'22, Fig. 6). `groups`: label → analysis.layer_ratios of each ticket."""
    layers = list(dict.fromkeys(layer for tickets in groups.values() for ticket in tickets for layer in ticket))
    rows = tuple(
        (plots.layer_label(layer), *(_spread([ticket[layer] for ticket in tickets]) for tickets in groups.values()))
        for layer in layers
    )
    header = [f"{label} ({count_text(len(tickets), 'ticket')})" for label, tickets in groups.items()]
    caption = "Mean of the tickets, and from the least to the most where there are several."
    picture = Picture(plots.layer_ratios(groups), "Bars reach from the least to the most.")
    return Section("Share removed per layer", (picture, number_table(("layer", *header), rows, caption)))


def overlap_section(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Section:
    """O_g of each layer (KDD'22, section 4.2, Figs. 7 and 15). `panels`: label → analysis.overlap."""
    most = max(len(shares) for layers in panels.values() for shares in layers.values())
    rows = tuple(
        (label, plots.layer_label(layer), *(f"{share:.1%}" for share in shares), *([""] * (most - len(shares))))
        for label, layers in panels.items()
        for layer, shares in layers.items()
    )
    caption = "O_g: positions that all of the first g tickets keep, as a share of those that the first ticket keeps."
    header = ("tickets", "layer", *(f"O_{g}" for g in range(1, most + 1)))
    picture = Picture(plots.overlap_curves(panels))
    return Section("What the tickets keep in common", (picture, number_table(header, rows, caption, words=2)))


def emergence_section(curves: Mapping[str, Sequence[tuple[int, float]]], total: int | None = None) -> Section:
    """How early the primary mask appears (KDD'22, Fig. 9). `curves`: label → analysis.emergence.

    `total` is the iterations of the whole run; what is reached is then also given as a share of it.
    """
    rows = []
    for label, points in curves.items():
        points = sorted(points)
        start, end = points[0], points[-1]
        stays = tuple(_since_text(points, level, total) for level in (0.9, 0.95, 0.99))
        rows.append((label, f"{start[1]:.1%} ({start[0]:,})", *stays, f"{end[1]:.1%} ({end[0]:,})"))
    header = ("tickets", "first look", "90 % from", "95 % from", "99 % from", "last look")
    caption = (
        "Share of the primary mask that the first layer's mask has; meta-iterations in parentheses. "
        "“90 % from”: the iteration from which the share stays at 90 % or more."
    )
    picture = Picture(plots.emergence_curves(curves))
    return Section("When the primary mask is there", (picture, number_table(header, tuple(rows), caption)))


def hamming_section(panels: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> Section:
    """Distances between the masks of checkpoints (KDD'22, Figs. 10 and 11).

    `panels`: label → (iterations, analysis.hamming).
    """
    rows = []
    for label, (iterations, distances) in panels.items():
        for index in _picked(len(iterations)):
            before = f"{distances[index, index - 1]:.2%}" if index else "–"
            rows.append((label, f"{iterations[index]:,}", before, f"{distances[index, -1]:.2%}"))
    header = ("tickets", "meta-iteration", "differs from the checkpoint before", "from the last")
    caption = f"Share of all positions. At most {_ROWS} checkpoints each; the picture has all."
    picture = Picture(plots.hamming_maps(panels))
    return Section("How far the masks move in training", (picture, number_table(header, rows, caption)))


def _watched_blocks(overlaps: Sequence[tuple[int, float]], delta: float | None) -> list[Block]:
    """The overlaps that PMT watches (KDD'22, Algorithm 2): (iteration, overlap 0…1)."""
    points = sorted((iteration, overlap) for iteration, overlap in overlaps)
    rows = tuple((f"{points[index][0]:,}", f"{points[index][1]:.4f}") for index in _picked(len(points)))
    caption = "Share of the first layer's mask that the mask before had too."
    if len(points) > _ROWS:
        caption += f" {_ROWS} of the looks; the picture has all."
    table = Table(("meta-iteration", "overlap"), rows, caption, frozenset({0, 1}))
    return [Picture(plots.watched_overlap({"": points}, delta)), table]


def _layer_row(name: str, kept: int, size: int) -> tuple[str, ...]:
    return name, f"{kept:,}", f"{size:,}", f"{1 - kept / size:.1%}"


def _spread(values: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} … {100 * max(values):.1f})"


def since(curve: Iterable[tuple[int, float]], level: float) -> float:
    """The iteration from which the share never falls below `level` again; infinite if the last one is below."""
    points = sorted(curve)
    below = [index for index, (_, share) in enumerate(points) if share < level]
    first = below[-1] + 1 if below else 0
    return points[first][0] if first < len(points) else math.inf


def _since_text(points: Sequence[tuple[int, float]], level: float, total: int | None) -> str:
    iteration = since(points, level)
    if iteration == math.inf:
        return "never"
    return f"{iteration:,}" + (f" ({iteration / total:.1%})" if total else "")


def _picked(count: int) -> list[int]:
    """At most _ROWS of `count` indices, evenly spread, first and last included."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, _ROWS))})
