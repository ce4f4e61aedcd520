"""What finding and training a ticket costs, in the FLOPs of either book (tickets/flops.py)."""

from dataclasses import dataclass
from typing import Any

from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.spec import ModelSpec
from gems_edge.models.ticket import Ticket
from gems_edge.tickets.flops import Book, TrainingWork, book, densities_of
from gems_edge.tickets.search import SEARCH, dense_run


@dataclass(frozen=True)
class TicketCost:
    """MACs of finding a ticket and of training what it keeps, by the same book."""

    find: float
    train: float
    trained: Book  # `train`, layer by layer

    @property
    def total(self) -> float:
        return self.find + self.train

    def as_dict(self) -> dict[str, Any]:
        return {"find": self.find, "train": self.train, "total": self.total}


def training_work(config: TrainConfig, iterations: float | None = None) -> TrainingWork:
    """What a training with these settings does.

    The network's own products are counted, not the few thousand MACs that BMP's and MMSUP's perceptrons add.
    """
    iterations = config.iterations if iterations is None else iterations
    if config.rule.one_model_each:
        iterations *= len(config.data)
    return TrainingWork(
        adapts_backbone=config.rule.moves_body, adapts_head=config.rule.moves_head, iterations=iterations,
        steps=config.steps, ways=config.training_ways, shots=config.shots.mean, queries=config.queries,
        meta_batch=config.meta_batch, first_order=config.first_order, normalization=config.normalization,
    )  # fmt: skip


def ticket_cost(run: Run, name: str) -> TicketCost:
    """The cost of a run with a ticket (of a dense run: no finding) in the book `name`, its last iteration reached."""
    config = run.config()
    ticket = run.ticket(config)
    trained = training_book(name, config.model_spec(), config, ticket)
    find = 0.0 if ticket is None else _finding(run, name, config, ticket)
    return TicketCost(find, trained.total, trained)


def training_book(name: str, dense: ModelSpec, config: TrainConfig, ticket: Ticket | None) -> Book:
    """A whole training: dense, with the densities of a weight ticket, or on the compact network of a channel ticket."""
    if ticket is None:
        return book(name, dense, training_work(config))
    densities = densities_of(ticket.masks) if ticket.unit == "weight" else None
    return book(name, ticket.spec(dense), training_work(config), densities)


def _finding(run: Run, name: str, config: TrainConfig, ticket: Ticket) -> float:
    dense = config.model_spec()
    if config.ticket.dense_run:
        return ticket_cost(dense_run(config), name).total
    if "episodes" in ticket.found:  # snip's gradients
        return book(name, dense, training_work(config, ticket.found["episodes"] / config.meta_batch)).total
    if "settled" in ticket.found:
        return book(name, dense, training_work(config, ticket.found["iterations"])).total
    search = Run(run.directory / SEARCH)
    return ticket_cost(search, name).total if search.config_path.exists() else 0.0
