"""What BMP and MMSUP adapt of each distribution: masks, rates, kept shares, and what the subnets have in common."""

from collections.abc import Mapping, Sequence

import numpy as np

from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Block, Note, Picture, Section, Table
from gems_edge.reproduce.gems.results import Row
from gems_edge.reproduce.gems.tables import NAMES
from gems_edge.reproduce.grid import Document
from gems_edge.reproduce.pooling import spread
from gems_edge.reproduce.verdicts import NONE, spread_text

MASKS = (
    "Share of the test tasks whose mask is on: 1 adapts the layer in every task, 0 in none. A row a layer, a column an inner "
    "step, a line of maps a training."
)
KEPT = "Share of each layer's weights in the subnet, mean over the test tasks; one map a training. Unseen distributions included."
COMMON = "What two distributions' mean subnets share of what either has, per layer (intersection over union); means over the seeds and their range."


def choice_sections(rows: Sequence[Row]) -> list[Section]:
    """A section for each plain row whose update rule chooses, as far as something is done."""
    sections = []
    for row in rows:
        done = {seed: document for seed, document in row.done.items() if document.get("choices")}
        if done and not row.variant:
            blocks = _mmsup(row, done) if row.method == "mmsup" else _bmp(row, done)
            sections.append(Section(f"What {NAMES[row.method]} adapts: trained on {row.label}", tuple(blocks)))
    return sections


def _bmp(row: Row, done: Mapping[int, Document]) -> list[Block]:
    first = next(iter(done.values()))
    names, layers = list(first["choices"]), first["layers"]
    steps = range(1, len(first["choices"][names[0]]["mask"]) + 1)
    maps = {
        f"seed {seed}": {name: np.array(document["choices"][name]["mask"]).T for name in names}
        for seed, document in done.items()
    }
    picture = plots.share_maps(maps, layers, [str(step) for step in steps], "mask on", "inner step")
    return [Picture(picture, MASKS + _unseen(row, names)), _rates(done, names, layers)]


def _rates(done: Mapping[int, Document], names: Sequence[str], layers: Sequence[str]) -> Table:
    """Learning rates by step (and layer, where each has its own), over the seeds."""
    rates = {name: np.array([document["choices"][name]["rate"] for document in done.values()]) for name in names}
    _, steps, many = rates[names[0]].shape
    body = []
    for step in range(steps):
        for layer in range(many):
            label = f"{step + 1}, {layers[layer]}" if many > 1 else str(step + 1)
            body.append((label, *(_text(rates[name][:, step, layer], "{:.3g}") for name in names)))
    header = ("inner step, layer" if many > 1 else "inner step", *names)
    caption = "BMP's learning rate, mean over the test tasks; in parentheses from the least seed to the most."
    return Table(header, tuple(body), caption, frozenset(range(1, len(header))))


def _mmsup(row: Row, done: Mapping[int, Document]) -> list[Block]:
    first = next(iter(done.values()))
    names, layers = list(first["choices"]), first["layers"]
    maps = {  # the shares are chosen at the first step and kept
        f"seed {seed}": np.array([document["choices"][name]["keep"][0] for name in names]).T
        for seed, document in done.items()
    }
    picture = Picture(plots.share_maps({"": maps}, layers, names, "kept"), KEPT + _unseen(row, names))
    pairs = list(first["overlap"])
    body = [
        (
            pair.replace("|", " and "),
            *(_text([d["overlap"][pair][n] for d in done.values()], "{:.2f}") for n in range(len(layers))),
        )
        for pair in pairs
    ]
    if not body:
        return [picture, Note("One distribution alone has no overlap.")]
    return [picture, Table(("subnets of", *layers), tuple(body), COMMON, frozenset(range(1, len(layers) + 1)))]


def _unseen(row: Row, names: Sequence[str]) -> str:
    others = [name for name in names if name not in row.mixture]
    return f" Not trained on: {', '.join(others)}." if others else ""


def _text(values: Sequence[float], form: str) -> str:
    found = spread(float(value) for value in values)
    return spread_text(found, form) if found else NONE
