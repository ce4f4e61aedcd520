"""What a BMP or MMSUP run adapts, by distribution, layer and inner step: from the validations that it logged."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gems_edge.meta.overlap import subnet_overlap
from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Block, Picture, Section, Table
from gems_edge.wording import accuracy_text

Choices = Mapping[str, Mapping[str, Any]]  # distribution → what its tasks chose, as meta.choices logs it

_MASK = (
    "Share of the validation tasks in which a layer adapts at an inner step: 1 in every task, 0 in none. What is 0.5 "
    "or less is frozen by gems-edge export --for-data."
)
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
    by_layer = "mask" in next(iter(choices.values()))
    blocks = _mask_blocks(choices, layers) if by_layer else _share_blocks(choices, layers)
    return Section(f"What it adapts: {name}", tuple(blocks))


def _mask_blocks(choices: Choices, layers: Sequence[str]) -> list[Block]:
    """Which layers each step adapts, and at which rates."""
    maps = {name: np.array(choice["mask"]).T for name, choice in choices.items()}
    steps = [str(step) for step in range(1, next(iter(maps.values())).shape[1] + 1)]
    picture = plots.share_maps({"": maps}, layers, steps, "mask on", "inner step")
    return [Picture(picture, _MASK), _rates(choices, layers)]


def _share_blocks(choices: Choices, layers: Sequence[str]) -> list[Block]:
    """Which share of each layer adapts, and what the distributions' subnets have in common."""
    kept = {name: choice["keep"][0] for name, choice in choices.items()}
    picture = plots.share_maps({"": {"kept": np.array(list(kept.values())).T}}, layers, list(kept), "kept")
    blocks: list[Block] = [Picture(picture, _KEEP)]
    if shared := subnet_overlap(kept):
        rows = tuple((pair.replace("|", " and "), *(f"{x:.2f}" for x in shares)) for pair, shares in shared.items())
        blocks.append(Table(("subnets of", *layers), rows, _OVERLAP, frozenset(range(1, len(layers) + 1))))
    return blocks


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


def _rates(choices: Choices, layers: Sequence[str]) -> Table:
    steps, count = np.array(next(iter(choices.values()))["rate"]).shape
    rows = tuple(
        (
            f"{step + 1}, {layers[layer]}" if count > 1 else str(step + 1),
            *(f"{choice['rate'][step][layer]:.3g}" for choice in choices.values()),
        )
        for step in range(steps)
        for layer in range(count)
    )
    header = ("inner step, layer" if count > 1 else "inner step", *choices)
    return Table(header, rows, "Learning rate, mean over the validation tasks.", frozenset(range(1, len(header))))
