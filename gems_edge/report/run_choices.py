"""What a BMP or MMSUP run adapts, by distribution, layer and inner step: from the validations that it logged."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gems_edge.meta.overlap import overlap
from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Block, Picture, Section, Table
from gems_edge.wording import accuracy_text

_MASK = (
    "Share of the validation tasks in which a layer adapts at an inner step: 1 in every task, 0 in none. What is 0.5 "
    "or less is frozen by gems-edge export --for-data."
)
_OVERLAP = "What two distributions' mean subnets share of what either has, per layer."
_KEEP = "Share of each layer's weights that adapt, mean over the validation tasks."


def choice_section(lines: Sequence[Mapping[str, Any]], name: str) -> Section | None:
    """`lines` of metrics.jsonl; the validation whose weights the run kept is shown. None where no rule chose anything."""
    best = _best(lines)
    if best is None or not best.get("choices"):
        return None
    found, layers = best["choices"], best["layers"]
    blocks: list[Block] = []
    first = next(iter(found.values()))
    if "mask" in first:
        maps = {one: np.array(choice["mask"]).T for one, choice in found.items()}
        steps = [str(step) for step in range(1, len(first["mask"]) + 1)]
        picture = plots.share_maps({"": maps}, layers, steps, "mask on", "inner step")
        blocks += [Picture(picture, _MASK), _rates(found, layers)]
    else:
        maps = {"kept": np.array([choice["keep"][0] for choice in found.values()]).T}
        blocks.append(Picture(plots.share_maps({"": maps}, layers, list(found), "kept"), _KEEP))
        shared = overlap({one: choice["keep"][0] for one, choice in found.items()})
        if shared:
            rows = tuple((pair.replace("|", " and "), *(f"{x:.2f}" for x in shares)) for pair, shares in shared.items())
            blocks.append(Table(("subnets of", *layers), rows, _OVERLAP, frozenset(range(1, len(layers) + 1))))
    return Section(f"What it adapts: {name}", tuple(blocks))


def distribution_table(lines: Sequence[Mapping[str, Any]], mode: str) -> Table | None:
    """Accuracy on each distribution at the validation whose weights the run kept; None for a single one."""
    best = _best(lines)
    if best is None or not best.get("distributions"):
        return None
    rows = tuple((name, accuracy_text(entry)) for name, entry in best["distributions"].items())
    return Table(("validation on", f"accuracy, mode {mode}"), rows, "At the weights that the run kept.")


def _best(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    validations = [line for line in lines if line.get("kind") == "validation"]
    return max(validations, key=lambda line: line["accuracy"], default=None)


def _rates(found: Mapping[str, Mapping[str, Any]], layers: Sequence[str]) -> Table:
    steps, many = np.array(next(iter(found.values()))["rate"]).shape
    rows = tuple(
        (
            f"{step + 1}, {layers[layer]}" if many > 1 else str(step + 1),
            *(f"{choice['rate'][step][layer]:.3g}" for choice in found.values()),
        )
        for step in range(steps)
        for layer in range(many)
    )
    header = ("inner step, layer" if many > 1 else "inner step", *found)
    return Table(header, rows, "Learning rate, mean over the validation tasks.", frozenset(range(1, len(header))))
