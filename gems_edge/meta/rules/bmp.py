"""Binary Mask Perceptron (GEMS, WACV'23, section 3.1): which layers a task adapts at each step, and how fast."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gems_edge.meta.rules.adapter import (
    StraightThrough,
    adapter_inputs,
    by_layer,
    initial_adapter,
    input_size,
    perceptron,
)
from gems_edge.meta.rules.base import FrozenChoice, Move, Rule, State
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.models.fewshot import Weights, layers_of

if TYPE_CHECKING:
    from gems_edge.meta.settings.run import TrainConfig

# softplus(_ONE) = 1
_ONE = math.log(math.e - 1)


@dataclass(frozen=True)
class BMP(Rule):
    """θ^l ← θ^l − α (BM_l ∘ ∇_{θ^l} L), with mask and rate from g_φ(task, θ, ∇θ) at every step (equations 3 and 4).

    Outputs of g_φ: a logit for each layer, then one number for the rate (or one per layer): α = inner_lr · softplus(it
    + log(e − 1)). The output layer starts with all masks on and zeros: an untrained BMP is MAML, but for rounding.
    """

    inner_lr: float
    task_feature: bool = True
    rate_per_layer: bool = False
    mask_logit: float = 1.0
    head_lr: float = 0.0
    name = "bmp"
    adapter = "in the graph"

    def initial(self, weights: Weights, feature_channels: int) -> Weights:
        layers = len(layers_of(weights))
        rates = torch.zeros(layers if self.rate_per_layer else 1)
        outputs = torch.cat([torch.full((layers,), self.mask_logit), rates])
        return initial_adapter(input_size(weights, feature_channels if self.task_feature else 0), outputs)

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        layer = by_layer(weights)
        count = layer[next(reversed(layer))] + 1
        outputs = perceptron(weights, adapter_inputs(weights, gradients, features if self.task_feature else None))
        mask = StraightThrough.apply(outputs[:count])
        rate = self.inner_lr * F.softplus(outputs[count:] + _ONE)
        speed = mask * rate
        moved = {}
        for name, gradient in gradients.items():
            share = self.rate(name) / self.inner_lr
            moved[name] = weights[name] - speed[layer[name]] * (gradient if share == 1 else share * gradient)
        return Move(weights | moved, {}, {"mask": mask.detach(), "rate": rate.detach()})

    def decisions(self, weights: Weights) -> dict[str, int]:
        layers = len(layers_of(weights))
        return {"mask": layers, "rate": layers if self.rate_per_layer else 1}

    def frozen(self, weights: Weights, choices: dict[str, Tensor]) -> FrozenChoice:
        """Of each step and layer the mask that most tasks have, and the geometric mean of the rates (of a layer's own
        rate over the tasks that adapt it)."""
        mask, rate = choices["mask"], choices["rate"]
        majority = (mask.mean(0) > 0.5).to(mask.dtype)
        on = mask if rate.shape[2] > 1 else torch.ones_like(rate)
        shares = rate.new_tensor([self.rate(names[0]) / self.inner_lr for names in layers_of(weights).values()])
        rates = majority * shares * ((rate.log() * on).sum(0) / on.sum(0).clamp(min=1)).exp()
        agreed = (mask == majority).to(mask.dtype).mean(0)
        about = {
            "layers": list(layers_of(weights)),
            "masks": majority.int().tolist(),
            "rates": rates.tolist(),
            "agreement": float(agreed.mean()),
            "agreement_per_step": agreed.tolist(),
        }
        return FrozenChoice(Frozen(self.name, self.inner_lr, tuple(map(tuple, rates.tolist()))), {}, about)


def make(config: "TrainConfig") -> BMP:
    adapter = config.adapter
    return BMP(
        config.inner_lr, not adapter.no_task_feature, adapter.rate == "layer", adapter.mask_logit, config.head_lr
    )
