"""From the result.json of a grid's cells to the numbers of tables: several trainings of one entry become one row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gems_edge.reproduce.grid import Document
from gems_edge.reproduce.pooling import Difference, Pooled, Spread, paired, pooled, spread, times_less
from gems_edge.reproduce.tickets.plan import Want
from gems_edge.reproduce.tickets.protocol import Setup

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
    """How many times less `row` costs than `reference`, over the seeds that both have done (see pooling.times_less)."""
    seeds = [seed for seed in row.done if reference and seed in reference.done]
    return times_less((cost(reference.done[seed], name), cost(row.done[seed], name)) for seed in seeds)


def difference(row: Row, reference: Row, mode: str = "") -> Difference | None:
    """Accuracy of `row` less `reference`'s; each seed against the same seed, which has the same initial weights and episodes.

    See pooling.paired. None if no seed is common.
    """
    mode, seeds = mode or row.mode, [seed for seed in row.done if seed in reference.done]
    return paired([(row.done[seed]["accuracy"][mode], reference.done[seed]["accuracy"][mode]) for seed in seeds])


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
