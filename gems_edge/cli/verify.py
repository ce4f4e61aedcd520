"""gems-edge verify: what of a bundle, a state, a run or a packed file is whole, and who made a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import PATH, emit, json_option, table
from gems_edge.errors import UserError

if TYPE_CHECKING:
    from gems_edge.device.finding import Finding
    from gems_edge.device.trust import Trust


@click.command()
@click.argument("path", type=PATH)
@click.option(
    "--trust", type=PATH, metavar="FILE", envvar="GEMS_EDGE_TRUST", show_envvar=True,
    help="Of a bundle: a key in this file (OpenSSH's allowed_signers) must have signed it.",
)  # fmt: skip
@click.option("--allow-older", is_flag=True, help="With --trust: a release below the highest that was opened is fine.")
@click.option("--run", is_flag=True, help="Of a bundle that is whole: also let it answer its self-test here.")
@json_option
def command(path: Path, trust: Path | None, allow_older: bool, run: bool, as_json: bool) -> None:
    """Check a bundle, a state, a run or a packed file: what is whole, what is not, and what can be saved.

    Nothing is changed, and without --run nothing of it runs. Ends with 2 if something is not whole, or not to be
    trusted.

    \b
    Example:
      gems-edge verify plates.gems --trust makers
      gems-edge verify plates.gems --run
      gems-edge verify mine.state --json
      gems-edge verify runs/plates
    """
    from gems_edge.device.trust import Trust

    finding = _inspected(path, Trust(trust, allow_older), run)
    if as_json:
        emit(
            {
                "path": str(path),
                "kind": finding.kind,
                "whole": not finding.damaged,
                "parts": [
                    {"name": part.name, "whole": not part.problem, "problem": part.problem or None, "about": part.about}
                    for part in finding.parts
                ],
                "rescue": finding.rescue or None,
                **finding.about,
            }
        )
    else:
        rows = [
            (part.name, "not whole" if part.problem else "whole", part.problem or part.about) for part in finding.parts
        ]
        click.echo(table(rows, (finding.kind, "", "")))
    if finding.damaged:
        problem = finding.damaged[0].problem
        named = problem if str(path) in problem else f"{path}: {problem}"
        raise UserError("; ".join(filter(None, (named, finding.rescue))))


def _inspected(path: Path, trust: "Trust", run: bool) -> "Finding":
    from gems_edge.device.bundle_files import MANIFEST_FILE
    from gems_edge.device.inspect import inspect_bundle, inspect_state
    from gems_edge.device.state import SLOTS

    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if MANIFEST_FILE in names or path.suffix == ".gems" and names:
        return _tested(inspect_bundle(path, trust)) if run else inspect_bundle(path, trust)
    if run:
        raise UserError(f"{path} is no bundle, so it has no self-test; leave out --run")
    if names & {*SLOTS}:
        return inspect_state(path)
    if names & {"config.toml", "weights.safetensors", "last"}:
        from gems_edge.meta.inspect import inspect_run

        return inspect_run(path)
    if path.is_file():
        from gems_edge.data.inspect import inspect_packed

        return inspect_packed(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a bundle, a state, a run or a packed file")
    raise UserError(f"{path} is no bundle, no state, no run and no packed file; name what gems-edge wrote")


def _tested(finding: "Finding") -> "Finding":
    """With the self-test as one more part, where all else is whole."""
    from dataclasses import replace

    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.finding import Part
    from gems_edge.device.selftest import run_selftest
    from gems_edge.device.trust import ANYBODY

    if finding.damaged:
        return finding
    try:
        outcome = run_selftest(read_bundle(finding.path, ANYBODY))
        part = Part("self-test", about=outcome.text if outcome else "none: exported by an earlier gems-edge")
    except UserError as error:
        part = Part("self-test", str(error))
    return replace(finding, parts=(*finding.parts, part))
