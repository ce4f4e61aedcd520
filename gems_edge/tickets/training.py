"""`train --ticket`: find the ticket, rewind, and meta-train what it keeps.

From then on a channel ticket's network is the small one.
"""

from pathlib import Path

from gems_edge.errors import UserError
from gems_edge.meta.processes import Processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.start import Start, starting
from gems_edge.meta.train import train_from
from gems_edge.models.ticket import Ticket, check_fits, load_ticket, save_ticket
from gems_edge.progress import Progress, Say, silent
from gems_edge.tickets.find import check_search, find_ticket
from gems_edge.tickets.search import Search


def train_ticket(
    run: Run,
    config: TrainConfig,
    *,
    resume: bool = False,
    ticket_file: Path | None = None,
    progress: Progress | None = None,
    root: Path | None = None,
    processes: Processes | None = None,
    say: Say = silent,
) -> dict[str, float]:
    """Find the config's ticket and meta-train it into `run`; returns the best validation.

    `ticket_file`: a ticket to train instead of finding one, from the seed's weights. Both phases resume: a ticket that
    was found is not searched for again. Raises as `train` does, and UserError for a ratio that leaves a layer empty, a
    ticket of another model and a dense run that does not fit.
    """
    if config.dense:
        raise UserError("there is no ticket in these settings; add --ticket mwt, pmt, …")
    with starting(run, config, resume=resume, root=root, processes=processes, say=say) as start:
        return _train_ticket(start, run, ticket_file, progress)


def _train_ticket(start: Start, run: Run, ticket_file: Path | None, progress: Progress | None) -> dict[str, float]:
    start.check(run)
    search = Search(start, run, train_run, progress)
    if ticket_file is not None:
        _read_ticket_file(search, ticket_file)
    elif not run.ticket_path.exists():  # a ticket that was found needs its dense run no more
        check_search(search)
    start.begin(run)
    _ensure_ticket(search, ticket_file)
    return train_from(start, run, initial=run.initial(), progress=progress)


def _ensure_ticket(search: Search, ticket_file: Path | None) -> None:
    """Where the run has no ticket yet, find one or read `ticket_file`, and save it with the weights to start from."""
    run, processes = search.run, search.start.processes
    exists = run.ticket_path.exists()
    processes.wait()  # nobody writes it before everybody has looked
    if exists:
        return
    ticket = find_ticket(search) if ticket_file is None else _read_ticket_file(search, ticket_file)
    weights = search.initial_weights(ticket)
    if processes.first:
        run.save_initial(weights)
        save_ticket(run.ticket_path, ticket)  # last: where it is, the weights to start from are too
    processes.wait()


def train_run(start: Start, run: Run, progress: Progress | None) -> dict[str, float]:
    """Train `run` from where it stands, dense or with its ticket, which is found first; returns the best validation."""
    if start.config.dense:
        return train_from(start, run, progress=progress)
    return _train_ticket(start, run, None, progress)


def _read_ticket_file(search: Search, path: Path) -> Ticket:
    """A ticket from a file; UserError if it is one of another model, or not what the run's settings say."""
    ticket = check_fits(load_ticket(path), search.spec, path)
    for name, option in (("method", "--ticket"), ("unit", "--unit"), ("ratio", "--ratio")):
        value, wanted = getattr(ticket, name), getattr(search.ticket, name)
        if value != wanted:
            raise UserError(f"{path} has the {name} {value}, the run {wanted}; add {option} {value}")
    if search.ticket.rewind and not search.ticket.dense_run:
        raise UserError("--rewind with --ticket-file needs --dense-run: the run that kept the weights")
    return ticket
