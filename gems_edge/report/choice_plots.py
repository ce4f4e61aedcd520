"""Pictures of what BMP and MMSUP adapt, and of accuracies over a setting, as inline SVG (see plots.py)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gems_edge.report.plots import INK, Entry, accuracies, color_bar, legend, series_style, subplots, to_svg


def share_maps(
    lines: Mapping[str, Mapping[str, np.ndarray]], rows: Sequence[str], columns: Sequence[str], label: str,
    xlabel: str = "",
) -> str:  # fmt: skip
    """Heat maps of shares 0…1 on one colour scale, every cell with its number.

    `lines`: label of a line of maps, may be "" → title of a map → [rows, columns]; all lines have the same titles.
    `label` is the colour bar's.
    """
    titles = list(next(iter(lines.values())))
    width = max(0.25 + 0.52 * len(columns), 0.15 + 0.085 * max(map(len, titles)))
    size = {"width": 2.1 + width * len(titles), "height": 0.7 + len(lines) * (0.6 + 0.33 * len(rows))}
    figure, grid = subplots(len(lines), len(titles), **size)
    figure.set_layout_engine("compressed")
    grid = np.reshape(grid, (len(lines), len(titles)))
    for line, (name, maps) in enumerate(lines.items()):
        for place, (title, values) in enumerate(maps.items()):
            axes = grid[line, place]
            picture = _share_map(axes, np.asarray(values))
            if line == 0:
                axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", color=INK)
            if line == len(lines) - 1:
                axes.set_xlabel(xlabel, fontsize=9)
            axes.set_xticks(range(len(columns)), columns, fontsize=8.5, **_slanted(columns))
            axes.set_yticks(range(len(rows)), [""] * len(rows) if place else rows, fontsize=8.5)
        grid[line, 0].set_ylabel(name, fontsize=9.5, fontweight="bold")
    color_bar(figure, picture, grid, label, aspect=18 * len(lines))
    return to_svg(figure)


def _share_map(axes: Any, values: np.ndarray) -> Any:
    axes.grid(False)
    picture = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        # On viridis white is readable below two thirds and black above; the page's own text colour is not.
        color = "#ffffff" if value < 0.65 else "#000000"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=color)
    return picture


def accuracy_curves(series: Mapping[str, Sequence[Entry]], xlabel: str, lines: Mapping[str, float]) -> str:
    """Accuracy with 95 % bars over a setting. `series`: label → entries {x, accuracy, ci95}; `lines`: label → share."""
    figure, axes = subplots(1, 1, width=6.4, height=3.3)
    for index, (label, entries) in enumerate(series.items()):
        axes.errorbar(
            [entry["x"] for entry in entries], *accuracies(entries), label=label, markersize=5, capsize=3,
            linewidth=1.2, **series_style(index),
        )  # fmt: skip
    for index, (label, value) in enumerate(lines.items()):
        axes.axhline(100 * value, color=INK, linestyle=(":", "-.", "--")[index % 3], linewidth=1.5, label=label)
    axes.set(xlabel=xlabel, ylabel="accuracy on new episodes, %")
    axes.set_xticks(sorted({entry["x"] for entries in series.values() for entry in entries}))
    legend(axes, loc="best", handlelength=3)
    return to_svg(figure)


def _slanted(labels: Sequence[str]) -> dict[str, Any]:
    """Long names stand at an angle, so that they do not touch."""
    long = max(map(len, labels)) > 4
    return {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if long else {}
