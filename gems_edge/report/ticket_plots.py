"""Pictures of what tickets have in common, of their accuracy and of their cost, as inline SVG (see plots.py).

Shares come as 0…1 and are drawn in %. Several panels share their axes; their titles are the keys of the mapping.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gems_edge.report.plots import (
    COLORS,
    GREY,
    INK,
    MARKERS,
    accuracies,
    color_bar,
    depth_color,
    legend,
    series_style,
    short,
    subplots,
    to_svg,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Looks = Sequence[tuple[int, float]]  # (meta-iteration, share 0…1)

# Names of layers that a picture has room for; of a deeper network every second, third, … is named.
MOST_NAMES = 20


def layer_label(name: str) -> str:
    """A tensor's name without what all of them have: "backbone.blocks.0.conv.weight" → "blocks.0.conv"."""
    return name.removeprefix("backbone.").removesuffix(".weight")


def layer_ratios(groups: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Share removed per layer (KDD'22, Fig. 6). `groups`: label (a ratio, say) → analysis.layer_ratios of each ticket.

    A line through the tickets' means, and at each layer a bar from the least to the most.
    """
    layers = _keys(shares for tickets in groups.values() for shares in tickets)
    figure, axes = subplots(1, 1, width=min(9.2, 4.2 + 0.32 * len(layers)), height=3.4)
    for index, (label, tickets) in enumerate(groups.items()):
        x = np.arange(len(layers)) + _dodge(index, len(groups))
        values = 100 * np.array([[ticket[layer] for layer in layers] for ticket in tickets])
        mean = values.mean(0)
        spread = None if len(tickets) == 1 else (mean - values.min(0), values.max(0) - mean)
        axes.errorbar(x, mean, spread, label=label, markersize=4, capsize=4, linewidth=1.1, **series_style(index))
    _layer_ticks(axes, layers)
    axes.set(ylabel="removed, %", ylim=(-4, 104))
    _legend_beside(figure, axes, len(groups))
    return to_svg(figure)


def overlap_curves(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """O_g over g, a line per layer (KDD'22, Figs. 7 and 15). `panels`: label, such as a ratio → analysis.overlap."""
    names = _keys(panels.values())
    columns, rows = _grid(len(panels))
    height = max(0.5 + 2.5 * rows, 0.4 + 0.19 * min(len(names), MOST_NAMES))
    figure, grid = _panels(panels, width=min(10.2, 2.2 + 3.6 * columns), height=height)
    styles = _layer_styles(names)
    for axes, layers in zip(grid, panels.values()):
        for name, shares in layers.items():
            axes.plot(
                range(1, len(shares) + 1), 100 * np.asarray(shares), markersize=4, linewidth=1.2, **styles[name]
            )  # fmt: skip
        axes.set_ylim(-4, 104)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    _outer_labels(grid, "tickets g", "kept by all g tickets, %")
    _legend_beside(figure, grid[0], 2)
    return to_svg(figure)


def emergence_curves(curves: Mapping[str, Looks]) -> str:
    """The share of the primary mask that is present, over iterations (KDD'22, Fig. 9).

    `curves`: label → analysis.emergence.
    """
    figure, axes = subplots(1, 1, width=6.4, height=3.2)
    lowest = min(share for points in curves.values() for _, share in points)
    for index, (label, points) in enumerate(curves.items()):
        at, shares = np.array(sorted(points), dtype=float).T
        axes.plot(at, 100 * shares, label=label, markevery=_few_markers(len(at)), markersize=5, **series_style(index))
    axes.set(ylabel="primary mask present, %", ylim=(min(70, 100 * lowest - 5), 102))
    _iteration_axis(axes)
    _legend_beside(figure, axes, len(curves))
    return to_svg(figure)


def hamming_maps(panels: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> str:
    """Distances between masks of checkpoints (KDD'22, Figs. 10 and 11), on one colour scale.

    `panels`: label → (iterations, analysis.hamming).
    """
    columns, rows = _grid(len(panels))
    figure, grid = _panels(panels, width=1.2 + 2.9 * columns, height=0.5 + 2.7 * rows)
    figure.set_layout_engine("compressed")
    highest = max(100 * float(distances.max()) for _, distances in panels.values()) or 1.0
    for axes, (iterations, distances) in zip(grid, panels.values()):
        axes.grid(False)
        picture = axes.imshow(
            100 * distances, cmap="viridis", vmin=0, vmax=highest, origin="lower", interpolation="none"
        )
        ticks = np.unique(np.linspace(0, len(iterations) - 1, min(4, len(iterations))).round().astype(int))
        names = [_iteration(iterations[tick]) for tick in ticks]
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names)
    _outer_labels(grid, "meta-iteration", "meta-iteration")
    color_bar(figure, picture, grid, "positions that differ, %", aspect=25 * rows)
    return to_svg(figure)


def ratio_curves(series: Mapping[str, Sequence[Mapping[str, Any]]], dense: Mapping[str, Any] | None = None) -> str:
    """Accuracy over the share removed, with 95 % bars (KDD'22, Figs. 3, 4, 12 and 13).

    `series`: method → entries {ratio, accuracy, ci95}; `dense`: {accuracy, ci95} of the network without a ticket, a
    dotted line with its interval. The ratios stand at equal distances, and the methods side by side at each.
    """
    ratios = sorted({entry["ratio"] for entries in series.values() for entry in entries})
    figure, axes = subplots(1, 1, width=6.9, height=3.6)
    for index, (label, entries) in enumerate(series.items()):
        entries = sorted(entries, key=lambda entry: entry["ratio"])
        axes.errorbar(
            [ratios.index(entry["ratio"]) + _dodge(index, len(series)) for entry in entries],
            *accuracies(entries),
            label=label, markersize=5, capsize=2.5, linewidth=1.2, elinewidth=1, **series_style(index),
        )  # fmt: skip
    if dense:
        value, error = 100 * dense["accuracy"], 100 * (dense.get("ci95") or 0)
        axes.axhline(value, color=INK, linestyle=":", linewidth=2, label="dense")
        axes.axhspan(value - error, value + error, color=GREY, alpha=0.2, linewidth=0)
    axes.set_xticks(range(len(ratios)), [f"{100 * ratio:g}" for ratio in ratios])
    axes.set(xlabel="weights removed, %", ylabel="accuracy on new episodes, %", xlim=(-0.5, len(ratios) - 0.5))
    _legend_beside(figure, axes, len(series) + bool(dense))
    return to_svg(figure)


def cost_bars(costs: Mapping[str, Mapping[str, float]], unit: str = "", log: bool = False) -> str:
    """Cost of each method, grouped by ratio (KDD'22, Tables 2 and 3).

    `costs`: method → label of the ratio → cost in `unit`. Each bar names its method, its cost and how many times less
    that is than the first method's.
    """
    groups = _keys(costs.values())
    reference = next(iter(costs))
    bars = sum(len(row) for row in costs.values())
    figure, axes = subplots(1, 1, width=6.4, height=0.8 + 0.3 * bars + 0.15 * len(groups))
    y, ticks = 0.0, []
    for group in groups:
        start = y
        for index, (method, row) in enumerate(costs.items()):
            if group not in row:
                continue
            axes.barh(y, row[group], 0.84, color=COLORS[index % len(COLORS)])
            text = f"{method}  {short(row[group])} {unit}".rstrip()
            if method != reference and group in costs[reference] and row[group]:
                text += f"  ({times(costs[reference][group] / row[group])})"
            axes.annotate(text, (row[group], y), (4, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
            y += 1
        ticks.append((start + y - 1) / 2)
        y += 0.6
    values = [value for row in costs.values() for value in row.values()]
    if log:
        axes.set_xscale("log")
        axes.set_xlim(10 ** math.floor(math.log10(min(value for value in values if value > 0)) - 0.01), max(values))
    else:
        axes.set_xlim(0, max(values))
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.minorticks_off()
    axes.set_yticks(ticks, groups)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(unit)
    axes.invert_yaxis()
    return to_svg(figure)


def watched_overlap(curves: Mapping[str, Looks], delta: float | None = None) -> str:
    """The overlap of successive first-layer masks over iterations, and PMT's threshold δ (KDD'22, Algorithm 2).

    `curves`: label, may be "" → (iteration, overlap 0…1); not in % because δ is not.
    """
    figure, axes = subplots(1, 1, width=6.4, height=3.0)
    for index, (label, points) in enumerate(curves.items()):
        at, overlaps = np.array(sorted(points), dtype=float).T
        markers = _few_markers(len(at), 40)
        axes.plot(
            at, overlaps, label=label or "overlap with the mask before", markevery=markers, markersize=5,
            linewidth=1.2, **series_style(index),
        )  # fmt: skip
    if delta is not None:
        axes.axhline(delta, color=INK, linestyle=":", linewidth=1.6, label=f"δ = {delta:g}")
    axes.set_ylabel("overlap")
    axes.set_ylim(top=1.01)
    _iteration_axis(axes)
    _legend_beside(figure, axes, 2)
    return to_svg(figure)


def times(factor: float) -> str:
    """How many times less: 13.3 → "13.3× less", 0.5 → "2× more"."""
    if round(factor, 2) == 1:
        return "the same"
    return f"{factor:.3g}× less" if factor > 1 else f"{1 / factor:.3g}× more"


def _keys(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, each once, in order."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _layer_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A style and a label per layer. Layers of one block share colour and line style and differ by their marker; those
    of a deep network differ by their colour, from the first layer to the last."""
    labels = dict(zip(names, _few_names(names)))
    if len(names) > MOST_NAMES:
        return {
            name: {"color": depth_color(index / (len(names) - 1)), "label": labels[name] or "_nolegend_"}
            for index, name in enumerate(names)
        }
    blocks = {name: layer_label(name).rpartition(".")[0] or name for name in names}
    members = {block: [name for name in names if blocks[name] == block] for block in blocks.values()}
    if len(members) == 1:
        return {name: series_style(index) | {"label": labels[name]} for index, name in enumerate(names)}
    styles = {}
    for index, layers in enumerate(members.values()):
        for number, name in enumerate(layers):
            styles[name] = series_style(index) | {"label": labels[name]}
            if len(layers) > 1:
                styles[name]["marker"] = MARKERS[number % len(MARKERS)]
    return styles


def _few_names(names: Sequence[str]) -> list[str]:
    """The layers' labels; in a deep network "" for all but every second, third, …"""
    step = math.ceil(len(names) / MOST_NAMES)
    return [layer_label(name) if number % step == 0 else "" for number, name in enumerate(names)]


def _grid(panels: int) -> tuple[int, int]:
    """Columns and rows for so many panels."""
    columns = 2 if panels == 4 else min(3, panels)
    return columns, math.ceil(panels / columns)


def _panels(panels: Mapping[str, Any], width: float, height: float) -> tuple["Figure", Any]:
    """A figure and as many axes as `panels`, each with its title."""
    columns, rows = _grid(len(panels))
    figure, grid = subplots(rows, columns, width, height)
    grid = np.ravel(grid)
    for axes, label in zip(grid, panels):
        axes.set_title(label, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure, grid[: len(panels)]


def _outer_labels(grid: Sequence["Axes"], below: str, beside: str) -> None:
    """Axis labels on the lowest panel of each column and the first of each row."""
    columns, _ = _grid(len(grid))
    for index, axes in enumerate(grid):
        if index + columns >= len(grid):
            axes.set_xlabel(below)
        if index % columns == 0:
            axes.set_ylabel(beside)


def _layer_ticks(axes: "Axes", layers: Sequence[str]) -> None:
    """The layers' names below the axis, slanted where they would touch."""
    labels = _few_names(layers)
    axes.set_xticks(range(len(layers)), labels)
    if len("".join(labels)) > 40:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _iteration_axis(axes: "Axes") -> None:
    axes.set_xlabel("meta-iteration")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.xaxis.set_major_formatter(lambda value, _: _iteration(value))


def _iteration(value: float) -> str:
    return short(value) if value >= 10_000 else f"{value:g}"


def _dodge(index: int, count: int) -> float:
    """Where the index-th of `count` series stands beside a place on the axis."""
    return (index - (count - 1) / 2) * min(0.09, 0.55 / count)


def _few_markers(points: int, most: int = 20) -> int:
    return max(1, math.ceil(points / most))


def _legend_beside(figure: "Figure", axes: "Axes", entries: int) -> None:
    """To the right of everything, where it hides no data; none for a single series."""
    if entries > 1:
        handles, labels = axes.get_legend_handles_labels()
        legend(figure, handles=handles, labels=labels, loc="outside right upper", handlelength=3)
