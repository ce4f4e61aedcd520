"""A grid of experiment cells (method × ratio × seed of a paper's tables), each a process of its own; stops and goes on.

DIR/cells/NAME/cell.json says what a cell is, result.json beside it that it is done, log.txt what its program printed.
"""

import contextlib
import graphlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from gems_edge.clock import clock
from gems_edge.control_groups import available_cores
from gems_edge.errors import MachineError, UserError
from gems_edge.files import opened_to_append, read_json, write_atomic
from gems_edge.reproduce.job import (
    RESULT,
    CellJob,
    Document,
    Outcome,
    cell_result,
    in_use,
    one_thread,
    own_sigterm,
    run_cell,
    try_lock,
)


@dataclass(frozen=True)
class Cell:
    name: str  # "omniglot/mwt-0.8-s1"; its directory is DIR/cells/NAME
    task: dict[str, Any]  # what its cell.json says, for its program to read
    needs: tuple[str, ...] = ()  # names of the cells that must be done before


@dataclass(frozen=True)
class GridOptions:
    jobs: int | None = None  # cells at a time; None: one per CUDA GPU, else one per core (divided by `processes`)
    processes: int = 1  # more than 1: each cell is a torchrun job of that many processes
    ray: str | None = None  # a Ray cluster: "auto", "local" (started for this call), "ray://HOST:PORT", "HOST:PORT"
    program: tuple[str, ...] = ("-m", "gems_edge.cli.cell")  # Python's arguments before the cell's directory
    hours: float = 0.0  # core hours that the cells may take, those done before included; 0: what they need


class Executor(Protocol):
    """Where jobs run. `close` ends those that still run and returns when they are gone."""

    def slots(self) -> int: ...  # how many jobs may run at a time
    def submit(self, job: CellJob) -> None: ...
    def wait(self) -> tuple[str, Outcome]: ...  # the next job to end
    def close(self) -> None: ...


def run_grid(
    directory: Path, cells: Sequence[Cell], options: GridOptions, report: Callable[[str], None]
) -> dict[str, Document]:
    """Run the cells that are not done; returns name → the document of its result.json, in the order of `cells`.

    When `options.hours` are spent, no more cells are started: those are missing from what is returned.

    A cell is done when its result.json is there, and whole. Cells start in the given order as soon as their needs are
    done. When one fails, those that need it are not started and all others go on. With `options.ray` the directory must
    be reachable under the same path from every machine of the cluster.

    Raises UserError (the directory holds other settings, is in use by another grid, or Ray is not to be had),
    MachineError at the end when cells failed, KeyboardInterrupt on Ctrl-C and SIGTERM when all children are gone;
    what is done stays done, and the same call goes on from there.
    """
    _check_names(cells)
    directory = Path(directory).resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{directory} is a file; choose another directory") from None
    with _lock_of(directory):
        _write_tasks(directory, cells)
        results = _results(directory, cells)
        for name in [cell.name for cell in cells if cell.name not in results]:
            if (directory / "cells" / name / RESULT).exists():
                report(f"{name}: its {RESULT} is damaged or was edited; it is made anew from the run")
        if len(results) < len(cells):
            with own_sigterm(_interrupt), contextlib.closing(_make_executor(options)) as executor:
                _schedule(directory, cells, options, executor, results, report)
        else:
            report(f"{len(cells)} cells, all done")
    return {cell.name: results[cell.name] for cell in cells if cell.name in results}


def _schedule(
    directory: Path, cells: Sequence[Cell], options: GridOptions, executor: Executor, results: dict[str, Document],
    report: Callable[[str], None],
) -> None:  # fmt: skip
    """Run every cell that can be run and add what comes out to `results`; MachineError at the end when some failed."""
    report(f"{len(cells)} cells, {len(results)} done, {executor.slots()} at a time")
    waiting = [cell for cell in cells if cell.name not in results]
    failed: dict[str, str] = {}
    lost: set[str] = set()  # failed, or need one that is
    running: set[str] = set()
    seconds: list[float] = []
    while True:
        for cell in list(waiting):
            if not lost.isdisjoint(cell.needs):
                lost.add(cell.name)
            if spent(options.hours, results.values()):
                continue
            if len(running) < executor.slots() and all(name in results for name in cell.needs):
                waiting.remove(cell)
                running.add(cell.name)
                if in_use(directory / "cells" / cell.name):
                    report(f"{cell.name}: a process of an earlier call is still at work in it; waiting for its end")
                path = str(directory / "cells" / cell.name)
                executor.submit(CellJob(cell.name, path, options.processes, options.program))
        if not running:
            break
        name, outcome = executor.wait()
        running.remove(name)
        if outcome.result is None:
            failed[name] = outcome.reason
            lost.add(name)
            text = f"failed: {outcome.reason}"
        else:
            results[name] = outcome.result
            seconds.append(outcome.seconds)
            text = f"done in {outcome.seconds:.0f} s"
        left = len(running) + sum(cell.name not in lost and lost.isdisjoint(cell.needs) for cell in waiting)
        if left and seconds:
            slots = max(1, min(executor.slots(), left))
            text += f", about {clock(sum(seconds) / len(seconds) * left / slots)} left"
        report(f"[{len(results) + len(failed)}/{len(cells)}] {name} {text}")
    if waiting and spent(options.hours, results.values()):
        report(f"the budget of {options.hours:g} core hours is spent: {len(waiting)} cells were not started")
    if failed:
        raise MachineError(_failure(directory, failed, len(waiting), len(cells)))


def core_hours(results: Iterable[Document]) -> float:
    """What cells took on their cores, as far as they say so."""
    return float(sum(result.get("core_seconds", 0.0) for result in results)) / 3600


def spent(hours: float, results: Iterable[Document]) -> bool:
    return bool(hours) and core_hours(results) >= hours


def _failure(directory: Path, failed: dict[str, str], unstarted: int, total: int) -> str:
    names = list(failed)
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    behind = f", {unstarted} not started because they need them" if unstarted else ""
    return (
        f"{len(failed)} of {total} cells failed ({shown}){behind}; {names[0]}: {failed[names[0]]} "
        f"(see {directory / 'cells' / names[0] / 'log.txt'}); run the same command again to go on"
    )


# --- The cells of this machine ---


class LocalExecutor:
    """A thread per running cell, each waiting for a process."""

    def __init__(self, jobs: int | None, processes: int):
        gpus = _visible_gpus()
        if gpus and processes > len(gpus):
            raise UserError(f"{processes} processes a cell, but there are {len(gpus)} GPUs here; lower the processes")
        capacity = len(gpus) if gpus else available_cores()
        self._jobs = jobs or max(1, capacity // processes)
        if gpus:
            shares = [[gpus[(job * processes + n) % len(gpus)] for n in range(processes)] for job in range(self._jobs)]
            self._free = [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in reversed(shares)]
        else:
            self._free = [one_thread()] * self._jobs
        self._stop = threading.Event()
        self._pool = futures.ThreadPoolExecutor(self._jobs)
        self._running: dict[futures.Future[Outcome], tuple[str, dict[str, str]]] = {}

    def slots(self) -> int:
        return self._jobs

    def submit(self, job: CellJob) -> None:
        environment = self._free.pop()
        job = replace(job, environment=environment)
        self._running[self._pool.submit(run_cell, job, self._stop.is_set)] = job.name, environment

    def wait(self) -> tuple[str, Outcome]:
        ended = next(iter(futures.wait(self._running, return_when=futures.FIRST_COMPLETED).done))
        name, environment = self._running.pop(ended)
        self._free.append(environment)
        return name, ended.result()

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would call each GPU of this process; CUDA is not initialised."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]


def _make_executor(options: GridOptions) -> Executor:
    if options.ray is None:
        return LocalExecutor(options.jobs, options.processes)
    from gems_edge.reproduce.ray_grid import RayExecutor

    return RayExecutor(options.ray, options.jobs, options.processes)


# --- The grid's directory ---


def _check_names(cells: Sequence[Cell]) -> None:
    """ValueError for what is no grid: a name twice or outside the directory, a need that is missing or circular."""
    names = {cell.name for cell in cells}
    if len(names) < len(cells):
        raise ValueError("two cells have the same name")
    for cell in cells:
        if Path(cell.name).is_absolute() or not set(Path(cell.name).parts).isdisjoint({".."}) or not cell.name:
            raise ValueError(f"{cell.name!r} is no name of a cell")
        if missing := set(cell.needs) - names:
            raise ValueError(f"{cell.name} needs {', '.join(sorted(missing))}, which is not in the grid")
    graphlib.TopologicalSorter({cell.name: cell.needs for cell in cells}).prepare()


def read_results(directory: Path, cells: Sequence[Cell]) -> dict[str, Document]:
    """Cell → its result, of the cells that are done.

    UserError if the directory holds a cell of the same name with other settings, or no grid at all.
    """
    if not (directory / "cells").is_dir():
        raise UserError(f"{directory} holds no reproduction (no directory cells); leave out --report-only to train one")
    return _results(directory, [cell for cell in cells if _is_there(directory, cell)])


def _results(directory: Path, cells: Sequence[Cell]) -> dict[str, Document]:
    results = {cell.name: cell_result(directory / "cells" / cell.name) for cell in cells}
    return {name: result for name, result in results.items() if result is not None}


def _write_tasks(directory: Path, cells: Sequence[Cell]) -> None:
    """Write every cell.json that is not there; UserError, before anything is written, if one says something else."""
    for cell in [cell for cell in cells if not _is_there(directory, cell)]:
        path = directory / "cells" / cell.name / "cell.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(cell.task, indent=1) + "\n")


def _is_there(directory: Path, cell: Cell) -> bool:
    """Whether the directory has the cell; UserError if it has one of the same name that is to do something else."""
    path = directory / "cells" / cell.name / "cell.json"
    if not path.exists():
        return False
    if difference := _difference(read_json(path, cell.name), json.loads(json.dumps(cell.task))):
        raise UserError(
            f"{directory} holds another grid: {difference} in {cell.name}; choose another directory, or the preset and "
            "options that it was started with"
        )
    return True


def _difference(stored: Any, wanted: Any, key: str = "") -> str | None:
    """The first key whose values differ, with both: "training.iterations is 100 there and 200 here"."""
    if stored == wanted:
        return None
    if not (isinstance(stored, dict) and isinstance(wanted, dict)):
        there, here = (text if len(text) <= 60 else text[:59] + "…" for text in map(json.dumps, (stored, wanted)))
        return f"{key or 'the task'} is {there} there and {here} here"
    name = next(n for n in {**wanted, **stored} if not (n in stored and n in wanted and stored[n] == wanted[n]))
    inner = f"{key}.{name}" if key else name
    if name not in stored or name not in wanted:
        return f"{inner} is given only {'here' if name in wanted else 'there'}"
    return _difference(stored[name], wanted[name], inner)


@contextlib.contextmanager
def _lock_of(directory: Path) -> Iterator[None]:
    with opened_to_append(directory / "lock") as file:
        if not try_lock(file):
            raise UserError(f"another grid is at work in {directory}; wait for its end or choose another directory")
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM stops the grid as Ctrl-C does."""
    raise KeyboardInterrupt
