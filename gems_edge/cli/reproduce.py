"""gems-edge reproduce: train a paper's tables and figures, and write them beside what the paper says."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import PATH, emit, json_option, say, table
from gems_edge.data import limits
from gems_edge.errors import UserError
from gems_edge.places import check_room

if TYPE_CHECKING:
    from gems_edge.reproduce.looks import Looks
    from gems_edge.reproduce.page import P, Study
    from gems_edge.reproduce.protocol import S
    from gems_edge.reproduce.training import Paper

# Keys of each paper's protocol.PRESETS, repeated so that --help need not import it.
TICKETS_PRESETS = ("small", "paper", "tiny")
GEMS_PRESETS = ("small", "paper", "pretrained", "tiny")


@click.group()
def command() -> None:
    """Train what a paper reports, and compare."""


@dataclass(frozen=True)
class Request:
    """The options that every reproduction has."""

    preset: str
    output: Path | None
    data: tuple[str, ...]
    jobs: int | None
    processes: int
    ray: str | None
    seeds: int | None
    until_decided: int | None
    budget: float | None
    nice: bool
    methods: tuple[str, ...]
    report_only: bool
    as_json: bool


def _request_options(presets: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    options = (
        click.option(
            "--preset", type=click.Choice(presets), default="small", show_default=True, help="How much of it."
        ),
        click.option("-o", "--output", type=PATH, help="Directory.  [default: see the examples]"),
        click.option(
            "--data", multiple=True, metavar="NAME=SPEC", help="Images of the preset's data NAME, as --data of train."
        ),
        click.option(
            "--jobs",
            type=click.IntRange(1, limits.THREADS),
            help="Trainings at a time.  [default: one per GPU, else per core]",
        ),
        click.option(
            "--processes",
            type=click.IntRange(1, limits.THREADS),
            default=1,
            show_default=True,
            help="Processes of each (torchrun).",
        ),
        click.option(
            "--ray", metavar="ADDRESS", help="Train on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local."
        ),
        click.option(
            "--seeds",
            type=click.IntRange(1, limits.TRAININGS),
            help="Trainings of each entry.  [default: the preset's]",
        ),
        click.option(
            "--until-decided",
            type=click.IntRange(2, limits.TRAININGS),
            metavar="SEEDS",
            help="Train up to so many where a claim is not decided by fewer.",
        ),
        click.option(
            "--budget",
            type=click.FloatRange(0, limits.HOURS, min_open=True),
            metavar="HOURS",
            help="Start no training later.",
        ),
        click.option("--nice", is_flag=True, help="Give way to other programs."),
        click.option("--method", "methods", multiple=True, help="Only this method (dense, mwt, maml, bmp, …)."),
        click.option("--report-only", is_flag=True, help="Train nothing; write what is done so far."),
        json_option,
    )

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@command.command()
@click.option("--table", "numbers", type=int, multiple=True, help="Table 2 (cost, Conv-4) or 3 (cost, ResNet-12).")
@click.option("--figure", "figures", type=int, multiple=True, help="Figure 1 to 15; more than once for several.")
@click.option("--ratio", "ratios", type=float, multiple=True, help="Share of weights removed.  [default: the preset's]")
@_request_options(TICKETS_PRESETS)
def tickets(numbers: Sequence[int], figures: Sequence[int], ratios: Sequence[float], **options: Any) -> None:
    """Meta winning tickets (Gao et al., KDD 2022): accuracy and cost of MWT, PMT and their baselines.

    Without --table and --figure: accuracy and cost of all methods on the preset's Conv-4 setups. Every training is a
    directory below DIR/cells (DIR is reproduce-PRESET without -o); the same command goes on where it was stopped.
    Leaves DIR/report.html and DIR/results.json.

    \b
    Examples:
      gems-edge reproduce tickets --preset tiny -o tiny
      gems-edge reproduce tickets --preset small --data tinyimagenet32=packed:tiny.npz
      gems-edge reproduce tickets --preset small --figure 7 --figure 9 --seeds 2
      gems-edge reproduce tickets --preset small --report-only --json
      gems-edge reproduce tickets --preset paper --table 2 --data mini=folder:miniimagenet --ray auto
    """
    from gems_edge.reproduce.page import Study
    from gems_edge.reproduce.tickets import plan, protocol
    from gems_edge.reproduce.tickets.page import judge, reproduce
    from gems_edge.reproduce.training import Paper

    request = Request(**options)
    _check_methods(request.methods, (*plan.METHODS, "omt", "pm"))
    preset = protocol.with_data(protocol.PRESETS[request.preset], _data(request.data))
    preset = protocol.cut(preset, request.seeds, ratios)
    looks = _looks(preset.seeds, request)
    preset = replace(preset, seeds=looks.seeds[-1])
    parts = plan.parts(preset, numbers, figures, request.methods)
    cells_of = partial(plan.cells, preset)
    output = request.output or Path(f"reproduce-{request.preset}")
    study = Study(preset, output, parts, cells_of(chain.from_iterable(parts.values())), {}, looks)

    specs = [spec for setup in preset.setups for spec in setup.config.data]
    paper = Paper(f"Meta winning tickets, preset {preset.name}", cells_of, judge, reproduce)
    _run(study, paper, specs, request)


@command.command()
@click.option("--table", "numbers", type=int, multiple=True, help="Table 1 to 5; more than once.  [default: 1 and 2]")
@click.option(
    "--data-root", type=PATH, help="Where the preset's sets are: DIR/NAME.npz or folder DIR/NAME."
)  # fmt: skip
@click.option(
    "--iterations",
    type=click.IntRange(1, limits.ITERATIONS),
    help="Meta-iterations of each training.  [default: the preset's]",
)
@click.option(
    "--episodes", type=click.IntRange(2, limits.EPISODES), help="Test episodes of each set.  [default: the preset's]"
)
@_request_options(GEMS_PRESETS)
def gems(
    numbers: Sequence[int], data_root: Path | None, iterations: int | None, episodes: int | None, **options: Any
) -> None:
    """GEMS (Pimpalkhute et al., WACV 2023): one model for several distributions, by BMP and MMSUP beside MAML.

    Tables: 1 accuracy and time on the trained distributions, 2 on unseen ones, 3 and 4 MMSUP of fixed sparsity, in all
    layers and in one, 5 inner steps. Every training is a directory below DIR/cells (DIR is reproduce-gems-PRESET
    without -o); tables share them, and the same command goes on where it was stopped. Leaves DIR/report.html and
    DIR/results.json. Sets that are not given are left out. With the preset tiny the first two sets are trained, and
    NAME is yours to choose. The preset pretrained asks the same of EfficientNet-Lite0 (tables 1 and 2), beside class
    means alone and the untrained network.

    \b
    Examples:
      gems-edge reproduce gems --preset small --data-root sets
      gems-edge reproduce gems --preset pretrained --data-root sets --jobs 1
      gems-edge reproduce gems --table 5 --data grocery=packed:grocery.npz --seeds 1
      gems-edge reproduce gems --preset tiny --data photos=folder:photos
      gems-edge reproduce gems --preset paper --data-root fine-grained --ray auto
    """
    from gems_edge.reproduce.gems import plan, protocol
    from gems_edge.reproduce.gems.page import judge, reproduce
    from gems_edge.reproduce.page import Study
    from gems_edge.reproduce.training import Paper

    request = Request(**options)
    preset = protocol.PRESETS[request.preset]
    _check_methods(request.methods, preset.rows)
    data = _data(request.data, lambda word: protocol.in_root(word, data_root))
    preset = protocol.with_data(preset, data, data_root)
    preset = protocol.cut(preset, request.seeds, iterations, episodes)
    looks = _looks(preset.seeds, request)
    preset = replace(preset, seeds=looks.seeds[-1])
    parts = plan.parts(preset, numbers, request.methods)
    cells_of = partial(plan.cells, preset)
    output = request.output or Path(f"reproduce-gems-{request.preset}")
    study = Study(preset, output, parts, cells_of(chain.from_iterable(parts.values())), {}, looks)
    if preset.pretrained and not request.report_only:  # before cells are written that would all fail
        from gems_edge.models.pretrained import KNOWN

        KNOWN[preset.config.backbone].find()
    paper = Paper(f"GEMS, preset {preset.name}", cells_of, judge, reproduce)
    _run(study, paper, preset.data.values(), request)


def _check_methods(methods: Sequence[str], known: Sequence[str]) -> None:
    for method in methods:
        if method not in known:
            raise UserError(f"--method {method}: choose from {', '.join(known)}")


def _data(texts: Sequence[str], spec_of: Callable[[str], str] = lambda word: "") -> dict[str, str]:
    """NAME → specification; `spec_of` gives that of a bare word, or ""."""
    data = {}
    for text in texts:
        name, _, spec = text.partition("=")
        spec = spec_of(spec or name) or spec
        if not (name and spec):
            raise UserError(f"--data {text}: write NAME=SPEC, such as mini=folder:miniimagenet")
        data[name] = spec
    return data


def _looks(seeds: int, request: Request) -> "Looks":
    from gems_edge.reproduce.looks import Looks, plan_text

    most = request.until_decided or seeds
    if most < seeds:
        raise UserError(f"--until-decided {most} is fewer than the {seeds} trainings to begin with; lower --seeds")
    looks = Looks.between(seeds, most)
    if len(looks.seeds) > 1:
        say(plan_text(looks))
    return looks


def _run(study: "Study[P, S]", paper: "Paper[P, S]", specs: Iterable[str], request: Request) -> None:
    """Train the cells that are not done and write the page of what is; also when some fail or the user stops."""
    from gems_edge.reproduce.grid import GridOptions, read_results
    from gems_edge.reproduce.training import reached, train

    directory = study.directory
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose another directory with -o")
    there = request.report_only or (directory / "cells").is_dir()
    study = replace(study, results=read_results(directory, study.cells) if there else {})
    now = reached(study, paper)
    if request.report_only:
        say(f"{len(now.cells)} cells, {len(now.cells) - len(now.missing)} done")
        _write(now, paper, request.as_json)
        return
    if now.missing and not request.ray:
        _check_data(specs)
    directory.mkdir(parents=True, exist_ok=True)
    check_room(directory)
    if request.nice:
        os.nice(19)
    until = time.monotonic() + 3600 * request.budget if request.budget else math.inf
    try:
        now = train(study, paper, GridOptions(request.jobs, request.processes, request.ray, until), say)
    except UserError:
        raise
    except BaseException:  # cells failed, or the user stops: what is done is worth its page
        if (directory / "cells").is_dir():
            results = read_results(directory, study.cells)
            _write(reached(replace(study, results=results), paper), paper, request.as_json)
        raise
    if now.missing:
        hours = f"{request.budget:g} hour{'s' * (request.budget != 1)}"
        say(f"the budget of {hours} is spent; {len(now.missing)} cells are left; the same command goes on")
    _write(now, paper, request.as_json)


def _check_data(specs: Iterable[str]) -> None:
    """UserError for images that are not there, before cells are written that would all fail."""
    for spec in dict.fromkeys(specs):
        kind, _, path = spec.partition(":")
        if kind in ("folder", "packed") and not Path(path).expanduser().exists():
            raise UserError(f"--data {spec}: {path or 'the path'} does not exist")
        if kind not in ("folder", "packed"):
            from gems_edge.data.sources import load_images

            load_images(spec)


def _write(study: "Study[P, S]", paper: "Paper[P, S]", as_json: bool) -> None:
    from gems_edge.files import write_atomic
    from gems_edge.report.page import Table, render_page

    directory, reproduction = study.directory, paper.reproduce(study)
    page = directory / "report.html"
    write_atomic(page, render_page(paper.title, reproduction.sections))
    document = reproduction.document | {"report": str(page)}
    write_atomic(directory / "results.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        emit(document)
        return
    for section in reproduction.printed:
        for block in section.blocks:
            if isinstance(block, Table):
                rows = [[str(cell) for cell in row] for row in block.rows]
                click.echo(f"{section.title}\n{table(rows, list(block.header))}\n")
    click.echo(f"{page}")
