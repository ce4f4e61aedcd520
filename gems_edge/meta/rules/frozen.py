"""An adaptation that no longer asks g_φ: which layers move at each step, and how fast, as constants."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gems_edge.meta.rules.adapter import by_layer
from gems_edge.meta.rules.base import Move, Rule, State
from gems_edge.models.fewshot import Weights, layers_of

RATES = "rates"


@dataclass(frozen=True)
class Frozen(Rule):
    """θ^l ← θ^l − α_l^m ∇_{θ^l} L with rates for each step m and layer l; steps beyond the last repeat it.

    A layer that moves in no step gets no gradient at all, and neither do the tensors in `still`. The state is the rates
    of the steps to come.
    """

    name: str  # of the method that was frozen
    inner_lr: float  # that it was trained with
    rates: tuple[tuple[float, ...], ...]  # [steps][layers]; 0: the layer's mask is off
    still: frozenset[str] = frozenset()
    adapter = "frozen"

    @property
    def carried(self) -> tuple[str, ...]:
        return (RATES,) if len(set(self.rates)) > 1 else ()

    def scaled(self, factor: float) -> "Frozen":
        return replace(self, rates=tuple(tuple(factor * rate for rate in row) for row in self.rates))

    def adapted(self, weights: Weights) -> tuple[str, ...]:
        layer = by_layer(weights)
        moving = [any(row[number] for row in self.rates) for number in range(len(layers_of(weights)))]
        return tuple(name for name in super().adapted(weights) if moving[layer[name]] and name not in self.still)

    def of_part(self, weights: Weights, part: Weights) -> "Frozen":
        """With the rates of the layers of `part` alone, and all that does not move here still there, too."""
        moving, of_layer = set(self.adapted(weights)), {name: i for i, name in enumerate(layers_of(weights))}
        columns = [of_layer[name] for name in layers_of(part)]
        rates = tuple(tuple(row[column] for column in columns) for row in self.rates)
        return replace(self, rates=rates, still=frozenset(name for name in part if name not in moving))

    def begin(self, weights: Weights) -> State:
        rows = self.rates if self.carried else self.rates[:1]
        return {RATES: next(iter(weights.values())).new_tensor(rows)}

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        layer, rates = by_layer(weights), state[RATES]
        moved = {name: weights[name] - rates[0, layer[name]] * gradient for name, gradient in gradients.items()}
        following = torch.cat([rates[1:], rates[-1:]]) if self.carried else rates
        return Move(weights | moved, {RATES: following})
