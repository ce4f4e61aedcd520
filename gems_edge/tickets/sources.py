"""Masks from what a user names: a ticket file, a run that trained a ticket, or a dense run, pruned here to a ratio."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gems_edge.data.mixture import load_mixture
from gems_edge.errors import UserError
from gems_edge.meta.processes import single_process, start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.ticket import TICKETS, TicketConfig
from gems_edge.meta.start import Start
from gems_edge.models.fewshot import Weights
from gems_edge.models.ticket import Masks, Ticket, load_ticket, save_ticket
from gems_edge.places import check_file_place
from gems_edge.tickets import criteria
from gems_edge.tickets.analysis import check_alike
from gems_edge.tickets.find import find_ticket
from gems_edge.tickets.primary import read_primary_masks
from gems_edge.tickets.search import SEARCH, Search
from gems_edge.tickets.training import train_run


def ticket_of(path: Path) -> Ticket:
    """The ticket of a file or a run; UserError for a dense run."""
    if not path.is_dir():
        return load_ticket(path)
    run = Run(path)
    ticket = run.ticket(run.config())
    if ticket is None:
        raise UserError(f"{path} is a dense run; give one that was trained with --ticket, or a ticket file")
    return ticket


def masks_of(path: Path, ratio: float, scope: str = "global") -> Masks:
    """The masks of a ticket, or those that magnitude pruning cuts from a dense run's best weights, of what learned."""
    run = Run(path)
    if not path.is_dir() or not run.config().dense:
        return ticket_of(path).masks
    return _largest(run, run.model()[1], ratio, scope)


def _largest(run: Run, weights: Weights, ratio: float, scope: str) -> Masks:
    return criteria.largest(criteria.magnitudes(run.config().model_spec().learning(weights)), ratio, scope)


def several_masks(paths: Sequence[Path], ratio: float, scope: str = "global") -> list[Masks]:
    """Of one network; UserError where two differ in layers or shapes."""
    masks = [masks_of(path, ratio, scope) for path in paths]
    check_alike(masks, names=[str(path) for path in paths])
    return masks


def kept_masks(run: Run, ratio: float, scope: str = "global") -> list[tuple[int, Masks]]:
    """(iteration, masks cut from the weights that the run kept then); UserError if it kept fewer than two."""
    iterations = run.kept_iterations()
    if len(iterations) < 2:
        raise UserError(
            f"{run.directory} kept the weights of {len(iterations)} iterations and this compares several; "
            "train it with --keep every:N"
        )
    return [(at, _largest(run, run.kept(at), ratio, scope)) for at in iterations]


def first_layer_masks(run: Run, ratio: float, scope: str = "global") -> list[tuple[int, np.ndarray]]:
    """(iteration, mask of the first layer): of the weights that a run kept, or what PMT saw while it searched."""
    watched = run.directory / SEARCH / "primary.safetensors"
    if not run.kept_iterations() and watched.exists():
        return read_primary_masks(watched)
    return [(iteration, next(iter(masks.values()))) for iteration, masks in kept_masks(run, ratio, scope)]


def find_in(path: Path, settings: TicketConfig, output: Path, root: Path | None = None) -> Ticket:
    """Cut a ticket from the finished dense run at `path` and write it to `output`; nothing is trained."""
    single_process("ticket find")
    method = TICKETS[settings.method]
    if method.settles:
        raise UserError(
            f"{settings.method} finds its ticket while it trains: gems-edge train --ticket {settings.method}"
        )
    if settings.rounds > 1:
        raise UserError("several rounds train between prunings: gems-edge train --ticket mwt --rounds N")
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    check_file_place(output)
    run = Run(path)
    config = run.config()
    if config.rule.one_model_each:
        runs = ", ".join(str(part.directory) for part in run.distributions().values())
        raise UserError(f"{path} holds a run for each distribution; name one of them: {runs}")
    if not config.dense:
        raise UserError(f"{path} trained a ticket already; its file is {run.ticket_path}")
    if method.from_trained:
        settings = replace(settings, dense_run=str(path.absolute()))
    images = load_mixture(
        config.data,
        image_size=config.image_size,
        channels=config.channels,
        root=root,
        skip_bad=config.skip_bad,
    )
    start = Start(replace(config, ticket=settings), images, start_processes(config.compute))
    ticket = find_ticket(Search(start, run, train_run))
    save_ticket(output, ticket)
    return ticket
