"""The lines of metrics.jsonl, with the time that training has taken so far, and TensorBoard's curves."""

import time
from typing import TYPE_CHECKING, Any

from gems_edge.meta.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Logbook:
    """Of one process; what earlier ones of the same run spent counts."""

    def __init__(self, run: Run, iteration: int):
        """`iteration`: the one that training goes on from; curves behind it are dropped."""
        self.run, self.iteration = run, iteration
        self._board: SummaryWriter | None = None
        self._before, self._clock, self._cpu_clock = run.spent(), time.perf_counter(), time.process_time()

    def write(self, kind: str, iteration: int, values: dict[str, Any]) -> dict[str, Any]:
        """Append a line; returns it."""
        spent = {"seconds": time.perf_counter() - self._clock, "cpu_seconds": time.process_time() - self._cpu_clock}
        spent = {name: round(self._before.get(name, 0.0) + value, 3) for name, value in spent.items()}
        record = {"kind": kind, "iteration": iteration, **values, **spent, "time": round(time.time(), 3)}
        self.run.log(record)
        curves: dict[str, float] = {
            name: values[name] for name in ("loss", "accuracy", "lr", "overlap") if name in values
        }
        curves |= {f"accuracy of {name}": each["accuracy"] for name, each in values.get("distributions", {}).items()}
        for name, value in curves.items():
            self._tensorboard().add_scalar(f"{kind}/{name}", value, iteration)
        return record

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _tensorboard(self) -> "SummaryWriter":
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.run.directory / "tensorboard"), purge_step=self.iteration)
        return self._board
