"""From the result.json of a grid's cells to the rows of tables: the trainings of one row together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from gems_edge.reproduce.job import Document
from gems_edge.reproduce.pooling import ALPHA, Difference, Entry, Pooled, Spread, paired, pooled, spread, times_less
from gems_edge.reproduce.protocol import Key, S, Trial

# What `cost_of` knows of a cell with a ticket.
COSTS = ("find.iterations", "find.seconds", "find.cpu_seconds", "train.seconds", "train.cpu_seconds") + tuple(
    f"{book}.{part}" for book in ("paper", "full") for part in ("find", "train", "total")
)


def accuracies(document: Document) -> Mapping[str, Mapping[str, Entry]]:
    """Distribution → mode → accuracy. A cell tested on a single distribution leaves it unnamed: ""."""
    stored: Mapping[str, Any] = document["accuracy"]
    return {"": stored} if any("accuracy" in entry for entry in stored.values()) else stored


def accuracy_of(document: Document, sets: Sequence[str], mode: str) -> Entry:
    """The mean over the distributions, of which each counts alike; their episodes are independent."""
    entries = [accuracies(document)[name][mode] for name in sets]
    if len(entries) == 1:
        return entries[0]
    mean = {
        "accuracy": sum(entry["accuracy"] for entry in entries) / len(entries),
        "ci95": math.sqrt(sum(entry["ci95"] ** 2 for entry in entries)) / len(entries),
        "episodes": sum(entry["episodes"] for entry in entries),
    }
    if not all("shares" in entry for entry in entries) or len({len(entry["shares"]) for entry in entries}) > 1:
        return mean
    return mean | {"shares": [sum(shares) / len(entries) for shares in zip(*(entry["shares"] for entry in entries))]}


def cost_of(document: Document, name: str) -> float | None:
    """train.PART of the training; find.PART and paper.PART, full.PART (MACs by a book) of a ticket.

    "find" is what finding the ticket took, 0 where nothing was searched for. None where it is not known: the seconds of
    SNIP's gradients are not logged.
    """
    kind, _, part = name.partition(".")
    if kind == "train":
        costs = document["training"]
    elif kind in ("paper", "full"):
        costs = document["flops"][kind]
    elif document["ticket"] is None:
        return 0.0
    else:
        costs = document["ticket"]["found"]
        if "episodes" in costs:
            return None
    value: float | None = costs.get(part)
    return value


@dataclass(frozen=True)
class Row(Generic[S]):
    """One row of a table or figure: what its trainings gave, as far as they are done."""

    setup: S
    method: str
    ratio: float
    variant: str
    wanted: tuple[int, ...]  # seeds
    done: Mapping[int, Document]  # seed → result
    alpha: float = ALPHA  # of the intervals of its differences

    @property
    def key(self) -> Key:
        return self.setup.name, self.method, self.ratio, self.variant

    @property
    def mode(self) -> str:
        return self.setup.mode

    @property
    def modes(self) -> tuple[str, ...]:
        """The headline's mode and the others that the cells were tested in."""
        tested = [mode for document in self.done.values() for modes in accuracies(document).values() for mode in modes]
        return tuple(dict.fromkeys((self.mode, *tested)))

    def accuracy(self, sets: Sequence[str] = (), mode: str = "") -> Pooled | None:
        """In `mode` (or the headline's), the mean over the distributions `sets` (or those that it is trained on)."""
        sets, mode = sets or self.setup.sets, mode or self.mode
        entries = [accuracy_of(document, sets, mode) for document in self.done.values()]
        return pooled(entries) if entries else None

    def cost(self, name: str) -> Spread | None:
        return spread(cost_of(document, name) for document in self.done.values())

    def accuracies_document(self, sets: Sequence[str] = ()) -> dict[str, Any]:
        """Mode → accuracy over the seeds."""
        return {mode: over.as_dict() for mode in self.modes if (over := self.accuracy(sets, mode))}

    def costs_document(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: costs.as_dict() if (costs := self.cost(name)) else None for name in names}


def common_seeds(row: Row[S], reference: Row[S]) -> list[int]:
    return [seed for seed in row.done if seed in reference.done]


def wanted_seeds(row: Row[S], reference: Row[S]) -> list[int]:
    """The seeds that both are to have: another claim may ask for more of one of them."""
    return [seed for seed in row.wanted if seed in reference.wanted]


def factor(reference: Row[S] | None, row: Row[S], name: str) -> Spread | None:
    """How many times less `row` costs than `reference` (see `cost_of`), over the seeds that both have done."""
    if reference is None:
        return None
    seeds = common_seeds(row, reference)
    return times_less((cost_of(reference.done[seed], name), cost_of(row.done[seed], name)) for seed in seeds)


def difference(row: Row[S], reference: Row[S], sets: Sequence[str] = (), mode: str = "") -> Difference | None:
    """Accuracy of `row` less `reference`'s; each seed against the same seed, whose initial weights are the same.

    See pooling.paired. None if no seed is common.
    """
    sets, mode, seeds = sets or row.setup.sets, mode or row.mode, common_seeds(row, reference)
    own, others = ([accuracy_of(r.done[seed], sets, mode) for seed in seeds] for r in (row, reference))
    return paired(list(zip(own, others)), row.alpha)


class Rows(list[Row[S]]):
    """Rows in order, and by what they are."""

    def find(self, setup: S, method: str, ratio: float = 0.0, variant: str = "") -> Row[S] | None:
        key = (setup.name, method, ratio, variant)
        return next((row for row in self if row.key == key), None)

    @property
    def setups(self) -> list[S]:
        return list(dict.fromkeys(row.setup for row in self))

    def of(self, setup: S) -> "Rows[S]":
        return Rows(row for row in self if row.setup == setup)


def rows_of(trials: Iterable[Trial[S]], results: Mapping[str, Document], alpha: float = ALPHA) -> Rows[S]:
    """The rows of `trials`, in their order, with the seeds that are done. A trial that is asked for twice is one."""
    members: dict[tuple[S, str, float, str], list[Trial[S]]] = {}
    for trial in dict.fromkeys(trials):
        members.setdefault((trial.setup, trial.method, trial.ratio, trial.variant), []).append(trial)
    rows: Rows[S] = Rows()
    for key, group in members.items():
        done = {trial.seed: results[trial.name] for trial in group if trial.name in results}
        rows.append(Row(*key, tuple(trial.seed for trial in group), done, alpha))
    return rows
