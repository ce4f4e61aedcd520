"""MAML, ANIL and BOIL: gradient descent over the whole network or a part of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from gems_edge.device.bundle import HEAD
from gems_edge.meta.rules.base import Move, Rule, State
from gems_edge.meta.rules.registry import RULES
from gems_edge.models.fewshot import Weights

if TYPE_CHECKING:
    from gems_edge.meta.settings.run import TrainConfig


@dataclass(frozen=True)
class Descent(Rule):
    """Gradient descent on the support loss, θ ← θ − α∇L(θ; S), over the part of the network that the method adapts.

    maml: everything (Finn et al. 2017); anil: the head (Raghu et al. 2020); boil: the backbone (Oh et al. 2021).
    """

    name: str
    inner_lr: float
    head_lr: float = 0.0

    def adapted(self, weights: Weights) -> tuple[str, ...]:
        facts = RULES[self.name]
        return tuple(n for n in super().adapted(weights) if (facts.moves_head if n in HEAD else facts.moves_body))

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        return Move(weights | {name: weights[name].sub(g, alpha=self.rate(name)) for name, g in gradients.items()})


def make(config: "TrainConfig") -> Descent:
    return Descent(config.method, config.inner_lr, config.head_lr)
