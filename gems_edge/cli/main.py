"""The entry point: commands are imported only when they are called, so that --help and the board stay fast."""

import atexit
import contextlib
import errno
import gc
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable

import click

from gems_edge import __version__
from gems_edge.cli.common import say
from gems_edge.errors import MachineError, Terminated, UserError
from gems_edge.files import cache_directory
from gems_edge.sigterm import Sigterm
from gems_edge.wording import printable

# name → the line in --help. Each command lives in gems_edge/cli/NAME.py as `command`.
COMMANDS = {
    "demo": "Train, prune, export, adapt, predict and measure on glyphs or your photos; leaves one HTML page.",
    "train": "Meta-train a few-shot model.",
    "ticket": "Find, show and compare tickets: which weights or channels a sparse network keeps.",
    "evaluate": "Accuracy of a run or a bundle on new episodes, with its interval.",
    "export": "Prune a run physically and write a bundle for the board.",
    "adapt": "Teach a bundle new classes from a folder of photos (board).",
    "teach": "Add, correct, rename, forget and undo what a state was taught (board).",
    "predict": "Classify images with a bundle and what it learned (board).",
    "serve": "Teach and ask over HTTP, beside a live picture (board).",
    "install": "Go over to a new bundle, with what was taught, if it is no worse (board).",
    "rollback": "Go back to the bundle that was in use before (board).",
    "verify": "What of a bundle, state, run or packed file is whole, and who signed a bundle (board).",
    "bench": "Measure a bundle here and predict its cost on boards.",
    "report": "Write one HTML page about runs and bundles.",
    "reproduce": "Train the tables and figures of a paper and compare.",
    "devices": "List, show and check device profiles.",
    "data": "List, pack and show image data.",
}

# Packages of small extras; any other is of the workstation's.
_OF_EXTRAS = {
    "serve": ("starlette", "uvicorn", "python_multipart", "segno", "anyio", "h11"),
    "mqtt": ("paho",),
}

# What is wrong with a path that a user gave, rather than with the machine.
_BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


class LazyGroup(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        try:
            command: click.Command = importlib.import_module(f"gems_edge.cli.{name}").command
            return command
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("gems_edge"):
                raise
            raise UserError(_missing(error)) from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gems-edge")
def group() -> None:
    """Few-shot learning on small boards.

    \b
    Example:
      gems-edge train --data glyphs -o runs/glyphs
      gems-edge export runs/glyphs --ratio 0.8 -o glyphs.gems
      gems-edge adapt glyphs.gems --support photos -o mine.state
      gems-edge predict glyphs.gems --state mine.state image.jpg
    """


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in _OF_EXTRAS.items() if package in packages), "train")
    part = "the workstation's part" if extra == "train" else "it"
    return f"this command needs the package {error.name!r}: install {part} with pip install 'gems-edge[{extra}]'"


def main() -> None:
    """The command line."""
    atexit.register(gc.freeze)  # the interpreter's end would look for cycles, which takes longer than an answer
    run_reporting(lambda: group(standalone_mode=False))


def run_reporting(program: Callable[[], None]) -> None:
    """Run a program; bad input ends with 2, a failing machine with 1, SIGTERM with 143, each with a line on stderr."""
    _prepare_streams()
    # Whoever imports matplotlib would otherwise write its font list elsewhere below $HOME.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_directory() / "matplotlib"))
    try:
        with Sigterm() as sigterm, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say("warning: " + " ".join(str(message).split()))
            try:
                program()
            except Exception:
                sigterm.heed()  # what came may have been taken for a failure, of an import that it cut short
                raise
        return
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        code, message = 2, error.format_message() + hint
    except UserError as error:
        code, message = 2, str(error)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gems_edge"):
            raise
        code, message = 2, _missing(error)
    except PermissionError as error:
        code, message = 2, f"no permission for {error.filename or error}; choose another place or change its rights"
    except (MachineError, OSError, MemoryError) as error:
        code, message = 1, _machine(error)
        if isinstance(error, OSError) and error.errno in _BAD_PATH:
            code, message = 2, f"{message}; choose another path"
    except (KeyboardInterrupt, click.Abort):
        code, message = 130, "stopped"
    except Terminated as error:
        code, message = 143, str(error)
    except RuntimeError as error:  # torch's allocators raise no MemoryError
        if os.environ.get("GEMS_EDGE_DEBUG") or not (
            "out of memory" in str(error) or "can't allocate memory" in str(error)
        ):
            return _unexpected(error)
        code, message = 1, "out of memory; lower --meta-batch, --queries or --image-size"
    except Exception as error:
        return _unexpected(error)
    _stop(code, message)


def _prepare_streams() -> None:
    """Standard streams that the caller closed (>&-) go nowhere, and no file that is opened later takes their numbers:
    libraries and children would write their lines into it. A name that a terminal cannot show ends nothing."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unexpected(error: Exception) -> None:
    if os.environ.get("GEMS_EDGE_DEBUG"):
        raise error
    _stop(1, f"unexpected {type(error).__name__}: {error}; set GEMS_EDGE_DEBUG=1 for the traceback")


# Letters of an error's line.
_LONGEST = 2000


def _stop(code: int, message: str) -> None:
    text = printable(" ".join(str(message).split()))
    if len(text) > _LONGEST:  # a value in a file may be of any length
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    with contextlib.suppress(OSError):  # where nobody can be told, the code still says it
        click.echo(f"gems-edge: {text}", err=True)
        sys.stdout.flush()
    sys.exit(code)


def _machine(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; try fewer images at a time"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
