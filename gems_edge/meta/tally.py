"""What the tasks between two log lines gave."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gems_edge.meta.choices import Choices
from gems_edge.meta.inner import Trajectory
from gems_edge.models.fewshot import Weights, layers_of


class MetaTask(NamedTuple):
    """One task's part in an outer step."""

    loss: Tensor  # of the queries after the inner loop, differentiable in the meta-parameters
    accuracy: Tensor
    trajectory: Trajectory


class Tally:
    """Loss, accuracy and the rule's choices of the tasks since the last log line, by distribution."""

    def __init__(self, names: Sequence[str], decisions: dict[str, int], steps: int, device: torch.device):
        self.names = names
        self.sums = torch.zeros(len(names), 3, device=device)  # tasks, loss, accuracy
        self.choices = [Choices(decisions, steps, device) for _ in names]

    def add(self, source: int, task: MetaTask) -> None:
        self.sums[source] += torch.stack([torch.ones_like(task.loss), task.loss.detach(), task.accuracy])
        if self.choices[source].sums:
            self.choices[source].add(task.trajectory)

    def tensors(self) -> list[Tensor]:
        return [self.sums, *(tensor for choices in self.choices for tensor in choices.tensors())]

    def means(self) -> tuple[float, float]:
        tasks, loss, accuracy = self.sums.sum(0).tolist()
        return loss / tasks, accuracy / tasks

    def details(self, weights: Weights) -> dict[str, Any]:
        rows = {name: row for name, row in zip(self.names, self.sums.tolist()) if row[0]}
        values = {
            name: {"loss": loss / tasks, "accuracy": accuracy / tasks} for name, (tasks, loss, accuracy) in rows.items()
        }
        chosen = {name: means for name, choices in zip(self.names, self.choices) if (means := choices.means())}
        return details(values, chosen, weights)


def details(values: dict[str, Any], chosen: dict[str, Any], weights: Weights) -> dict[str, Any]:
    """What a log line says of each distribution (of several), and of the rule's choices (where it has any)."""
    parts: dict[str, Any] = {"distributions": values} if len(values) > 1 else {}
    return parts | ({"layers": list(layers_of(weights)), "choices": chosen} if chosen else {})
