"""gems-edge reproduce: train a paper's tables and figures, and write them beside what the paper says."""

from pathlib import Path

import click

from gems_edge.cli.common import emit, json_option, say, table
from gems_edge.errors import UserError

# In presets.PRESETS and tickets.plan, which --help does without.
PRESETS = ("small", "paper", "tiny")


@click.group()
def command():
    """Train what a paper reports, and compare."""


@command.command()
@click.option(
    "--preset", "name", type=click.Choice(PRESETS), default="small", show_default=True, help="How much of it."
)
@click.option("--table", "numbers", type=int, multiple=True, help="Table 2 (cost, Conv-4) or 3 (cost, ResNet-12).")
@click.option("--figure", "figures", type=int, multiple=True, help="Figure 1 to 15; more than once for several.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory.  [default: reproduce-PRESET]")
@click.option(
    "--data", "data", multiple=True, metavar="NAME=SPEC", help="Images of the preset's data NAME, as --data of train."
)
@click.option("--jobs", type=click.IntRange(1), help="Trainings at a time.  [default: one per GPU, else per core]")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes of each (torchrun).")
@click.option("--ray", metavar="ADDRESS", help="Train on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local.")
@click.option("--seeds", type=click.IntRange(1), help="Trainings of each entry.  [default: the preset's]")
@click.option("--ratio", "ratios", type=float, multiple=True, help="Share of weights removed.  [default: the preset's]")
@click.option("--method", "methods", multiple=True, help="Only this method (dense, mwt, pmt, …).")
@click.option("--report-only", is_flag=True, help="Train nothing; write what is done so far.")
@json_option
def tickets(
    name, numbers, figures, output, data, jobs, processes, ray, seeds, ratios, methods, report_only, as_json
):  # fmt: skip
    """Meta winning tickets (Gao et al., KDD 2022): accuracy and cost of MWT, PMT and their baselines.

    Without --table and --figure: accuracy and cost of all methods on the preset's Conv-4 setups. Every training is a
    directory below DIR/cells; the same command goes on where it was stopped. Leaves DIR/report.html and DIR/results.json.

    \b
    Examples:
      gems-edge reproduce tickets --preset tiny -o tiny
      gems-edge reproduce tickets --preset small --data tinyimagenet32=packed:tiny.npz
      gems-edge reproduce tickets --preset small --figure 7 --figure 9 --seeds 2
      gems-edge reproduce tickets --preset small --report-only --json
      gems-edge reproduce tickets --preset paper --table 2 --data mini=folder:miniimagenet --ray auto
    """
    from gems_edge.studies.grid import GridOptions, read_results, run_grid
    from gems_edge.tickets import plan, presets

    known = (*plan.METHODS, "omt", "pm")
    for method in methods:
        if method not in known:
            raise UserError(f"--method {method}: choose from {', '.join(known)}")
    preset = presets.cut(presets.with_data(presets.PRESETS[name], _given_data(data)), seeds, ratios)
    parts = plan.parts(preset, numbers, figures, methods)
    cells = plan.cells(preset, [want for wants in parts.values() for want in wants])
    directory = output or Path(f"reproduce-{name}")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose another directory with -o")
    if report_only:
        results = read_results(directory, cells)
        say(f"{len(cells)} cells, {len(results)} done")
        _write(preset, directory, parts, cells, results, as_json)
        return
    done = read_results(directory, cells) if (directory / "cells").is_dir() else {}
    if len(done) < len(cells) and not ray:
        _check_data(preset)
    try:
        results = run_grid(directory, cells, GridOptions(jobs, processes, ray), say)
    except UserError:
        raise
    except BaseException:  # cells failed, or the user stops: what is done is worth its page
        if (directory / "cells").is_dir():
            _write(preset, directory, parts, cells, read_results(directory, cells), as_json)
        raise
    _write(preset, directory, parts, cells, results, as_json)


def _given_data(given: tuple[str, ...]) -> dict[str, str]:
    data = {}
    for text in given:
        key, equals, spec = text.partition("=")
        if not (key and equals and spec):
            raise UserError(f"--data {text}: write NAME=SPEC, such as mini=folder:miniimagenet")
        data[key] = spec
    return data


def _check_data(preset) -> None:
    """UserError for images that are not there, before cells are written that would all fail."""
    for spec in dict.fromkeys(setup.config.data for setup in preset.setups):
        kind, _, path = spec.partition(":")
        if kind in ("folder", "packed") and not Path(path).expanduser().exists():
            raise UserError(f"--data {spec}: {path or 'the path'} does not exist")
        if kind not in ("folder", "packed"):
            from gems_edge.data.sources import load_images

            load_images(spec)


def _write(preset, directory: Path, parts, cells, results, as_json: bool) -> None:
    import json

    from gems_edge.files import write_atomic
    from gems_edge.report.page import Table, render_page
    from gems_edge.report.reproduction import Study, reproduce

    made = reproduce(Study(preset, directory, parts, cells, results))
    page = directory / "report.html"
    title = f"Meta winning tickets, preset {preset.name}"
    write_atomic(page, render_page(title, made.sections))
    document = made.document | {"report": str(page)}
    write_atomic(directory / "results.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        emit(document)
        return
    for section in made.printed:
        for block in section.blocks:
            if isinstance(block, Table):
                click.echo(f"{section.title}\n{table([list(row) for row in block.rows], list(block.header))}\n")
    click.echo(f"{page}")
