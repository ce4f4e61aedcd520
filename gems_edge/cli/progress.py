"""Progress of long work on stderr: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import contextmanager

import click

from gems_edge.clock import clock
from gems_edge.wording import accuracy_text

# Seconds between plain lines.
PLAIN_EVERY = 10.0


@contextmanager
def training_progress(label: str = "train"):
    """A callback for `train`: rate, loss, accuracy, best validation, time left."""
    state = {"last": 0.0, "best": "", "loss": "", "watch": ""}

    def line(record) -> str:
        if record["kind"] == "watch":
            seen = f"overlap {record['overlap']:.3f}" if "overlap" in record else "first look"
            state["watch"] = f"  first layer's mask: {seen} (stops above {record['delta']:g})"
        elif record["kind"] == "validation":
            state["best"] = f"  validation {accuracy_text(record)}"
        else:
            left = (record["iterations"] - record["iteration"]) / max(record["rate"], 1e-9)
            state["loss"] = (
                f"loss {record['loss']:.3f}  accuracy {100 * record['accuracy']:.1f} %  "
                f"{record['rate']:.1f} iterations/s  left {clock(left)}"
            )
        watch = state["watch"] if "phase" in record else ""
        what = record.get("phase", label)
        return f"{what} {record['iteration']}/{record['iterations']}  {state['loss']}{watch}{state['best']}"

    if not sys.stderr.isatty():

        def plain(record):
            text, now = line(record), time.monotonic()
            if (
                record["kind"] != "train"
                or now - state["last"] >= PLAIN_EVERY
                or record["iteration"] == record["iterations"]
            ):
                state["last"] = now
                click.echo(text, err=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(BarColumn(30), TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label)
        yield lambda record: bar.update(
            task, description=line(record), completed=record["iteration"], total=record["iterations"]
        )


@contextmanager
def counting_progress(label: str, total: int):
    """A callback that takes the number done."""
    state = {"last": time.monotonic()}
    terminal = sys.stderr.isatty()

    def show(done: int) -> None:
        now = time.monotonic()
        if now - state["last"] >= (0.2 if terminal else PLAIN_EVERY):
            state["last"] = now
            click.echo(
                f"\r{label} {done}/{total}" if terminal else f"{label} {done}/{total}", err=True, nl=not terminal
            )

    yield show
    if terminal:
        click.echo("\r\033[K", err=True, nl=False)
