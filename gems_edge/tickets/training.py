"""`train --ticket`: find the ticket, rewind, and meta-train what it keeps; a channel ticket's network is small from then on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.config import TrainConfig
from gems_edge.meta.processes import Processes, start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.ticket_config import TicketConfig
from gems_edge.meta.train import Progress, check_directory, prepare, resolve, train
from gems_edge.models.ticket import Ticket, check_fits, load_ticket, save_ticket
from gems_edge.tickets.find import SEARCH, Search, dense_run, find_ticket


def train_ticket(
    run: Run, config: TrainConfig, *, resume: bool = False, given: Path | None = None,
    progress: Progress | None = None, root: Path | None = None, processes: Processes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Find the config's ticket and meta-train it into `run`; returns the best validation.

    `given`: a ticket file to train instead of finding one, from the seed's weights. Both phases resume: a ticket that was
    found is not found again. Raises as `train` does, and UserError for a ratio that leaves a layer empty, a ticket of
    another model and a dense run that does not fit.
    """
    if config.ticket.method == "none":
        raise UserError("there is no ticket in these settings; add --ticket mwt, pmt, …")
    check_directory(run, resume)
    started = processes or start_processes(config.device)
    config, _ = started.first_of_node(lambda: resolve(config, root))
    if config.ticket.dense_run:
        dense_run(config)
    if config.ticket.rewind > config.iterations:
        raise UserError(f"--rewind {config.ticket.rewind} lies beyond the run's {config.iterations} iterations")
    if started.device.type == "cpu":
        keep_freed_memory()
    if started.first:
        prepare(run, config)
    started.wait()
    if not run.ticket_path.exists():
        search = Search(run, config, started, progress, root)
        ticket, weights = find_ticket(search) if given is None else load_given(search, given)
        if started.first:
            run.save_initial(weights)
            save_ticket(run.ticket_path, ticket)  # last: where it is, the weights to start from are too
        started.wait()
    best = train(run, config, resume=True, initial=run.initial(), progress=progress, root=root, processes=started)
    if processes is None:
        started.leave()
    return best


def load_given(search: Search, path: Path) -> tuple[Ticket, dict]:
    """A ticket from a file, and θ0 of this run's seed; UserError if it is one of another model."""
    ticket = check_fits(load_ticket(path), search.spec, path)
    return ticket, search.start_of(ticket, search.rewound(0))


def found_in(run: Run) -> Run | None:
    """The training that found the run's ticket, if it lies inside the run."""
    search = Run(run.directory / SEARCH)
    return search if search.config_path.exists() else None


def dense_config(config: TrainConfig) -> TrainConfig:
    return replace(config, ticket=TicketConfig())
