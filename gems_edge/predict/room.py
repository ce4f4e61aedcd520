"""Whether the memory that a command is predicted to take is there: told before it is taken, where the system would
kill."""

import warnings
from collections.abc import Mapping
from typing import Any

from gems_edge.errors import UserError
from gems_edge.predict.memory import FILES_MB, predict_memory
from gems_edge.process_memory import file_rss_mb, limit_mb, machine_mb, rss_mb, swap_mb
from gems_edge.wording import count_text

_FREE = "close other programs or raise the limit, or "
_ADVICE = {
    "adapt": f"{_FREE}export a bundle with --memory low or a higher --ratio",
    "predict": f"{_FREE}export a bundle with a higher --ratio",
}


# Below which nothing is taught.
LEAST_IMAGES = 2


def check_least_room(manifest_cost: Mapping[str, Any]) -> None:
    """As check_room of the smallest adaptation that there is, without a warning: before a bundle's weights are read,
    and how much it is to learn is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_room(manifest_cost, LEAST_IMAGES, "adapt")


def check_bench_room(manifest_cost: Mapping[str, Any]) -> None:
    """As check_room of what a bundle is measured and evaluated with: a prediction, and the adaptation that it was
    planned for."""
    check_room(manifest_cost, 1, "predict")
    check_room(manifest_cost, manifest_cost["adapt_step"]["dims"]["images"], "adapt")


def check_room(manifest_cost: Mapping[str, Any], images: int, what: str) -> None:
    """UserError if a process that does `what` ("adapt" or "predict", arguments as predict_memory) has no room in what
    this machine and its control groups still give; a warning (UserWarning) if only the upper end of what is predicted
    has none, or if it takes swap space.

    Pages of libraries count for nothing: the system drops them. Where it does not say what is free, nothing is said.
    """
    predicted, limit = predict_memory(manifest_cost, images, what), limit_mb()
    free = [room for room in (machine_mb(), limit) if room is not None]
    if not free:
        return
    held = max(0.0, (rss_mb() or 0.0) - (file_rss_mb() or 0.0))  # by this process already
    room, swap = min(free) + held, swap_mb()
    needed, most = (max(0.0, peak - FILES_MB) for peak in (predicted.value, predicted.high))
    if most <= room:
        return
    where = "its control group leaves" if min(free) == limit else "this machine has"
    text = (
        f"{what} with {count_text(images, 'image')} is predicted to take {needed:.0f} MB of memory, at most "
        f"{most:.0f}, and {where} {room:.0f} MB" + (f" and {swap:.0f} MB of swap" if swap else "")
    )
    advice = ("give fewer images, " if what == "adapt" and images > LEAST_IMAGES else "") + _ADVICE[what]
    if needed > room + swap:
        raise UserError(f"{text}; {advice}")
    warnings.warn(f"{text}: it may be slow, or be killed; {advice}", stacklevel=2)
