"""From the result.json of a grid's cells to the rows of GEMS's tables: several trainings of one entry become one row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gems_edge.reproduce.gems.plan import MULTI, Want
from gems_edge.reproduce.gems.protocol import Mixture
from gems_edge.reproduce.grid import Document
from gems_edge.reproduce.pooling import Difference, Entry, Pooled, Spread, paired, pooled, spread, times_less

TIMES = ("cpu_seconds", "seconds")
ENTRY = ("accuracy", "ci95", "episodes")


@dataclass(frozen=True)
class Row:
    """One entry of a table: what its trainings gave, as far as they are done."""

    mixture: Mixture
    method: str
    variant: str
    mode: str  # the normalisation mode that it is trained in, and its headline accuracy is of
    wanted: tuple[int, ...]  # seeds
    done: Mapping[int, Document]  # seed → result; of Multi-MAML what its models give together

    @property
    def label(self) -> str:
        return " + ".join(self.mixture)

    @property
    def modes(self) -> tuple[str, ...]:
        """The headline's mode and the others that the cells were evaluated in."""
        found = [mode for document in self.done.values() for modes in document["accuracy"].values() for mode in modes]
        return tuple(dict.fromkeys((self.mode, *found)))

    def accuracy(self, sets: Sequence[str], mode: str = "") -> Pooled | None:
        """The mean over test distributions."""
        entries = [entry(document, sets, mode or self.mode) for document in self.done.values()]
        return pooled(entries) if entries else None

    def time(self, name: str) -> Spread | None:
        """One of TIMES."""
        return spread(document["training"][name] for document in self.done.values())


def entry(document: Document, sets: Sequence[str], mode: str) -> Entry:
    """The mean over the distributions, of which each counts alike; their episodes are independent."""
    entries = [document["accuracy"][name][mode] for name in sets]
    return {
        "accuracy": sum(one["accuracy"] for one in entries) / len(entries),
        "ci95": math.sqrt(sum(one["ci95"] ** 2 for one in entries)) / len(entries),
        "episodes": sum(one["episodes"] for one in entries),
    }


def difference(row: Row, reference: Row, sets: Sequence[str], mode: str = "") -> Difference | None:
    """Accuracy of `row` less `reference`'s, each seed against the same seed; None if no seed is common."""
    mode, seeds = mode or row.mode, common(row, reference)
    return paired([(entry(row.done[seed], sets, mode), entry(reference.done[seed], sets, mode)) for seed in seeds])


def factor(reference: Row, row: Row, name: str) -> Spread | None:
    """How many times less `row`'s training takes (one of TIMES)."""
    pairs = [
        (reference.done[seed]["training"][name], row.done[seed]["training"][name]) for seed in common(row, reference)
    ]
    return times_less(pairs)


def common(row: Row, reference: Row) -> list[int]:
    return [seed for seed in row.done if seed in reference.done]


class Rows(Sequence[Row]):
    """Rows in order, and by what they are."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = list(rows)
        self._places = {(row.mixture, row.method, row.variant): row for row in self._rows}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place):
        return self._rows[place]

    def find(self, mixture: Mixture, method: str, variant: str = "") -> Row | None:
        return self._places.get((mixture, method, variant))

    @property
    def mixtures(self) -> list[Mixture]:
        return list(dict.fromkeys(row.mixture for row in self._rows))

    def of(self, mixture: Mixture) -> "Rows":
        return Rows(row for row in self._rows if row.mixture == mixture)


def rows_of(wants: Iterable[Want], results: Mapping[str, Document], mode: str) -> Rows:
    """The entries that `wants` ask for, in their order, with the seeds that are done. An entry asked for twice is one."""
    groups: dict[tuple, list[Want]] = {}
    for want in dict.fromkeys(wants):
        groups.setdefault((want.mixture, want.method, want.variant), []).append(want)
    rows = []
    for key, members in groups.items():
        done = {want.seed: document for want in members if (document := _document(want, results)) is not None}
        rows.append(Row(*key, mode, tuple(want.seed for want in members), done))
    return Rows(rows)


def _document(want: Want, results: Mapping[str, Document]) -> Document | None:
    documents = [results.get(training.name) for training in want.trainings]
    if any(document is None for document in documents):
        return None
    return together(want.mixture, documents) if want.method == MULTI else documents[0]


def together(mixture: Mixture, documents: Sequence[Document]) -> dict[str, Any]:
    """Multi-MAML, from the results of MAML on each distribution of `mixture`.

    A distribution of the mixture has its own model's accuracy, another one the mean over the models; its interval is the
    mean of theirs, which is never too narrow, for the models answer the same episodes. Times are sums.
    """
    models = dict(zip(mixture, documents))
    common = [name for name in documents[0]["accuracy"] if all(name in document["accuracy"] for document in documents)]
    accuracy = {}
    for name in dict.fromkeys((*mixture, *common)):
        answers = [document["accuracy"][name] for document in ([models[name]] if name in models else documents)]
        accuracy[name] = {
            mode: {key: sum(answer[mode][key] for answer in answers) / len(answers) for key in ENTRY}
            for mode in answers[0]
        }
    training = {key: sum(document["training"][key] for document in documents) for key in (*TIMES, "iterations")}
    return {"accuracy": accuracy, "training": training}
