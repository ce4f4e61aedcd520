"""Calls timed against each other in one process, in turn, so that the machine's other work meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Of the wall, and of this process: its own work alone, which says more on a machine that others use, with one thread
# (more threads also wait for each other in it).
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# What waits for work spins for a while after the last: onnxruntime's threads for 60 ms, those of torch for 10 (measured
# as processor time of a sleeping process). Meanwhile they take a core from whoever is measured next.
SETTLE_SECONDS = 0.1


def milliseconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    call()
    return 1e3 * (clock() - started)


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    block_seconds: float,
    most_seconds: float = 1e9,
    clock: str = "wall",
) -> dict[str, list[float]]:
    """Name → the median milliseconds of its block of calls in each round.

    A round times a block of every call, of about `block_seconds` and at least one call, in an order that turns from
    round to round, after a pause in which the threads of the one before come to rest. There are `rounds` of them, or as
    many as `most_seconds` allow, at least 3.
    """
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, round(1e3 * block_seconds / min(milliseconds(call, CLOCKS[clock]) for _ in range(2))))
    names, found = list(calls), {name: [] for name in calls}
    deadline = time.perf_counter() + most_seconds
    for number in range(rounds):
        if number >= 3 and time.perf_counter() > deadline:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(SETTLE_SECONDS)
            calls[name]()  # caches and threads warm again
            found[name].append(statistics.median(milliseconds(calls[name], CLOCKS[clock]) for _ in range(counts[name])))
    return found


def times_faster(slower: Sequence[float], faster: Sequence[float]) -> dict[str, Any]:
    """How many times as fast the second is as the first: median, 10th and 90th percentile of the rounds' ratios."""
    ratios = sorted(one / other for one, other in zip(slower, faster, strict=True))
    last = len(ratios) - 1
    low, high = (ratios[round(q * last)] for q in (0.1, 0.9))
    return {"median": round(statistics.median(ratios), 3), "p10_p90": [round(low, 3), round(high, 3)]}
