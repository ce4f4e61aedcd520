"""Update rules: what one inner step moves, and how. A rule is data plugged into `inner_step`."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from gems_edge.models.fewshot import Weights

# method → (moves the backbone, moves the head)
PARTS = {"maml": (True, True), "anil": (False, True), "boil": (True, False)}


@dataclass(frozen=True)
class UpdateRule:
    """Gradient descent on the support loss, θ ← θ − α∇L(θ; S), over the part of the network that the method adapts.

    maml: everything (Finn et al. 2017); anil: the head (Raghu et al. 2020); boil: the backbone (Oh et al. 2021).
    """

    name: str
    inner_lr: float

    def adapted(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that an inner step moves, in their order."""
        backbone, head = PARTS[self.name]
        return tuple(name for name in names if (head if name.startswith("head.") else backbone))

    def update(self, weights: Weights, gradients: dict[str, Tensor]) -> Weights:
        return weights | {name: weights[name] - self.inner_lr * gradient for name, gradient in gradients.items()}
