"""Progress of long work on stderr: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from gems_edge.clock import clock
from gems_edge.progress import Count, Progress
from gems_edge.wording import accuracy_text

# Seconds between plain lines, and between looks at a live one.
PLAIN_EVERY, LIVE_EVERY = 10.0, 0.2


@dataclass
class _TrainingLine:
    """What is known of a training, in one line that follows its records."""

    label: str
    loss: str = ""
    mask: str = ""
    validation: str = ""

    def updated(self, record: dict[str, Any]) -> str:
        if record["kind"] == "before":
            return f"{record['phase']} {record['iteration']}/{record['iterations']}"
        if record["kind"] == "watch":
            seen = f"overlap {record['overlap']:.3f}" if "overlap" in record else "first look"
            self.mask = f"  first layer's mask: {seen} (stops above {record['delta']:g})"
        elif record["kind"] == "validation":
            self.validation = f"  validation {accuracy_text(record)}"
        elif record["kind"] == "general":
            share = f"{100 * record['share']:.0f} %"
            self.validation = f"  keeps {share} of what training changed (--keep-general)"
        else:
            left = (record["iterations"] - record["iteration"]) / max(record["rate"], 1e-9)
            self.loss = (
                f"loss {record['loss']:.3f}  accuracy {100 * record['accuracy']:.1f} %  "
                f"{record['rate']:.1f} iterations/s  left {clock(left)}"
            )
        mask = self.mask if "phase" in record else ""
        phase = record.get("phase", self.label)
        return f"{phase} {record['iteration']}/{record['iterations']}  {self.loss}{mask}{self.validation}"


@contextmanager
def training_progress(label: str = "train") -> Iterator[Progress]:
    """A callback for `train`: rate, loss, accuracy, best validation, time left."""
    line = _TrainingLine(label)
    if not sys.stderr.isatty():
        yield _plain_lines(line)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = bars.BarColumn(30), bars.TextColumn("{task.description}")
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label)
        yield lambda record: bar.update(
            task, description=line.updated(record), completed=record["iteration"], total=record["iterations"]
        )


def _plain_lines(line: _TrainingLine) -> Progress:
    last = 0.0

    def show(record: dict[str, Any]) -> None:
        nonlocal last
        text, now = line.updated(record), time.monotonic()
        if (
            record["kind"] not in ("train", "before")
            or now - last >= PLAIN_EVERY
            or record["iteration"] == record["iterations"]
        ):
            last = now
            click.echo(text, err=True)

    return show


@contextmanager
def counting_progress(label: str, total: int) -> Iterator[Count]:
    """A callback that takes the number done."""
    last = time.monotonic()
    live = sys.stderr.isatty()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= (LIVE_EVERY if live else PLAIN_EVERY):
            last = now
            click.echo(("\r" if live else "") + f"{label} {done}/{total}", err=True, nl=not live)

    yield show
    if live:
        click.echo("\r\033[K", err=True, nl=False)
