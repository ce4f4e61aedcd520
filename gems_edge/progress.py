"""How long work tells the person who waits what it is doing: the types of the callbacks, and what wraps them."""

from collections.abc import Callable
from typing import Any

# Called with a line of text.
Say = Callable[[str], None]
# Called with how many are done, of a number that the caller knows.
Count = Callable[[int], None]
# Called by a training with a record per logged iteration or validation: as in metrics.jsonl, plus "iterations" in all.
Progress = Callable[[dict[str, Any]], None]


def silent(line: str) -> None:
    """A `Say` that says nothing."""


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
