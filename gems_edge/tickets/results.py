"""From the result.json of a grid's cells to the numbers of tables: several trainings of one entry become one row."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.errors import UserError
from gems_edge.files import read_json
from gems_edge.tickets.grid import Cell
from gems_edge.tickets.plan import Want
from gems_edge.tickets.presets import Setup

Document = Mapping[str, Any]  # a result.json


@dataclass(frozen=True)
class Pooled:
    """An accuracy over several trainings: the mean, how well the episodes know it, and how far the trainings lie apart."""

    mean: float
    ci95: float  # half-width over all episodes of all trainings; does not know that trainings differ
    episodes: int  # of all trainings together
    low: float  # the least and the greatest training's mean
    high: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.mean, "ci95": self.ci95, "episodes": self.episodes, "seeds_low": self.low,
            "seeds_high": self.high,
        }  # fmt: skip


def pooled(trainings: Sequence[Mapping[str, float]]) -> Pooled:
    """Entries {accuracy, ci95, episodes} → the mean and 95 % half-width (1.96 standard errors) of all their episodes together.

    Exactly what one evaluation over the joined list of per-episode accuracies would give.
    """
    means = np.array([entry["accuracy"] for entry in trainings], float)
    counts = np.array([entry["episodes"] for entry in trainings], float)
    variances = np.array([_variance(entry) for entry in trainings])
    total = counts.sum()
    mean = float(counts @ means / total)
    squares = (counts - 1) @ variances + counts @ (means - mean) ** 2
    half = 1.96 * math.sqrt(squares / (total - 1) / total)
    return Pooled(mean, half, int(total), float(means.min()), float(means.max()))


def _variance(entry: Mapping[str, float]) -> float:
    """Of single episodes: ci95 is 1.96 · deviation / √n."""
    return entry["episodes"] * (entry["ci95"] / 1.96) ** 2


@dataclass(frozen=True)
class Spread:
    """One number of several trainings."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def spread(values: Iterable[float]) -> Spread | None:
    values = list(values)
    return Spread(sum(values) / len(values), min(values), max(values)) if values else None


# Name → where a result.json has it. "find": what finding the ticket took, 0 for what needs no search.
COSTS = ("find.iterations", "find.seconds", "find.cpu_seconds", "train.seconds", "train.cpu_seconds") + tuple(
    f"{book}.{part}" for book in ("paper", "full") for part in ("find", "train", "total")
)


def cost(document: Document, name: str) -> float | None:
    """One of COSTS; None where it is not known (the seconds of SNIP's gradients are not logged)."""
    place, _, part = name.partition(".")
    if place in ("paper", "full"):
        return document["flops"][place][part]
    if place == "train":
        return document["training"].get(part)
    ticket = document["ticket"]
    if ticket is None:
        return 0.0
    return None if "episodes" in ticket["found"] else ticket["found"].get(part)


@dataclass(frozen=True)
class Row:
    """One entry of a table or figure: what its trainings gave, as far as they are done."""

    setup: Setup
    method: str
    ratio: float
    variant: str
    shared_init: bool
    wanted: tuple[int, ...]  # seeds
    done: Mapping[int, Document]  # seed → result

    @property
    def mode(self) -> str:
        """The normalisation mode that it is trained in, and its headline accuracy is of."""
        return self.setup.config.normalization

    @property
    def modes(self) -> tuple[str, ...]:
        """The headline's mode and the others that the cells were evaluated in."""
        found = [mode for document in self.done.values() for mode in document["accuracy"]]
        return tuple(dict.fromkeys((self.mode, *found)))

    def accuracy(self, mode: str = "") -> Pooled | None:
        entries = [document["accuracy"].get(mode or self.mode) for document in self.done.values()]
        entries = [entry for entry in entries if entry]
        return pooled(entries) if entries else None

    def cost(self, name: str) -> Spread | None:
        values = [cost(document, name) for document in self.done.values()]
        return None if None in values else spread(values)


def factor(reference: Row | None, row: Row, name: str) -> Spread | None:
    """How many times less `row` costs than `reference`, over the seeds that both have done.

    The mean is the ratio of the sums (the mean of ratios would be larger); low and high are single seeds'. None where a
    cost is 0, not known or not there.
    """
    seeds = [seed for seed in row.done if reference and seed in reference.done]
    pairs = [(cost(reference.done[seed], name), cost(row.done[seed], name)) for seed in seeds]
    if not pairs or any(not theirs or not own for theirs, own in pairs):
        return None
    single = [theirs / own for theirs, own in pairs]
    whole = sum(theirs for theirs, _ in pairs) / sum(own for _, own in pairs)
    return Spread(whole, min(single), max(single))


@dataclass(frozen=True)
class Difference:
    """Accuracy of one row less another's, over the seeds that both have done."""

    mean: float
    half: float  # of the 95 % interval; infinite with one training
    low: float
    high: float
    trainings: int

    def as_dict(self) -> dict[str, Any]:
        half = self.half if math.isfinite(self.half) else None
        return {"points": self.mean, "ci95": half, "low": self.low, "high": self.high, "trainings": self.trainings}


def difference(row: Row, reference: Row, mode: str = "") -> Difference | None:
    """`row` − `reference`, in shares; each seed against the same seed, which has the same initial weights and episodes.

    The interval is the wider of two: that of the episodes, as if the two were tested on different ones, and Student's over
    the seeds' differences, which knows that trainings differ. None if no seed is common.
    """
    mode, seeds = mode or row.mode, [seed for seed in row.done if seed in reference.done]
    if not seeds:
        return None
    own, theirs = ([one.done[seed]["accuracy"][mode] for seed in seeds] for one in (row, reference))
    differences = np.array([mine["accuracy"] - other["accuracy"] for mine, other in zip(own, theirs)])
    low, high, count = float(differences.min()), float(differences.max()), len(differences)
    if count == 1:
        return Difference(low, math.inf, low, high, 1)
    episodes = math.hypot(pooled(own).ci95, pooled(theirs).ci95)
    trainings = student(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(float(differences.mean()), max(episodes, trainings), low, high, count)


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


class Rows(Sequence[Row]):
    """Rows in order, and by what they are."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = list(rows)
        self._places = {self._key(row.setup, row.method, row.ratio, row.variant, row.shared_init): row for row in rows}

    @staticmethod
    def _key(setup: Setup, *others: Any) -> tuple:
        return (setup.name, *others)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place):
        return self._rows[place]

    def find(
        self, setup: Setup, method: str, ratio: float = 0.0, variant: str = "", shared: bool = False
    ) -> Row | None:
        return self._places.get(self._key(setup, method, ratio, variant, shared))

    def dense_of(self, row: Row) -> Row | None:
        return self.find(row.setup, "dense", shared=row.shared_init)

    @property
    def setups(self) -> list[Setup]:
        return list(dict.fromkeys(row.setup for row in self._rows))

    def of(self, setup: Setup) -> "Rows":
        return Rows([row for row in self._rows if row.setup == setup])


def rows_of(wants: Iterable[Want], results: Mapping[str, Document]) -> Rows:
    """The entries that `wants` ask for, in their order, with the seeds that are done. An entry asked for twice is one."""
    groups: dict[tuple, list[Want]] = {}
    for want in dict.fromkeys(wants):
        groups.setdefault((want.setup, want.method, want.ratio, want.variant, want.shared_init), []).append(want)
    rows = []
    for key, members in groups.items():
        done = {want.seed: results[want.name] for want in members if want.name in results}
        rows.append(Row(*key, tuple(want.seed for want in members), done))
    return Rows(rows)


def read_results(directory: Path, cells: Sequence[Cell]) -> dict[str, Document]:
    """Cell → its result, of the cells that are done.

    UserError if the directory holds a cell of the same name with other settings, or no grid at all.
    """
    if not (directory / "cells").is_dir():
        raise UserError(f"{directory} holds no reproduction (no directory cells); leave out --report-only to train one")
    results = {}
    for cell in cells:
        place = directory / "cells" / cell.name
        if not (place / "cell.json").exists():
            continue
        if read_json(place / "cell.json", "cell") != json.loads(json.dumps(cell.task)):
            raise UserError(
                f"{directory} holds another grid: {cell.name} has other settings there; choose another directory, or the "
                "preset and options that it was started with"
            )
        try:
            results[cell.name] = json.loads((place / "result.json").read_bytes())
        except (FileNotFoundError, ValueError):
            continue
    return results
