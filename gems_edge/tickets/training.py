"""`train --ticket`: find the ticket, rewind, and meta-train what it keeps; a channel ticket's network is small from then on."""

from pathlib import Path
from typing import Any

from gems_edge.data.mixture import Mixture
from gems_edge.errors import UserError
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.processes import Processes, start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.train import Progress, Say, check_directory, prepare, resolve, train
from gems_edge.models.fewshot import Weights
from gems_edge.models.ticket import Ticket, check_fits, load_ticket, save_ticket
from gems_edge.tickets.find import check_search, find_ticket
from gems_edge.tickets.search import Search


def train_ticket(
    run: Run, config: TrainConfig, *, resume: bool = False, given: Path | None = None,
    progress: Progress | None = None, root: Path | None = None, processes: Processes | None = None,
    images: Mixture | None = None, say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Find the config's ticket and meta-train it into `run`; returns the best validation.

    `given`: a ticket file to train instead of finding one, from the seed's weights. Both phases resume: a ticket that was
    found is not found again. Raises as `train` does, and UserError for a ratio that leaves a layer empty, a ticket of
    another model and a dense run that does not fit.
    """
    if config.ticket.method == "none":
        raise UserError("there is no ticket in these settings; add --ticket mwt, pmt, …")
    check_directory(run, resume)
    started = processes or start_processes(config.compute)
    if images is None:
        config, images = started.first_of_node(
            lambda: resolve(config, root, say if started.first else lambda line: None)
        )
    search = Search(run, config, started, images, progress)
    if given is not None:
        read_given(search, given)
    elif not run.ticket_path.exists():  # what has been found needs its dense run no more
        check_search(search)
    if started.device.type == "cpu":
        keep_freed_memory()
    if started.first:
        prepare(run, config)
    started.wait()
    found_before = run.ticket_path.exists()
    started.wait()  # nobody writes it before everybody has looked
    if not found_before:
        if given is None:
            ticket, weights = find_ticket(search)
        else:
            ticket = read_given(search, given)
            weights = start_given(search, ticket)
        if started.first:
            run.save_initial(weights)
            save_ticket(run.ticket_path, ticket)  # last: where it is, the weights to start from are too
        started.wait()
    best = train(run, config, resume=True, initial=run.initial(), progress=progress, processes=started, images=images)
    if processes is None:
        started.leave()
    return best


def train_run(
    run: Run, config: TrainConfig, processes: Processes, images: Mixture, progress: Progress | None
) -> dict[str, Any]:
    """Train `run`, dense or with its ticket, which is found first; goes on where it was. Returns the best validation.

    `config` is resolved and `images` are its own.
    """
    if config.ticket.method == "none":
        return train(run, config, resume=True, progress=progress, processes=processes, images=images)
    return train_ticket(run, config, resume=True, progress=progress, processes=processes, images=images)


def read_given(search: Search, path: Path) -> Ticket:
    """A ticket from a file; UserError if it is one of another model, or not what the run's settings say."""
    ticket = check_fits(load_ticket(path), search.spec, path)
    for name, option in (("method", "--ticket"), ("unit", "--unit"), ("ratio", "--ratio")):
        there, wanted = getattr(ticket, name), getattr(search.ticket, name)
        if there != wanted:
            raise UserError(f"{path} has the {name} {there}, the run {wanted}; add {option} {there}")
    if search.ticket.rewind and not search.ticket.dense_run:
        raise UserError("--rewind with --ticket-file needs --dense-run: the run that kept the weights")
    return ticket


def start_given(search: Search, ticket: Ticket) -> Weights:
    weights = search.reinitialised() if ticket.method == "rr" else search.rewound(search.ticket.rewind)
    return search.start_of(ticket, weights)
