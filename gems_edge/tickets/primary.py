"""PMT's stopping rule: watch the first layer's mask until it settles (KDD'22, Algorithm 2)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load, save

from gems_edge.errors import UserError
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.models.fewshot import Weights
from gems_edge.sealed import read_sealed, write_sealed
from gems_edge.tickets.analysis import overlap_of


class PrimaryWatch:
    """Masks of the first layer every γ iterations, the overlaps of successive ones, and whether they have settled.

    `mask_of(weights)` is the first layer's mask (bool, any shape). The masks are kept in `path`, as bits, so that a
    resumed search goes on with the same queue and the emergence of the primary mask can be drawn later.
    """

    def __init__(self, path: Path, config: TicketConfig, mask_of: Callable[[Weights], np.ndarray], writes: bool):
        self.path, self.config, self.mask_of, self.writes = path, config, mask_of, writes
        self.every = config.interval
        self.masks: list[tuple[int, np.ndarray]] = []

    @property
    def overlaps(self) -> list[tuple[int, float]]:
        """(iteration, overlap of its mask with the one before)."""
        return [
            (iteration, overlap_of(before, mask)) for (_, before), (iteration, mask) in zip(self.masks, self.masks[1:])
        ]

    @property
    def settled(self) -> bool:
        """max(Q) > δ over the last l overlaps (Algorithm 2), or min(Q) > δ of a full queue (as Early-Bird does)."""
        queue = [overlap for _, overlap in self.overlaps[-self.config.queue :]]
        if self.config.stable == "all":
            return len(queue) == self.config.queue and min(queue) > self.config.delta
        return bool(queue) and max(queue) > self.config.delta

    def resume(self, iteration: int) -> bool:
        stored = read_primary_masks(self.path) if self.path.exists() else []
        self.masks = [(looked, mask) for looked, mask in stored if looked <= iteration]
        return self.settled

    def look(self, iteration: int, weights: Weights) -> tuple[bool, dict[str, float]]:
        self.masks.append((iteration, self.mask_of(weights)))
        if self.writes:
            write_primary_masks(self.path, self.masks)
        figures = {"overlap": self.overlaps[-1][1]} if len(self.masks) > 1 else {}
        return self.settled, figures | {"delta": self.config.delta}


def write_primary_masks(path: Path, masks: list[tuple[int, np.ndarray]]) -> None:
    bits = {str(iteration): np.packbits(mask.reshape(-1)) for iteration, mask in masks}
    shape = np.array(masks[0][1].shape, np.int64)
    write_sealed(path, save(bits | {"shape": shape}))


def read_primary_masks(path: Path) -> list[tuple[int, np.ndarray]]:
    """(iteration, mask of the first layer) in order of iterations. UserError for a file that is damaged."""
    try:
        bits = load(read_sealed(path)[0])
        shape = bits.pop("shape")
        unpacked = {int(name): np.unpackbits(part, count=int(shape.prod())) for name, part in bits.items()}
        return [(iteration, unpacked[iteration].astype(bool).reshape(shape)) for iteration in sorted(unpacked)]
    except UserError as error:
        raise UserError(f"{error}; train the run anew in another directory") from None
    except (safetensors.SafetensorError, IsADirectoryError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no masks ({error}); train the run anew in another directory") from None
