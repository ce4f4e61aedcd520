"""gems-edge reproduce: train a paper's tables and figures, and write them beside what the paper says."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import PATH, FiniteRange, emit, json_option, say, table
from gems_edge.data import limits
from gems_edge.errors import UserError
from gems_edge.places import check_room

if TYPE_CHECKING:
    from gems_edge.report.page import Section
    from gems_edge.reproduce.grid import Cell
    from gems_edge.reproduce.job import Document
    from gems_edge.reproduce.looks import Seeds
    from gems_edge.reproduce.page import Reproduction, Study
    from gems_edge.reproduce.protocol import Trial

# Keys of each paper's protocol.PRESETS, repeated so that --help need not import it.
TICKETS_PRESETS = ("trained", "small", "paper", "tiny")
GEMS_PRESETS = ("trained", "small", "paper", "pretrained", "tiny")


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
    methods: tuple[str, ...]
    budget: float | None
    nice: bool
    plan: bool
    report_only: bool
    publish: Path | None
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
        click.option("--method", "methods", multiple=True, help="Only this method (dense, mwt, maml, bmp, …)."),
        *_run_options(),
        json_option,
    )

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _run_options() -> tuple[Callable[..., Any], ...]:
    """How far it is trained, and what is left of it."""
    return (
        click.option(
            "--budget",
            type=FiniteRange(0, 1e6, min_open=True),
            metavar="HOURS",
            help="Core hours of all cells together; then no more are started.  [default: the preset's]",
        ),
        click.option("--nice", is_flag=True, help="Give way to all other programs of this machine."),
        click.option("--plan", is_flag=True, help="Say how many trainings each claim needs; train nothing."),
        click.option("--report-only", is_flag=True, help="Train nothing; write what is done so far."),
        click.option(
            "--publish", type=PATH, help="Also keep the results and a page of them: DIR/NAME.json, DIR/NAME.md."
        ),
    )


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
    from gems_edge.reproduce.tickets.page import reproduce

    request = Request(**options)
    _check_methods(request.methods, (*plan.METHODS, "omt", "pm"))
    preset = protocol.with_data(protocol.PRESETS[request.preset], _data(request.data))
    preset = protocol.cut(preset, request.seeds, ratios)
    parts = plan.parts(preset, numbers, figures, request.methods)
    cells = plan.cells(preset, [trial for trials in parts.values() for trial in trials])
    study = Study(preset, request.output or Path(f"reproduce-{request.preset}"), parts, cells, {})

    specs = [spec for setup in preset.setups for spec in setup.config.data]
    wanted = Wanted(
        "tickets", f"Meta winning tickets, preset {preset.name}", study, partial(plan.cells, preset), reproduce
    )
    _run(wanted, specs, request)


@command.command()
@click.option(
    "--table",
    "numbers",
    type=int,
    multiple=True,
    help="Table 1 to 5; more than once.  [default: the preset's]",
)
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
    from gems_edge.reproduce.gems.page import reproduce
    from gems_edge.reproduce.page import Study

    request = Request(**options)
    preset = protocol.PRESETS[request.preset]
    _check_methods(request.methods, preset.rows)
    data = _data(request.data, lambda word: protocol.in_root(word, data_root))
    preset = protocol.with_data(preset, data, data_root)
    preset = protocol.cut(preset, request.seeds, iterations, episodes)
    parts = plan.parts(preset, numbers, request.methods)
    cells = plan.cells(preset, [trial for trials in parts.values() for trial in trials])
    study = Study(preset, request.output or Path(f"reproduce-gems-{request.preset}"), parts, cells, {})
    if preset.pretrained and not request.report_only:  # before cells are written that would all fail
        from gems_edge.models.pretrained import KNOWN

        KNOWN[preset.config.backbone].find()
    name, title = "pretrained" if preset.pretrained else "gems", f"GEMS, preset {preset.name}"
    wanted = Wanted(name, title, study, partial(plan.cells, preset), reproduce)
    _run(wanted, preset.data.values(), request)


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


@command.command()
@click.argument("directory", type=PATH)
def results(directory: Path) -> None:
    """Make the pages of published results (--publish) anew from the JSON beside them.

    \b
    Example:
      gems-edge reproduce results docs/results
    """
    from gems_edge.reproduce.published import write_pages

    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; name the one that --publish was given")
    for page in write_pages(directory):
        click.echo(page)


@dataclass(frozen=True)
class Wanted:
    """A reproduction that was asked for."""

    name: str  # of what is published
    title: str
    study: "Study[Any, Any]"  # with the trainings of all readings
    cells: "Callable[[Iterable[Trial[Any]]], list[Cell]]"
    reproduce: "Callable[[Study[Any, Any]], Reproduction]"

    def due(self, seeds: "Seeds", results: "Mapping[str, Document] | None" = None) -> "Study[Any, Any]":
        """The study cut to what is due with `seeds` of its rows, and what is done of that."""
        from gems_edge.reproduce.looks import asked

        parts = asked(self.study, seeds)
        cells = self.cells([trial for trials in parts.values() for trial in trials])
        return replace(self.study, parts=parts, cells=cells, results=results or {})


def _run(wanted: Wanted, specs: Iterable[str], request: Request) -> None:
    """Train the cells that are not done, reading by reading until the claims are decided, and write the page of what is
    done; also when some cells fail or the user stops."""
    from gems_edge.reproduce.grid import GridOptions, read_results, run_grid

    study, directory = wanted.study, wanted.study.directory
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose another directory with -o")
    if request.plan:
        return _say_plan(wanted, request)
    if request.report_only:
        reached = _reached(wanted, lambda cells: read_results(directory, cells))
        say(f"{len(reached.cells)} cells, {len(reached.results)} done")
        return _write(wanted, reached, request)
    first = wanted.due({})
    done = read_results(directory, first.cells) if (directory / "cells").is_dir() else {}
    if len(done) < len(first.cells) and not request.ray:
        _check_data(specs)
    directory.mkdir(parents=True, exist_ok=True)
    check_room(directory)
    if request.nice:
        os.nice(19)  # the cells' processes take it over
    hours = study.preset.hours if request.budget is None else request.budget
    options = GridOptions(request.jobs, request.processes, request.ray, hours=hours)
    try:
        reached = _reached(wanted, lambda cells: run_grid(directory, cells, options, say))
    except UserError:
        raise
    except BaseException:  # cells failed, or the user stops: what is done is worth its page
        if (directory / "cells").is_dir():
            reached = _reached(wanted, lambda cells: read_results(directory, cells))
            _write(wanted, reached, request)
        raise
    _write(wanted, reached, request)


def _reached(wanted: Wanted, results_of: "Callable[[Sequence[Cell]], Mapping[str, Document]]") -> "Study[Any, Any]":
    """The study as far as it goes: `results_of` gives results of cells that are due, and after each reading of the
    verdicts more are due, until nothing is open, no reading is left, or some of what is due is missing."""
    from gems_edge.reproduce.looks import more, progress_line

    preset = wanted.study.preset
    seeds: Seeds = {}
    while True:
        study = wanted.due(seeds)
        study = replace(study, results=results_of(study.cells))
        if study.missing or len(preset.readings) == 1:
            return study
        claims = wanted.reproduce(study).claims
        say(progress_line(claims))
        later = more(preset, claims, seeds)
        if later == seeds:
            return study
        seeds = later


def _say_plan(wanted: Wanted, request: Request) -> None:
    """What the claims need, from what is done, if anything is."""
    from gems_edge.reproduce.grid import read_results
    from gems_edge.reproduce.power import needs, needs_section

    study = wanted.due({})
    if (study.directory / "cells").is_dir():
        study = _reached(wanted, lambda cells: read_results(study.directory, cells))
    preset, claims = study.preset, wanted.reproduce(study).claims
    if request.as_json:
        cells = {"first": len(wanted.due({}).cells), "most": len(wanted.study.cells)}
        return emit({"preset": preset.name, "cells": cells, "needs": needs(preset, claims)})
    if section := needs_section(preset, claims):
        _echo(section)
    most = len(wanted.study.cells)
    click.echo(f"{len(wanted.due({}).cells)} cells up to the first reading of the verdicts, {most} at most")


def _check_data(specs: Iterable[str]) -> None:
    """UserError for images that are not there, before cells are written that would all fail."""
    for spec in dict.fromkeys(specs):
        kind, _, path = spec.partition(":")
        if kind in ("folder", "packed") and not Path(path).expanduser().exists():
            raise UserError(f"--data {spec}: {path or 'the path'} does not exist")
        if kind not in ("folder", "packed"):
            from gems_edge.data.sources import load_images

            load_images(spec)


def _write(wanted: Wanted, reached: "Study[Any, Any]", request: Request) -> None:
    from gems_edge import __version__
    from gems_edge.files import write_atomic
    from gems_edge.report.page import render_page
    from gems_edge.reproduce.published import publish

    reproduction, directory = wanted.reproduce(reached), wanted.study.directory
    page = directory / "report.html"
    write_atomic(page, render_page(wanted.title, reproduction.sections))
    document = reproduction.document | {"report": str(page)}
    write_atomic(directory / "results.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if request.publish:
        paper = "tickets" if wanted.name == "tickets" else "gems"
        made = {"command": f"gems-edge reproduce {paper} --preset {wanted.study.preset.name}", "version": __version__}
        publish(request.publish, wanted.name, {**reproduction.document, **made, "title": wanted.title})
    if request.as_json:
        emit(document)
        return
    for section in reproduction.printed:
        _echo(section)
    click.echo(f"{page}")


def _echo(section: "Section") -> None:
    """A section's tables on the terminal."""
    from gems_edge.report.page import Table

    for block in section.blocks:
        if isinstance(block, Table):
            rows = [[str(cell) for cell in row] for row in block.rows]
            click.echo(f"{section.title}\n{table(rows, list(block.header))}\n")
