"""What the commands share: options that several have, --json, lines for people, tables."""

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from gems_edge.data import limits
from gems_edge.wording import printable

# What click's decorators take and return: a function that becomes a command.
Command = TypeVar("Command", bound=Callable[..., Any])
Document = dict[str, Any]  # of --json
PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


class FiniteRange(click.FloatRange):
    """As click's, which takes "nan" for a number within any range, and infinity where there is no upper end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout and nothing else there."
)
keep_option = click.option(
    "--keep", type=click.IntRange(1, limits.PER_CLASS), default=50, show_default=True,
    help="The most photos of a class: more are thinned to those that represent it best.",
)  # fmt: skip
threads_option = click.option(
    "--threads", type=click.IntRange(1, limits.THREADS), help="Threads; one per core if left out."
)
data_root_option = click.option(
    "--data-root", "root", type=PATH,
    help="Where torchvision's data sets are (or are downloaded to), and NAME.npz for a bare NAME.",
)  # fmt: skip


def compute_option(help: str) -> Callable[[Command], Command]:
    """--compute: where torch runs, in every command that runs it."""
    choices = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--compute", type=choices, default="auto", show_default=True, help=help)


def trust_options(command: Command) -> Command:
    """As `trust_flags`, for commands that open a bundle; without a trust file they say at their end `say_unchecked`."""

    @functools.wraps(command)
    def told(*arguments: Any, **options: Any) -> None:
        command(*arguments, **options)
        say_unchecked()

    return trust_flags(told)  # type: ignore[return-value]  # a command like the one that it wraps


def say_unchecked() -> None:
    """Without a trust file: that anybody's bundle was opened."""
    from gems_edge.device.trust import TRUST_VARIABLE

    if not os.environ.get(TRUST_VARIABLE):
        say("no trust file, so who made the bundle is not checked (--trust FILE)")


def trust_flags(command: Command) -> Command:
    """--trust and --allow-older: this process, and those that it starts, open bundles as if the environment said so."""
    trust = click.option(
        "--trust", type=PATH, metavar="FILE", envvar="GEMS_EDGE_TRUST", show_envvar=True, expose_value=False,
        callback=_use_trust, help="Open only what a key in this file signed (OpenSSH's allowed_signers).",
    )  # fmt: skip
    older = click.option(
        "--allow-older", is_flag=True, expose_value=False, callback=_allow_older,
        help="With a trust file: open a release below the highest that was opened here.",
    )  # fmt: skip
    return trust(older(command))


def _use_trust(context: click.Context, option: click.Parameter, file: Path | None) -> None:
    from gems_edge.device.trust import TRUST_VARIABLE

    if file is not None:
        context.with_resource(_environment(TRUST_VARIABLE, str(file)))


def _allow_older(context: click.Context, option: click.Parameter, allowed: bool) -> None:
    from gems_edge.device.trust import ALLOW_OLDER_VARIABLE

    if allowed:
        context.with_resource(_environment(ALLOW_OLDER_VARIABLE, "1"))


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def refuse_device(command: Command) -> Command:
    """For commands that know no boards: --device is refused with the option that is meant."""
    return click.option("--device", hidden=True, expose_value=False, callback=_refuse_device)(command)


def _refuse_device(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.NoSuchOption("--device", "--device names a board; --compute says where torch runs", ctx=context)


def emit(document: Any) -> None:
    """The one JSON document of a --json call; where it names a file that is not UTF-8, in ASCII."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    click.echo(text)


def show_lines(text: str) -> None:
    """A result for people, on stdout; names in it do nothing to a terminal."""
    click.echo(_for_terminal(text))


def _for_terminal(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def say(message: str) -> None:
    """A line for the person at the terminal: stderr, so that stdout stays the result."""
    click.echo(_for_terminal(message), err=True)


def table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> str:
    """Left-aligned plain-text columns."""
    cells = [list(header), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
