"""gems-edge ticket: find tickets in dense runs, show them, and analyse what several have in common (KDD'22, part 4)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import FILE, PATH, Command, FiniteRange, data_root_option, emit, json_option, say, table
from gems_edge.cli.options import TICKET, ticket_options

if TYPE_CHECKING:
    from gems_edge.models.ticket import Masks, Ticket
    from gems_edge.report.page import Section

subjects_argument = click.argument("subjects", nargs=-1, required=True, type=PATH, metavar="RUN|TICKET…")
run_argument = click.argument("run", type=PATH)
ratios_option = click.option(
    "--ratio", "ratios", type=FiniteRange(0, 1, max_open=True), multiple=True, default=(0.8,), show_default=True,
    help="Share that magnitude pruning removes from a dense run; may be repeated. A ticket has its own.",
)  # fmt: skip
scope_option = click.option(
    "--scope", type=click.Choice(["global", "layer"]), default="global", show_default=True,
    help="Magnitudes of a dense run are ranked over all layers, or inside each.",
)  # fmt: skip
page_option = click.option("-o", "--output", type=FILE, help="Also write a page with the plot.")


def mask_options(command: Command) -> Command:
    """The options of every command that compares masks."""
    for option in (json_option, page_option, scope_option, ratios_option):
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Find, show and compare tickets: which weights or channels a sparse network keeps.

    Where a command takes several subjects, each is a ticket file, a run that trained a ticket, or a dense run (pruned
    by magnitude at --ratio). For tickets of one network, train dense runs with one --init-seed and other --seed.

    \b
    Examples:
      gems-edge ticket find runs/dense --ticket mwt --ratio 0.8 -o mwt.ticket
      gems-edge train --config runs/dense/config.toml --ticket mwt --ticket-file mwt.ticket -o runs/sparse
      gems-edge ticket overlap runs/dense-1 runs/dense-2 runs/dense-3 --ratio 0.6 --ratio 0.9 -o overlap.html
    """


@command.command("find")
@run_argument
@click.option("-o", "--output", type=PATH, required=True, help="Ticket file to write.")
@data_root_option
@ticket_options
@json_option
def find_command(run: Path, output: Path, root: Path | None, as_json: bool, **options: Any) -> None:
    """Cut a ticket from the finished dense run RUN; nothing is trained.

    \b
    Example:
      gems-edge ticket find runs/dense --ticket mwt --ratio 0.8 --scope layer -o mwt.ticket
    """
    from gems_edge.meta.settings.ticket import TicketConfig
    from gems_edge.tickets.sources import find_in

    settings = {name.removeprefix(TICKET): value for name, value in options.items() if value is not None}
    ticket = find_in(run, TicketConfig(**({"method": "mwt"} | settings)), output, root)
    _show(ticket, output, None, as_json)


@command.command("show")
@click.argument("subject", type=PATH, metavar="RUN|TICKET")
@page_option
@json_option
def show_command(subject: Path, output: Path | None, as_json: bool) -> None:
    """What the ticket of a file or a run keeps of each layer, and how it was found.

    \b
    Example:
      gems-edge ticket show runs/sparse -o ticket.html
    """
    from gems_edge.tickets.sources import ticket_of

    _show(ticket_of(subject), subject, output, as_json)


def _show(ticket: "Ticket", subject: Path, output: Path | None, as_json: bool) -> None:
    from gems_edge.report.ticket_sections import ticket_section
    from gems_edge.tickets.analysis import layer_ratios

    _page(output, f"Ticket: {subject}", lambda: ticket_section(ticket))
    ratios = layer_ratios(ticket.masks)
    if as_json:
        emit({
            "ticket": str(subject), "method": ticket.method, "unit": ticket.unit, "ratio": ticket.ratio,
            "kept": ticket.kept, "widths": list(ticket.widths), "layer_ratios": ratios, "found": ticket.found,
        })  # fmt: skip
        return
    kept = {name: int(mask.sum()) for name, mask in ticket.masks.items()}
    rows = [
        [name, f"{kept[name]:,}", f"{mask.size:,}", f"{100 * ratios[name]:.1f} %"]
        for name, mask in ticket.masks.items()
    ]
    total = sum(mask.size for mask in ticket.masks.values())
    rows.append(["all", f"{sum(kept.values()):,}", f"{total:,}", f"{100 * (1 - ticket.kept):.2f} %"])
    click.echo(table(rows, [f"{ticket.method}, {ticket.unit}s, ratio {ticket.ratio:g}", "kept", "of", "removed"]))
    for name, value in ticket.found.items():
        say(f"{name}: {value}")


@command.command("ratios")
@subjects_argument
@mask_options
def ratios_command(
    subjects: tuple[Path, ...], ratios: tuple[float, ...], scope: str, output: Path | None, as_json: bool
) -> None:
    """Share removed per layer, over several tickets (Fig. 6).

    \b
    Example:
      gems-edge ticket ratios runs/dense-1 runs/dense-2 --ratio 0.6 --ratio 0.8 -o ratios.html
    """
    from gems_edge.report.ticket_sections import ratios_section
    from gems_edge.tickets.analysis import layer_ratios

    groups = {label: [layer_ratios(m) for m in masks] for label, masks in _panels(subjects, ratios, scope).items()}
    _page(output, "Share removed per layer", lambda: ratios_section(groups))
    if as_json:
        emit({"tickets": [str(subject) for subject in subjects], "layer_ratios": groups})
        return
    rows = [
        [label, layer, *(f"{100 * ticket[layer]:.1f} %" for ticket in tickets)]
        for label, tickets in groups.items()
        for layer in tickets[0]
    ]
    click.echo(table(rows, ["ratio", "layer", *(subject.name for subject in subjects)]))


@command.command("overlap")
@subjects_argument
@mask_options
def overlap_command(
    subjects: tuple[Path, ...], ratios: tuple[float, ...], scope: str, output: Path | None, as_json: bool
) -> None:
    """O_g per layer: the share of positions that the first g tickets all keep (Figs. 7 and 15).

    \b
    Example:
      gems-edge ticket overlap runs/dense-1 runs/dense-2 runs/dense-3 --ratio 0.8
    """
    from gems_edge.report.ticket_sections import overlap_section
    from gems_edge.tickets.analysis import overlap

    panels = {label: overlap(masks) for label, masks in _panels(subjects, ratios, scope).items()}
    _page(output, "What tickets keep in common", lambda: overlap_section(panels))
    if as_json:
        emit({"tickets": [str(subject) for subject in subjects], "overlap": panels})
        return
    rows = [
        [label, layer, *(f"{100 * share:.1f} %" for share in shares)]
        for label, layers in panels.items()
        for layer, shares in layers.items()
    ]
    click.echo(table(rows, ["ratio", "layer", *(f"O_{g}" for g in range(1, len(subjects) + 1))]))


@command.command("emergence")
@run_argument
@click.option(
    "--with", "others", multiple=True, type=PATH, metavar="RUN|TICKET",
    help="Other tickets of the same network: the primary mask is what all of them keep. May be repeated.",
)  # fmt: skip
@mask_options
def emergence_command(
    run: Path, others: tuple[Path, ...], ratios: tuple[float, ...], scope: str, output: Path | None, as_json: bool
) -> None:
    """How much of the primary mask the first layer's mask has, as RUN was trained (Fig. 9).

    RUN is a dense run that kept its weights (train --keep every:500).

    \b
    Example:
      gems-edge ticket emergence runs/dense-1 --with runs/dense-2 --ratio 0.8 -o emergence.html
    """
    from gems_edge.meta.run import Run
    from gems_edge.report.ticket_sections import emergence_section
    from gems_edge.tickets.analysis import emergence, primary
    from gems_edge.tickets.sources import first_layer_masks

    source, curves = Run(run), {}
    iterations = source.config().iterations
    for label, masks in _panels((run, *others), ratios, scope).items():
        first = next(iter(masks[0]))
        looks = first_layer_masks(source, ratios[0] if label == "own" else float(label), scope)
        curves[label] = emergence(looks, primary(masks, first))
    _page(output, "Emergence of the primary mask", lambda: emergence_section(curves, total=iterations))
    if as_json:
        emit({"run": str(run), "iterations": iterations, "emergence": curves})
        return
    rows = [
        [label, f"{iteration:,}", f"{100 * share:.1f} %"]
        for label, points in curves.items()
        for iteration, share in points
    ]
    click.echo(table(rows, ["ratio", "iteration", "of the primary mask"]))


@command.command("hamming")
@run_argument
@mask_options
def hamming_command(run: Path, ratios: tuple[float, ...], scope: str, output: Path | None, as_json: bool) -> None:
    """Distance between the whole masks of RUN's kept checkpoints, the Early-Bird criterion (Figs. 10 and 11).

    \b
    Example:
      gems-edge ticket hamming runs/dense --ratio 0.6 --ratio 0.9 -o hamming.html
    """
    from gems_edge.meta.run import Run
    from gems_edge.report.ticket_sections import hamming_section
    from gems_edge.tickets.analysis import hamming
    from gems_edge.tickets.sources import kept_masks

    panels = {}
    for ratio in ratios:
        iterations, masks = zip(*kept_masks(Run(run), ratio, scope))
        panels[f"{ratio:g}"] = (iterations, hamming(masks))
    _page(output, "Distance of masks in training", lambda: hamming_section(panels))
    if as_json:
        documents = {
            label: {"iterations": iterations, "distances": distances.tolist()}
            for label, (iterations, distances) in panels.items()
        }
        emit({"run": str(run), "hamming": documents})
        return
    rows = [
        [label, f"{iteration:,}", f"{100 * before:.2f} %", f"{100 * last:.2f} %"]
        for label, (iterations, distances) in panels.items()
        for iteration, before, last in zip(iterations[1:], distances.diagonal(1), distances[1:, -1])
    ]
    click.echo(table(rows, ["ratio", "iteration", "from the checkpoint before", "from the last"]))


@command.command("cost")
@run_argument
@click.option(
    "--book", type=click.Choice(["paper", "full"]), default="paper", show_default=True,
    help="paper: forward MACs of the support sets, as KDD'22 counts; full: all that a training step executes.",
)  # fmt: skip
@json_option
def cost_command(run: Path, book: str, as_json: bool) -> None:
    """FLOPs (multiply-accumulates) of finding RUN's ticket and of training it, by layer, with the masks' densities.

    \b
    Example:
      gems-edge ticket cost runs/sparse --book full
    """
    from gems_edge.meta.run import Run
    from gems_edge.tickets.costs import ticket_cost

    cost = ticket_cost(Run(run), book)
    if as_json:
        emit({"run": str(run), "book": book, **cost.as_dict(), "layers": cost.trained.as_dict()["layers"]})
        return
    rows = [
        [layer.name, *(f"{value:.4g}" for value in (layer.forward, layer.backward, layer.second_order, layer.total))]
        for layer in cost.trained.layers
    ]
    rows += [["training", "", "", "", f"{cost.train:.4g}"], ["finding", "", "", "", f"{cost.find:.4g}"]]
    rows.append(["all", "", "", "", f"{cost.total:.4g}"])
    click.echo(table(rows, [f"book {book}", "forward", "backward", "second order", "sum"]))


def _panels(subjects: Sequence[Path], ratios: Sequence[float], scope: str) -> "dict[str, list[Masks]]":
    """Label of the ratio → masks of every subject.

    Where no subject is a dense run there is one panel, "own", of the tickets' own ratios.
    """
    from gems_edge.meta.run import Run
    from gems_edge.tickets.sources import several_masks

    if not any(subject.is_dir() and Run(subject).config().dense for subject in subjects):
        return {"own": several_masks(subjects, 0.0, scope)}
    return {f"{ratio:g}": several_masks(subjects, ratio, scope) for ratio in ratios}


def _page(output: Path | None, title: str, section: "Callable[[], Section]") -> None:
    if output is None:
        return
    from gems_edge.cli.report import write_page

    write_page(output, title, [section()])
