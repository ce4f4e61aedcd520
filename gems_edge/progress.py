"""How long work tells the person who waits what it is doing: the types of the callbacks, and what wraps them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

# Called with a line of text.
Say = Callable[[str], None]
# Called with how many are done, of a number that the caller knows.
Count = Callable[[int], None]
# Called by a training with a record per logged iteration or validation: as in metrics.jsonl, plus "iterations" in all.
Progress = Callable[[dict[str, Any]], None]

# Called with what is done and how many times; a display is open while that runs.
Phase = Callable[[str, int], AbstractContextManager[Count | None]]


def no_display(label: str, total: int) -> AbstractContextManager[None]:
    """A `Phase` that shows nothing."""
    return nullcontext()


def silent(line: str) -> None:
    """A `Say` that says nothing."""


def phase_of(progress: Progress | None) -> Phase:
    """Work in front of a training, told of as the training is: records with what is done and of how many."""
    if progress is None:
        return no_display

    @contextmanager
    def phase(label: str, total: int) -> Iterator[Count]:
        yield lambda done: progress({"kind": "before", "phase": label, "iteration": done, "iterations": total})

    return phase


def in_phase(progress: Progress | None, phase: str) -> Progress | None:
    """`progress` with the name of one of several trainings in every record."""
    if progress is None:
        return None
    return lambda record: progress({"phase": phase} | record)


def counted_from(progress: Count | None, start: int) -> Count | None:
    """`progress` for one of several parts, of which `start` were done before it."""
    if progress is None:
        return None
    return lambda done: progress(start + done)
