"""Multi-modal Meta Supermask (GEMS, WACV'23, section 3.2): which weights a task adapts."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gems_edge.errors import UserError
from gems_edge.meta.rules.adapter import Below, adapter_inputs, by_layer, initial_adapter, input_size, perceptron, ranks
from gems_edge.meta.rules.base import FrozenChoice, Move, Rule, State
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.models.fewshot import Weights, layers_of, network_weights, rows_for
from gems_edge.models.tensor_names import ADAPTER

if TYPE_CHECKING:
    from gems_edge.meta.settings.run import TrainConfig

KEEP, RANK = "keep", "rank."


@dataclass(frozen=True)
class MMSUP(Rule):
    """The inner loop moves only the subnet G_i: of each layer the share k_l of its weights largest in θ (equation 6).

    k = sigmoid(g_φ(θ, ∇θ)) is chosen at a task's first step and kept (Algorithm 2, lines 5 and 6); the forward pass
    uses all weights. Convolution and linear weights are chosen; biases and normalisation belong to every subnet, and so
    do the rows of a prototype head, which are not in θ. Since all tasks rank the same θ, the subnets of a layer lie
    inside each other. `keep`: a fixed share for each layer, or one for all, in place of g_φ (the paper's Tables 3
    and 4).

    The state holds the ranks of |θ|, which no step changes, and the shares: −1 until they are chosen.
    """

    inner_lr: float
    keep_share: float = 0.5
    keep: tuple[float, ...] = ()
    head_lr: float = 0.0
    name = "mmsup"
    adapter = "in the graph"

    @property
    def carried(self) -> tuple[str, ...]:
        return () if self.keep else (KEEP,)

    @property
    def picks_weights(self) -> bool:
        return not self.keep

    def initial(self, weights: Weights, feature_channels: int) -> Weights:
        layers = len(layers_of(weights))
        if len(self.keep) not in (0, 1, layers):
            raise UserError(
                f"--sparsity gives {len(self.keep)} numbers; this network has {layers} layers "
                f"({', '.join(layers_of(weights))}): give one for all or one for each"
            )
        if self.keep:
            return {}
        start = math.log(self.keep_share / (1 - self.keep_share))
        return initial_adapter(input_size(weights), torch.full((layers,), start))

    def begin(self, weights: Weights) -> State:
        """Ranks of the weights, and no choice yet."""
        chosen = {n: w for n, w in weights.items() if w.ndim >= 2 and not n.startswith(ADAPTER)}
        like, layers = next(iter(chosen.values())), len(layers_of(weights))
        fixed = self.keep if len(self.keep) == layers else (self.keep or (-1.0,)) * layers
        return {KEEP: like.new_tensor(fixed), **{RANK + name: ranks(weight) for name, weight in chosen.items()}}

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        keep = state[KEEP]
        if not self.keep:
            fresh = torch.sigmoid(perceptron(weights, adapter_inputs(weights, gradients, None)))
            keep = torch.where(keep < 0, fresh, keep)
        layer = by_layer(weights)
        moved = {}
        for name, gradient in gradients.items():
            if RANK + name in state:
                gradient = gradient * Below.apply(rows_for(state[RANK + name], gradient), keep[layer[name]])
            moved[name] = weights[name] - self.rate(name) * gradient
        return Move(weights | moved, state | {KEEP: keep}, {"keep": keep.detach()})

    def decisions(self, weights: Weights) -> dict[str, int]:
        return {"keep": len(layers_of(weights))}

    def subnet(self, state: State) -> Weights:
        """The chosen subnet G_i, once a step has chosen it (equation 7 moves nothing else for this task)."""
        ranked = [key.removeprefix(RANK) for key in state if key.startswith(RANK)]  # a weight of each layer, in order
        keep = state[KEEP].detach()
        return {name: (state[RANK + name] < keep[number]).to(keep.dtype) for number, name in enumerate(ranked)}

    def frozen(self, weights: Weights, choices: dict[str, Tensor]) -> FrozenChoice:
        """A weight belongs to the subnet if it belongs to that of most tasks."""
        keep = choices["keep"][:, 0]  # [tasks, layers]; chosen at the first step for all
        share = keep.median(0).values  # subnets lie inside each other, so this is the majority of them
        layer = by_layer(weights)
        subnet = {
            n: (ranks(w) < share[layer[n]]).to(w.dtype) for n, w in network_weights(weights).items() if w.ndim >= 2
        }
        still = frozenset(name for name, mask in subnet.items() if not mask.any())
        # Of a layer's positions those between a task's own share and the frozen one are decided otherwise.
        sizes = torch.tensor([sum(m.numel() for n, m in subnet.items() if layer[n] == at) for at in range(len(share))])
        agreed = 1 - (keep - share).abs().mean(0)
        about = {
            "layers": list(layers_of(weights)),
            "keep": share.tolist(),
            "weights_kept": float(sum(mask.sum() for mask in subnet.values()) / sizes.sum()),
            "agreement": float((agreed * sizes).sum() / sizes.sum()),
            "agreement_per_layer": agreed.tolist(),
        }
        rates = tuple(self.rate(names[0]) for names in layers_of(weights).values())
        rule = Frozen(self.name, self.inner_lr, (rates,), still)
        return FrozenChoice(rule, {n: mask for n, mask in subnet.items() if n not in still}, about)


def make(config: "TrainConfig") -> MMSUP:
    return MMSUP(config.inner_lr, config.adapter.keep_share, config.adapter.keep, config.head_lr)
