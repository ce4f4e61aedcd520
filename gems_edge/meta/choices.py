"""What an update rule decided, summed over tasks: the masks, rates and kept shares of logs and reports."""

from typing import Any

import torch
from torch import Tensor

from gems_edge.meta.inner import Trajectory


class Choices:
    """Means by decision, step and layer over the tasks that were added."""

    def __init__(self, decisions: dict[str, int], steps: int, device: torch.device | str = "cpu"):
        self.count = torch.zeros((), device=device)
        self.sums = {name: torch.zeros(steps, size, device=device) for name, size in decisions.items()}

    def add(self, trajectory: Trajectory) -> None:
        if not trajectory.steps:
            return
        self.count += 1
        for name, total in self.sums.items():
            total += torch.stack([step.choice[name] for step in trajectory.steps])

    def tensors(self) -> list[Tensor]:
        """What processes sum to know each other's tasks."""
        return [self.count, *self.sums.values()]

    def means(self) -> dict[str, Any]:
        """Decision → [steps][layers]; empty without tasks or decisions."""
        if not float(self.count):
            return {}
        return {
            name: [[round(value, 5) for value in row] for row in (total / self.count).tolist()]
            for name, total in self.sums.items()
        }
