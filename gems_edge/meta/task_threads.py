"""Tasks of a meta-batch side by side on the cores of a CPU, a thread each.

The operations of one task are too small to share out well: two cores that work on an operation together wait for each
other at the end of it, and for whatever else runs on the machine. Two that work on a task each do not.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from gems_edge.models.fewshot import FewShotModel
from gems_edge.process_memory import available_mb, peak_rss_mb, rss_mb

T = TypeVar("T")
R = TypeVar("R")


class TaskThreads:
    """Runs work(model, item) for independent items, results in the items' order.

    On a CPU as many run at a time as torch has threads (OMP_NUM_THREADS), or as there are `tasks` at most; they share
    those threads. How many is limited by memory, too, once the first has shown what it needs. On a GPU they run one by
    one.
    """

    def __init__(self, model: FewShotModel, tasks: int):
        on_cpu = next(model.parameters()).device.type == "cpu"
        self._threads = torch.get_num_threads() if on_cpu else 1
        self.side_by_side = max(1, min(tasks, self._threads))
        self.model, self._own = model, threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._turn, self._measured = threading.Semaphore(1), False

    def map(self, work: Callable[[FewShotModel, T], R], items: Iterable[T]) -> Iterator[R]:
        if self.side_by_side == 1:
            yield from (work(self.model, item) for item in items)
            return
        self._pool = self._pool or self._start()
        waiting: list[Future[R]] = []
        try:
            for item in items:
                if len(waiting) > self.side_by_side:  # one more than run, so that none waits for its item
                    yield waiting.pop(0).result()
                waiting.append(self._pool.submit(self._run, work, item))
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()

    def _start(self) -> ThreadPoolExecutor:
        ready = threading.Barrier(self.side_by_side + 1)
        pool = ThreadPoolExecutor(self.side_by_side, "task", self._prepare, (ready,))
        for _ in range(self.side_by_side):
            pool.submit(int)
        ready.wait()
        torch.set_num_threads(self._threads)  # what one thread sets is, in part, everyone's
        return pool

    def _prepare(self, ready: threading.Barrier) -> None:
        torch.set_num_threads(self._threads // self.side_by_side)
        # functional_call puts weights into the module for the time of a call: a module each, around the same tensors.
        shared = [*self.model.parameters(), *self.model.masks.values()]
        self._own.model = copy.deepcopy(self.model, {id(tensor): tensor for tensor in shared})
        ready.wait()

    def _run(self, work: Callable[[FewShotModel, T], R], item: T) -> R:
        with self._turn:
            if self._measured:
                return work(self._own.model, item)
            before = rss_mb()  # of the first task, which runs alone
            result = work(self._own.model, item)
            self._measured = True
            for _ in range(_more_at_a_time(self.side_by_side, before)):
                self._turn.release()
            return result


def _more_at_a_time(most: int, before: float | None) -> int:
    """How many tasks like one that just ended have room beside it, `most` in all; `before`: the process's MB then."""
    peak, available = peak_rss_mb(), available_mb()
    if before is None or peak is None or available is None:
        return most - 1
    needed = max(peak - before, 1.0)
    return max(0, min(most - 1, int(0.8 * available / needed)))
