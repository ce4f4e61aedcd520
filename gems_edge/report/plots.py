"""Pictures for the report as inline SVG that takes the page's text colour, so that it reads on light and on dark."""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gems_edge.wording import percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entry = Mapping[str, Any]  # {accuracy, ci95, …} as evaluation and metrics.jsonl write it

# Both stand out on white and on near-black, and are told apart without colour vision by their lightness.
BLUE, ORANGE, GREY = "#3b82d6", "#e08a1e", "#8a94a0"
INK = "#010203"  # stands for the page's text colour
# Of series: each colour stands out on white and on near-black and stays apart from the others for colour-blind eyes
# (Machado et al. 2009); marker and line style repeat the distinction.
COLORS = (BLUE, ORANGE, "#c42f74", "#8f7400", "#8f4dff", GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
STYLE: dict[Any, Any] = {  # matplotlib's type names every key
    "font.size": 10, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
}  # fmt: skip


def to_svg(figure: "Figure") -> str:
    """A matplotlib figure, which is closed, as SVG without external references; ids are unique to its content."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gems-edge"}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
    prefix = "f" + hashlib.sha256(markup.encode()).hexdigest()[:8]
    markup = re.sub(r'\bid="', f'id="{prefix}', markup)
    markup = re.sub(r'(url\(|xlink:href="|href=")#', rf"\1#{prefix}", markup)
    return markup.replace(INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)


def training_curves(lines: Sequence[Entry]) -> str:
    """Loss and accuracy over meta-iterations from the lines of metrics.jsonl."""
    figure, (left, right) = subplots(1, 2, width=9.2, height=3.1)
    _draw_training(left, lines, "loss", 1)
    _draw_training(right, lines, "accuracy", 100)
    validation = [line for line in lines if line.get("kind") == "validation" and "accuracy" in line]
    if validation:
        right.errorbar(
            [line["iteration"] for line in validation],
            *accuracies(validation),
            color=ORANGE, marker="o", markersize=4, capsize=3, linewidth=1.2, label="validation, 95 %",
        )  # fmt: skip
    for axes, title in ((left, "Loss"), (right, "Accuracy, %")):
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
        axes.set_xlabel("meta-iteration")
    if right.get_legend_handles_labels()[0]:
        legend(right, loc="lower right")
    return to_svg(figure)


def _draw_training(axes: "Axes", lines: Sequence[Entry], key: str, scale: float) -> None:
    train = [line for line in lines if line.get("kind") == "train" and "iteration" in line]
    points = [(line["iteration"], line[key] * scale) for line in train if _finite(line.get(key))]
    if points:
        iterations, values = np.array(points, dtype=float).T
        axes.plot(iterations, values, color=GREY, alpha=0.35, linewidth=0.8)
        axes.plot(iterations, _smooth(values), color=BLUE, linewidth=1.6, label="training (query set, smoothed)")


def accuracies(entries: Sequence[Entry]) -> tuple[list[float], list[float]]:
    """Accuracies and half-widths of their intervals in %."""
    return [100 * entry["accuracy"] for entry in entries], [100 * (entry.get("ci95") or 0) for entry in entries]


def accuracy_chart(series: Mapping[str, Sequence[Entry]]) -> str:
    """Accuracy with 95 % bars, per mode and per step count. `series`: label → entries {mode, steps, accuracy, ci95}.

    Lines over the step count where some mode was evaluated at several; bars otherwise.
    """
    modes = list(dict.fromkeys(entry["mode"] for entries in series.values() for entry in entries))
    for entries in series.values():
        if len({(entry["mode"], entry["steps"]) for entry in entries}) > len({entry["mode"] for entry in entries}):
            return _accuracy_over_steps(series, modes)
    return _accuracy_bars(series, modes)


def _accuracy_bars(series: Mapping[str, Sequence[Entry]], modes: Sequence[str]) -> str:
    figure, axes = subplots(1, 1, width=6.4, height=0.7 + 0.42 * len(modes) * len(series))
    height = 0.8 / len(series)
    for index, (label, entries) in enumerate(series.items()):
        color = _series_color(index, len(series))
        for entry in entries:
            y = modes.index(entry["mode"]) + (index - (len(series) - 1) / 2) * height
            share, half = entry["accuracy"], entry.get("ci95") or 0
            axes.barh(y, 100 * share, height * 0.86, xerr=100 * half, color=color, ecolor=INK, capsize=3, label=label)
            end = min(100 * (share + half) + 1, 100)
            axes.text(end, y, percent_text(share, half), va="center", color=INK, fontsize=9)
    axes.set(yticks=range(len(modes)), yticklabels=modes, xlim=(0, 118), xlabel="accuracy on new episodes, %")
    axes.set_xticks(range(0, 101, 20))
    axes.invert_yaxis()
    _legend_once(axes, len(series))
    return to_svg(figure)


def _accuracy_over_steps(series: Mapping[str, Sequence[Entry]], modes: Sequence[str]) -> str:
    figure, axes = subplots(1, 1, width=6.4, height=3.2)
    for index, (label, entries) in enumerate(series.items()):
        for mode, style in zip(modes, ("-", "--", ":", "-.")):
            points = sorted(
                (entry for entry in entries if entry["mode"] == mode), key=lambda entry: int(entry["steps"])
            )
            if points:
                axes.errorbar(
                    [entry["steps"] for entry in points],
                    *accuracies(points),
                    color=_series_color(index, len(series)), linestyle=style, marker="o", markersize=4, capsize=3,
                    label=f"{label}, {mode}" if label else mode,
                )  # fmt: skip
    axes.set(xlabel="inner steps", ylabel="accuracy on new episodes, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes, loc="best")
    return to_svg(figure)


def size_bars(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Dense against compact, each quantity as a share of the dense network. Keys label the bars, e.g. "weights"."""
    names = [name for name in before if name in after and before[name]]
    figure, axes = subplots(1, 1, width=6.4, height=0.8 + 0.62 * len(names))
    for y, name in enumerate(names):
        axes.barh(y - 0.2, 100, 0.36, color=GREY, label="dense")
        share = 100 * after[name] / before[name]
        axes.barh(y + 0.2, share, 0.36, color=BLUE, label="compact")
        axes.text(101, y - 0.2, short(before[name]), va="center", color=INK, fontsize=9)
        axes.text(share + 1, y + 0.2, f"{short(after[name])}  ({share:.0f} %)", va="center", color=INK, fontsize=9)
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 118), xlabel="% of the dense network")
    axes.set_xticks(range(0, 101, 20))
    axes.invert_yaxis()
    _legend_once(axes, 2)
    return to_svg(figure)


def image_uri(pixels: np.ndarray) -> str:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] (or 0…1 floats) → a PNG data: URI."""
    from PIL import Image

    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def short(number: float) -> str:
    """12_345_678 → "12.3 M"."""
    for scale, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g}"


def subplots(rows: int, columns: int, width: float, height: float) -> tuple["Figure", Any]:
    """A figure of `width` × `height` inches and its axes (one, or an array of them), in the report's style."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained")
    for panel in np.ravel(axes):
        panel.grid(True, color=GREY, alpha=0.25, linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes


def series_style(index: int) -> dict[str, Any]:
    """Colour, marker and line style of a series; a combination returns after 84 series."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def depth_color(share: float) -> tuple[float, ...]:
    """The colour of a layer at 0 (the first) … 1 (the last) of a deep network."""
    import matplotlib

    return tuple(matplotlib.colormaps["viridis"](0.92 * share))


def _series_color(index: int, count: int) -> str:
    """Grey for the first of several series, the dense network, as in `size_bars`."""
    return (GREY, BLUE, ORANGE)[index % 3] if count > 1 else BLUE


def color_bar(figure: "Figure", picture: Any, grid: np.ndarray, label: str, aspect: float) -> None:
    """The colour scale of `picture`, beside all axes of `grid`."""
    bar = figure.colorbar(picture, ax=np.ravel(grid).tolist(), shrink=0.9, aspect=aspect)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(color=INK, labelcolor=INK)
    bar.outline.set_visible(False)


def legend(axes: "Axes | Figure", **options: Any) -> None:
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, **options)


def _legend_once(axes: "Axes", expected: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = {label: handle for handle, label in zip(handles, labels) if label and not label.startswith("_")}
    if expected > 1 and unique:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": len(unique)}
        legend(axes, handles=list(unique.values()), labels=list(unique), **above)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the curve; shorter at the ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    left = np.maximum(np.arange(len(values)) - half, 0)
    right = np.minimum(np.arange(len(values)) + half + 1, len(values))
    smooth: np.ndarray = (total[right] - total[left]) / (right - left)
    return smooth


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
