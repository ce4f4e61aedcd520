"""Rows as they were tested at one number of shots, and the bar beside them: the same network without any training.

Every cell of a pretrained network holds the bar on its own episodes (meta/evaluation/untrained.py). It starts from the
same weights and is tested on the same episodes as all others, so that it is the same in every cell.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gems_edge.reproduce.gems.plan import GemsRow, GemsRows
from gems_edge.reproduce.job import Document
from gems_edge.reproduce.pooling import Entry
from gems_edge.reproduce.protocol import Setup

UNTRAINED = "untrained"


def at_shots(rows: GemsRows, shots: int) -> GemsRows:
    """`rows` with the accuracies of so many support images a class; those of cells that know one number as they are."""
    return GemsRows(
        replace(row, done={seed: _at_shots(document, shots) for seed, document in row.done.items()}) for row in rows
    )


def _at_shots(document: Document, shots: int) -> Document:
    tested: Document = document.get("by_shots", {}).get(str(shots), {})
    return {**document, **tested}


def bar_row(rows: GemsRows, setup: Setup) -> GemsRow:
    """The row "untrained" of `setup`: a bar for each seed of which a cell is done."""
    found: dict[int, Document] = {}
    for row in rows.of(setup):
        for seed, document in row.done.items():
            if UNTRAINED in document:
                found.setdefault(seed, document)
    wanted = tuple(dict.fromkeys(seed for row in rows.of(setup) for seed in row.wanted))
    done = {seed: _bar(found[seed], len(found)) for seed in wanted if seed in found}
    return GemsRow(setup, UNTRAINED, 0.0, "", wanted, done)


def _bar(document: Document, seeds: int) -> Document:
    """What a cell's result would be if its training were none; one of `seeds`."""
    by_shots = {number: _tested(each, seeds) for number, each in document.get("by_shots", {}).items()}
    return {**_tested(document, seeds), "by_shots": by_shots, "training": {}}


def _tested(document: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    bars: Mapping[str, Mapping[str, Entry]] = document[UNTRAINED]
    accuracy = {name: {mode: _shared(e, seeds) for mode, e in modes.items()} for name, modes in bars.items()}
    return {"accuracy": accuracy}


def _shared(entry: Entry, seeds: int) -> Entry:
    """One test's accuracy as each of `seeds` holds it, so that pooled over them its episodes count once."""
    return {**entry, "episodes": entry["episodes"] / seeds, "ci95": entry["ci95"] * math.sqrt(seeds)}
