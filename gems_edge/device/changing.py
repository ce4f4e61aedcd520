"""A change of a state that several processes teach at once."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gems_edge.device.learner import Learner
from gems_edge.device.state import Overtaken, State

TRIES = 5
T = TypeVar("T")


def saved_change(
    learner: Learner, path: Path | str, change: Callable[[Learner], T], overtaken: Callable[[], object] | None = None
) -> tuple[T, State]:
    """What `change` gave, which is called with `learner`, and what was then saved to `path`.

    Where another process taught that state meanwhile, the change is made once more on what that taught, up to TRIES
    times; `overtaken` is called before. Raises as the change and Learner.save.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return change(learner), learner.save(path)
        except Overtaken:
            if attempt == TRIES:
                raise
            if overtaken:
                overtaken()
            learner.load_state(path)
    raise AssertionError
