"""What BMP and MMSUP adapt, by distribution, layer and inner step: in one run, from the validations that it logged.

The pictures and tables take several runs, and show them side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gems_edge.meta.overlap import subnet_overlap
from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Block, Picture, Section, Table, number_table
from gems_edge.wording import accuracy_text

Choices = Mapping[str, Mapping[str, Any]]  # distribution → what its tasks chose, as meta.choices logs it
Text = Callable[[Sequence[float]], str]  # writes one number as each run has it

_MASK = (
    "Share of the validation tasks in which a layer adapts at an inner step: 1 in every task, 0 in none. What is 0.5 "
    "or less is frozen by gems-edge export --for-data."
)
_RATES = "Learning rate, mean over the validation tasks."
_OVERLAP = "What two distributions' mean subnets share of what either has, per layer."
_KEEP = "Share of each layer's weights that adapt, mean over the validation tasks."


def choice_section(lines: Sequence[Mapping[str, Any]], name: str) -> Section | None:
    """What the rule chose at the validation whose weights the run kept; None where it chose nothing.

    `lines`: of metrics.jsonl.
    """
    best = best_validation(lines)
    if best is None or not best.get("choices"):
        return None
    choices, layers = best["choices"], best["layers"]
    blocks: list[Block]
    if "mask" in next(iter(choices.values())):
        rates = rates_table([choices], layers, _RATES, lambda values: f"{values[0]:.3g}")
        blocks = [mask_picture({"": choices}, layers, _MASK), rates]
    else:
        blocks = [share_picture({"kept": choices}, layers, _KEEP)]
        if shared := subnet_overlap({name: choice["keep"][0] for name, choice in choices.items()}):
            blocks.append(overlap_table([shared], layers, _OVERLAP, lambda values: f"{values[0]:.2f}"))
    return Section(f"What it adapts: {name}", blocks)


def mask_picture(runs: Mapping[str, Choices], layers: Sequence[str], caption: str) -> Picture:
    """Which layers each step adapts. `runs`: the label of a run, may be "" → what it chose."""
    maps = {
        label: {name: np.array(choice["mask"]).T for name, choice in choices.items()}
        for label, choices in runs.items()
    }  # fmt: skip
    steps = next(iter(next(iter(maps.values())).values())).shape[1]
    columns = [str(step + 1) for step in range(steps)]
    return Picture(plots.share_maps(maps, layers, columns, "mask on", "inner step"), caption)


def share_picture(runs: Mapping[str, Choices], layers: Sequence[str], caption: str) -> Picture:
    """Which share of each layer adapts; it is chosen at the first step and kept. `runs`: title → what the run chose."""
    maps = {
        title: np.array([choice["keep"][0] for choice in choices.values()]).T for title, choices in runs.items()
    }  # fmt: skip
    return Picture(plots.share_maps({"": maps}, layers, list(next(iter(runs.values()))), "kept"), caption)


def rates_table(runs: Sequence[Choices], layers: Sequence[str], caption: str, text: Text) -> Table:
    """Learning rates by inner step, and by layer where each has its own."""
    rates = {name: np.array([choices[name]["rate"] for choices in runs]) for name in runs[0]}
    _, steps, count = next(iter(rates.values())).shape
    rows = [
        (
            f"{step + 1}, {layers[layer]}" if count > 1 else str(step + 1),
            *(text(values[:, step, layer].tolist()) for values in rates.values()),
        )
        for step in range(steps)
        for layer in range(count)
    ]
    return number_table(("inner step, layer" if count > 1 else "inner step", *rates), rows, caption)


def overlap_table(
    runs: Sequence[Mapping[str, Sequence[float]]], layers: Sequence[str], caption: str, text: Text
) -> Table:
    """What each two distributions' subnets have in common, per layer. `runs`: "a|b" → shares, of every run."""
    rows = [(pair.replace("|", " and "), *map(text, zip(*(shares[pair] for shares in runs)))) for pair in runs[0]]
    return number_table(("subnets of", *layers), rows, caption)


def distribution_table(lines: Sequence[Mapping[str, Any]], mode: str) -> Table | None:
    """Accuracy on each distribution at the validation whose weights the run kept; None for a single one."""
    best = best_validation(lines)
    if best is None or not best.get("distributions"):
        return None
    rows = tuple((name, accuracy_text(entry)) for name, entry in best["distributions"].items())
    return Table(("validation on", f"accuracy, mode {mode}"), rows, "At the weights that the run kept.")


def best_validation(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The validation whose weights the run kept; None before the first."""
    validations = [line for line in lines if line.get("kind") == "validation" and "accuracy" in line]
    return max(validations, key=lambda line: line["accuracy"], default=None)
