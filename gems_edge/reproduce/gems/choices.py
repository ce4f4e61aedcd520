"""What BMP and MMSUP adapt of each distribution: masks, rates, kept shares, and what the subnets have in common."""

from collections.abc import Mapping, Sequence

from gems_edge.report import run_choices
from gems_edge.report.page import Block, Note, Section
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
RATES = f"BMP's learning rate, mean over the test tasks; {TIMES_CAPTION}"
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
            title = f"What {NAMES[row.method]} adapts: trained on {row.setup.label}"
            sections.append(Section(title, _blocks(row, done)))
    return sections


def _blocks(row: GemsRow, done: Mapping[str, Document]) -> list[Block]:
    """`done`: label of a seed → its result."""
    runs = {seed: document["choices"] for seed, document in done.items()}
    layers = next(iter(done.values()))["layers"]
    others = [name for name in next(iter(runs.values())) if name not in row.setup.sets]
    unseen = f" Not trained on: {', '.join(others)}." if others else ""
    if row.method != "mmsup":
        rates = run_choices.rates_table(
            list(runs.values()), layers, RATES, lambda values: _over_seeds(values, "{:.3g}")
        )
        return [run_choices.mask_picture(runs, layers, MASKS + unseen), rates]
    picture = run_choices.share_picture(runs, layers, KEPT + unseen)
    overlaps = [document["overlap"] for document in done.values()]
    if not overlaps[0]:
        return [picture, Note("One distribution alone has no overlap.")]
    return [picture, run_choices.overlap_table(overlaps, layers, COMMON, lambda values: _over_seeds(values, "{:.2f}"))]


def _over_seeds(values: Sequence[float], form: str) -> str:
    over_seeds = spread(values)
    return spread_text(over_seeds, form) if over_seeds else NONE
