"""The rule of a board that takes no steps: the rows that a prototype head makes of the photos are all it learns."""

from dataclasses import dataclass

from torch import Tensor

from gems_edge.meta.rules.base import Move, Rule, State
from gems_edge.models.fewshot import Weights


@dataclass(frozen=True)
class Still(Rule):
    """Moves nothing, whatever the run's own rule would."""

    name: str  # of the run's rule
    inner_lr: float

    def adapted(self, weights: Weights) -> tuple[str, ...]:
        return ()

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        return Move(weights)
