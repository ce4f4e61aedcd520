"""What BMP and MMSUP adapt of each distribution: masks, rates, kept shares, and what the subnets have in common."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Block, Note, Picture, Section, Table
from gems_edge.reproduce.gems.plan import GemsRow
from gems_edge.reproduce.gems.tables import NAMES
from gems_edge.reproduce.job import Document
from gems_edge.reproduce.pooling import spread
from gems_edge.reproduce.tables import TIMES_CAPTION
from gems_edge.reproduce.verdicts import NONE, spread_text

MASKS = (
    "Share of the test tasks whose mask is on: 1 adapts the layer in every task, 0 in none. A row a layer, a column "
    "an inner step, a line of maps a training."
)
KEPT = (
    "Share of each layer's weights in the subnet, mean over the test tasks; one map a training. Unseen sets included."
)
COMMON = (
    "What two distributions' mean subnets share of what either has, per layer (intersection over union); means over "
    "the seeds and their range."
)


def choice_sections(rows: Sequence[GemsRow]) -> list[Section]:
    """A section for each plain row whose update rule chooses, as far as something is done."""
    sections = []
    for row in rows:
        done = {f"seed {seed}": document for seed, document in row.done.items() if document.get("choices")}
        if done and not row.variant:
            names, layers = (list(next(iter(done.values()))[key]) for key in ("choices", "layers"))
            others = [name for name in names if name not in row.setup.sets]
            unseen = f" Not trained on: {', '.join(others)}." if others else ""
            blocks = (_mmsup if row.method == "mmsup" else _bmp)(done, names, layers, unseen)
            sections.append(Section(f"What {NAMES[row.method]} adapts: trained on {row.setup.label}", tuple(blocks)))
    return sections


def _bmp(done: Mapping[str, Document], names: Sequence[str], layers: Sequence[str], unseen: str) -> list[Block]:
    masks = {
        seed: {name: np.array(document["choices"][name]["mask"]).T for name in names} for seed, document in done.items()
    }
    steps = next(iter(masks.values()))[names[0]].shape[1]
    columns = [str(step + 1) for step in range(steps)]
    picture = plots.share_maps(masks, layers, columns, "mask on", "inner step")
    return [Picture(picture, MASKS + unseen), _rates(list(done.values()), names, layers)]


def _rates(done: Sequence[Document], names: Sequence[str], layers: Sequence[str]) -> Table:
    """Learning rates by step (and layer, where each has its own), over the seeds."""
    rates = {name: np.array([document["choices"][name]["rate"] for document in done]) for name in names}
    _, steps, many = rates[names[0]].shape
    body = []
    for step in range(steps):
        for layer in range(many):
            label = f"{step + 1}, {layers[layer]}" if many > 1 else str(step + 1)
            body.append((label, *(_spread_text(rates[name][:, step, layer], "{:.3g}") for name in names)))
    header = ("inner step, layer" if many > 1 else "inner step", *names)
    caption = f"BMP's learning rate, mean over the test tasks; {TIMES_CAPTION}"
    return Table(header, tuple(body), caption, frozenset(range(1, len(header))))


def _mmsup(done: Mapping[str, Document], names: Sequence[str], layers: Sequence[str], unseen: str) -> list[Block]:
    shares = {  # chosen at the first step and kept
        seed: np.array([document["choices"][name]["keep"][0] for name in names]).T for seed, document in done.items()
    }
    picture = Picture(plots.share_maps({"": shares}, layers, names, "kept"), KEPT + unseen)
    overlaps = [document["overlap"] for document in done.values()]
    if not overlaps[0]:
        return [picture, Note("One distribution alone has no overlap.")]
    body = tuple(
        (pair.replace("|", " and "), *(_spread_text(values, "{:.2f}") for values in zip(*(o[pair] for o in overlaps))))
        for pair in overlaps[0]
    )
    return [picture, Table(("subnets of", *layers), body, COMMON, frozenset(range(1, len(layers) + 1)))]


def _spread_text(values: Iterable[float], form: str) -> str:
    over_seeds = spread(float(value) for value in values)
    return spread_text(over_seeds, form) if over_seeds else NONE
