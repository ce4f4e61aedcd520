"""gems-edge export: prune a run physically and write a bundle for the board."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import (
    FILE,
    PATH,
    Document,
    FiniteRange,
    compute_option,
    data_root_option,
    emit,
    json_option,
    say,
    table,
)
from gems_edge.cli.exported import document_of, show
from gems_edge.cli.values import BOARDS, ONE_IMAGE_SET, RATIOS
from gems_edge.data import limits
from gems_edge.device.manifest import MOST_RELEASE
from gems_edge.errors import UserError
from gems_edge.places import check_file_place
from gems_edge.predict.profiles import DeviceProfile

if TYPE_CHECKING:
    from gems_edge.export.budget import Budget, Limit
    from gems_edge.export.source import ExportOptions, Reports

# The options of the limits, and the predicted quantity that each is for.
LIMITS = {"max_latency_ms": "predict", "max_adapt_ms": "adapt", "max_memory_mb": "memory"}
DEFAULT_RATIO, DEFAULT_ROUNDING, DEFAULT_MEMORY = 0.8, 16, "balanced"


@click.command()
@click.argument("run", type=PATH)
@click.option(
    "--ratio",
    "ratios",
    type=RATIOS,
    default="",
    metavar="SHARE[,SHARE…]",
    help="Share of the backbone's weights to remove, as whole channels; 0 exports the dense model. Several: a bundle "
    "of each and a page with their front; with limits: the ones to choose from.  "
    "[default: 0.8, of pretrained networks 0; with limits: 0 to 0.95]",
)
@click.option("-o", "--output", type=PATH, help="Bundle to write.  [default: RUN's name + .gems, here]")
@click.option(
    "--recover-iterations",
    type=click.IntRange(0, limits.ITERATIONS),
    help="Meta-training of the compact network; of a pretrained one, iterations that teach it the dense one's "
    "features, before half as many of meta-training.  [default: a quarter of the run's; pretrained: 240]",
)
@click.option(
    "--round-to",
    type=click.IntRange(1, 64),
    help="Widths are multiples of this (onnxruntime's kernels work in blocks of 8 or 16 channels).  "
    "[default: 16; with limits: 16 or 8]",
)
@click.option(
    "--device",
    "boards",
    type=BOARDS,
    default="",
    metavar="ID[,ID…]",
    help="Boards that the limits are for: ids or profiles' files.",
)
@click.option("--max-latency-ms", type=FiniteRange(0, min_open=True), help="Limit of a prediction of one image.")
@click.option("--max-adapt-ms", type=FiniteRange(0, min_open=True), help="Limit of learning, all steps together.")
@click.option("--max-memory-mb", type=FiniteRange(0, min_open=True), help="Limit of the peak memory of both.")
@click.option(
    "--limits-hold",
    type=click.Choice(["surely", "typically"]),
    default="surely",
    show_default=True,
    help="Whether the upper end of each prediction's interval must keep the limits, or its typical value.",
)
@click.option("--threads", type=click.IntRange(1, limits.THREADS), help="Threads on the boards.  [default: all cores]")
@click.option(
    "--steps",
    type=click.IntRange(0, limits.STEPS),
    help="Gradient steps on the board.  [default: chosen on validation episodes from the run's or fewer]",
)
@click.option(
    "--episodes",
    type=click.IntRange(2, limits.EPISODES),
    default=200,
    show_default=True,
    help="Test episodes for the accuracies in the manifest.",
)
@click.option(
    "--for-data",
    type=ONE_IMAGE_SET,
    help="One image set: freeze what a bmp or mmsup run adapts to its choice for it; of a multi-maml run, its model.",
)
@click.option(
    "--for-tasks",
    "tasks",
    type=click.IntRange(1, limits.EPISODES),
    default=100,
    show_default=True,
    help="Validation tasks of --for-data that decide by majority.",
)
@click.option(
    "--memory",
    type=click.Choice(["low", "balanced", "fast"]),
    help="What learning on the board may take: large maps one image at a time, and (low) computed again.  "
    "[default: balanced; with limits: what fits]",
)
@click.option(
    "--int8/--no-int8",
    default=None,
    help="Also write predict.int8.onnx, with its accuracy beside float32's. With --device boards answer in int8 where "
    "that loses at most half a point.  [default: with --device, of networks that have an int8 form]",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which test episodes.")
@click.option(
    "--sign", type=FILE, metavar="KEY",
    help="Sign it: OpenSSH's private key (ed25519), or the public one of a key that an agent holds.",
)  # fmt: skip
@click.option("--product", metavar="ID", help="What it is for, as trust files name it.  [default: the bundle's name]")
@click.option(
    "--release", type=click.IntRange(1, MOST_RELEASE), metavar="N",
    help="Boards that check signatures take no lower one.  [default: the time, as YYYYMMDDhhmm]",
)  # fmt: skip
@compute_option("Where torch runs, to recover and to evaluate.")
@data_root_option
@json_option
def command(run: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Prune, recover, and write predict.onnx and adapt.onnx with weights and manifest.

    A run with a ticket is pruned by it: a channel ticket has removed its channels already, a weight ticket says which
    channels matter; how much of it is kept is printed. Before the bundle appears, onnxruntime must reproduce torch's
    adaptation and answers on real episodes.

    With --device and limits the most accurate bundle that is predicted to keep them is searched for. What binds is
    said; if nothing fits, the nearest that there is.

    \b
    Example:
      gems-edge export runs/glyphs --ratio 0.8 -o glyphs.gems
      gems-edge export runs/both --for-data folder:fruit -o fruit.gems
      gems-edge export runs/glyphs --device rpi-zero-2w --max-latency-ms 15 --max-memory-mb 110 -o zero.gems
      gems-edge export runs/glyphs --sign ~/.ssh/id_ed25519 --product plates --release 3 -o plates.gems
      gems-edge export runs/glyphs --ratio 0.5,0.8,0.9 --device rpi-4b -o glyphs.gems
    """
    request = _request(run, output or Path(f"{run.resolve().name}.gems"), **options)
    documents = _export_within(request, as_json) if request.limits else _export_each(request, as_json)
    if as_json:
        emit(documents[0] if len(documents) == 1 else {"family": documents, "front": str(_front_page(request.output))})


@dataclass(frozen=True)
class _Request:
    """What the command line asks for; `round_to` and `memory` are None, and `ratios` empty, where it says nothing."""

    run: Path
    output: Path
    ratios: tuple[float, ...]
    round_to: int | None
    memory: str | None
    options: "ExportOptions"  # with the defaults of what is left open
    boards: tuple[DeviceProfile, ...]
    limits: tuple["Limit", ...]
    surely: bool
    threads: int | None


def _request(
    run: Path,
    output: Path,
    *,
    ratios: tuple[float, ...],
    round_to: int | None,
    memory: str | None,
    boards: tuple[DeviceProfile, ...],
    limits_hold: str,
    threads: int | None,
    **options: Any,
) -> _Request:
    """UserError for limits without a board."""
    from gems_edge.export.budget import Limit
    from gems_edge.export.source import ExportOptions

    bounds = {name: options.pop(name) for name in LIMITS}
    limits = tuple(
        Limit(LIMITS[name], "--" + name.replace("_", "-"), most) for name, most in bounds.items() if most is not None
    )
    if limits and not boards:
        raise UserError(f"{limits[0].option} needs a board: name one with --device (gems-edge devices list)")
    export_options = ExportOptions(
        ratio=DEFAULT_RATIO,
        round_to=round_to or DEFAULT_ROUNDING,
        memory=memory or DEFAULT_MEMORY,
        for_boards=any(not board.memory_only for board in boards),
        **options,
    )
    surely = limits_hold == "surely"
    return _Request(run, output, ratios, round_to, memory, export_options, boards, limits, surely, threads)


def _budget(request: _Request) -> "Budget":
    from gems_edge.export.budget import RATIOS, ROUNDINGS, Budget
    from gems_edge.export.passes.stream import MEMORY

    return Budget(
        boards=request.boards,
        limits=request.limits,
        threads=request.threads,
        surely=request.surely,
        ratios=request.ratios or RATIOS,
        roundings=ROUNDINGS if request.round_to is None else (request.round_to,),
        memories=tuple(MEMORY) if request.memory is None else (request.memory,),
    )


def _export_within(request: _Request, as_json: bool) -> list[Document]:
    """Export the most accurate bundle within the limits; its document."""
    from gems_edge.export.families import export_within

    options = replace(request.options, ratio=0.0)
    manifest = export_within(request.run, request.output, options, _budget(request), _reports())
    if not as_json:
        show(request.output, manifest)
        rows = [
            [board, what, f"{entry['value']:.4g} {entry['unit']}", "{:.4g} … {:.4g}".format(*entry["interval"])]
            for board, entries in manifest["budget"]["predicted"].items()
            for what, entry in entries.items()
        ]
        click.echo(table(rows, ["board", "what", "predicted", "interval"]))
    return [document_of(request.output, manifest)]


def _default_ratio(run: Path) -> float:
    """A network that was pretrained is small already, and loses more by pruning than meta-training gives back."""
    from gems_edge.meta.run import Run
    from gems_edge.models.pretrained import RANDOM

    return DEFAULT_RATIO if Run(run).config().init == RANDOM else 0.0


def _export_each(request: _Request, as_json: bool) -> list[Document]:
    """Export one bundle for each ratio, several with a page of their front; their documents."""
    from gems_edge.export.families import export_family

    ratios = request.ratios or (_default_ratio(request.run),)
    output, outputs = request.output, [request.output]
    if len(ratios) > 1:
        check_file_place(_front_page(output))
        outputs = [output.with_name(f"{output.name.removesuffix('.gems')}-{ratio:g}.gems") for ratio in ratios]
    options = replace(request.options, ratio=ratios[0])
    manifests = export_family(request.run, outputs, ratios, options, _reports())
    if not as_json:
        for path, manifest in zip(outputs, manifests):
            show(path, manifest)
    documents = [document_of(path, manifest) for path, manifest in zip(outputs, manifests)]
    return _with_front(request, manifests, documents) if len(ratios) > 1 else documents


def _with_front(request: _Request, manifests: list[Document], documents: list[Document]) -> list[Document]:
    """Write the page of the family's front; the documents with what each bundle is predicted to take on the boards."""
    from gems_edge.cli.report import write_page
    from gems_edge.export.families import front_points
    from gems_edge.report.front import front_sections

    points = front_points(manifests, request.boards, request.threads)
    page = _front_page(request.output)
    write_page(page, f"gems-edge: {request.output.name.removesuffix('.gems')}", front_sections(points))
    say(f"their front: {page}")
    return [document | {"boards": point["boards"]} for document, point in zip(documents, points)]


def _front_page(output: Path) -> Path:
    return output.with_name(f"{output.name.removesuffix('.gems')}-front.html")


def _reports() -> "Reports":
    from gems_edge.cli.progress import counting_progress, training_progress
    from gems_edge.export.source import Reports

    return Reports(say, lambda: training_progress("recover"), counting_progress)
