"""The perceptron g_φ of GEMS (WACV'23): what it sees of a task, and how its hard decisions pass gradients.

The paper leaves its architecture to a supplement that is not available; this one follows ALFA (Baik et al. 2020), its
closest public relative: means of weights and gradients through one hidden layer.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gems_edge.models.fewshot import Weights, layers_of
from gems_edge.models.tensor_names import ADAPTER

# A fixed number, so that pruned networks keep their perceptron's hidden layer.
HIDDEN = 64
_TINY = 1e-12


def initial_adapter(inputs: int, outputs: Tensor) -> Weights:
    """φ: a random hidden layer, and an output layer that answers `outputs` to everything until it has learned."""
    bound = 1 / math.sqrt(inputs)
    return {
        f"{ADAPTER}hidden.weight": torch.empty(HIDDEN, inputs).uniform_(-bound, bound),
        f"{ADAPTER}hidden.bias": torch.empty(HIDDEN).uniform_(-bound, bound),
        f"{ADAPTER}output.weight": torch.zeros(len(outputs), HIDDEN),
        f"{ADAPTER}output.bias": outputs.clone(),
    }


def input_size(weights: Weights, feature_channels: int = 0) -> int:
    """What g_φ sees: two means of every tensor that a step may move, and the features of a task (`feature_channels`)
    where it sees them."""
    return 2 * sum(map(len, layers_of(weights).values())) + feature_channels


def without_channels(weights: Weights, kept: Tensor) -> Weights:
    """φ for a network whose features keep the channels `kept` alone (bool [channels]); {} where there is no φ."""
    adapter = {name: tensor.clone() for name, tensor in weights.items() if name.startswith(ADAPTER)}
    if adapter:
        hidden = adapter[f"{ADAPTER}hidden.weight"]
        means = input_size(weights)
        if hidden.shape[1] > means:
            seen = torch.cat([torch.ones(means, dtype=torch.bool), kept])
            adapter[f"{ADAPTER}hidden.weight"] = hidden[:, seen.to(hidden.device)]
    return adapter


def adapter_inputs(weights: Weights, gradients: Weights, features: Tensor | None) -> Tensor:
    """What g_φ sees, [inputs]: means of every weight tensor, of every gradient's magnitude and of the support features.

    Magnitudes, where ALFA takes plain means: a classifier's gradients sum to zero over the classes, and at the first
    step of a shared head no other gradient is there, so that plain means would be nothing but rounding. Each of the
    three groups is brought to mean 0 and deviation 1: gradients are 1e-4 where features are 1, and unscaled they would
    not be seen. Gradients and features are constants for the meta-gradient, weights are not (as in ALFA). A tensor
    without a gradient (an update rule that leaves it alone) counts as one of mean 0.
    """
    names = [name for layer in layers_of(weights).values() for name in layer]
    means = torch.stack([_mean(weights[name]) for name in names])
    none = torch.zeros_like(means[0])
    pushes = torch.stack([_mean(gradients[name].detach().abs()) if name in gradients else none for name in names])
    parts = [standardised(means), standardised(pushes)]
    if features is not None:
        channels = weights[f"{ADAPTER}hidden.weight"].shape[1] - input_size(weights)
        maps = torch.unflatten(features.detach().to(means.dtype), 0, (channels, -1))
        parts.append(standardised(maps.mean(1)))
    return torch.cat(parts)


def _mean(tensor: Tensor) -> Tensor:
    """A filter at a time first: a sum over millions of float32 in a row, as some runtimes do it, loses digits."""
    return tensor.mean((1, 2, 3)).mean() if tensor.ndim == 4 else tensor.mean()


def standardised(values: Tensor) -> Tensor:
    """[n] → mean 0, deviation 1 (all zeros if they are all alike)."""
    centred = values - values.mean()
    return centred * torch.rsqrt((centred * centred).mean() + _TINY)


def perceptron(weights: Weights, inputs: Tensor) -> Tensor:
    """g_φ: [inputs] → [outputs]. Never in a lower precision: what it decides is what the board, in float32, decides."""
    with torch.autocast(inputs.device.type, enabled=False):
        hidden = F.relu(F.linear(inputs[None], weights[f"{ADAPTER}hidden.weight"], weights[f"{ADAPTER}hidden.bias"]))
        return F.linear(hidden, weights[f"{ADAPTER}output.weight"], weights[f"{ADAPTER}output.bias"])[0]


class StraightThrough(torch.autograd.Function):
    """1 where a logit is above 0, else 0; the gradient passes as if it were the logit itself (Bengio et al. 2013)."""

    @staticmethod
    def forward(context: Any, logits: Tensor) -> Tensor:
        return (logits > 0).to(logits.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


class Below(torch.autograd.Function):
    """1 where a rank (0…1, the largest weight has 0) is below the kept share, else 0: a layer's largest weights.

    The gradient of every position passes to the share unchanged, summed (straight-through top-k).
    """

    @staticmethod
    def forward(context: Any, rank: Tensor, share: Tensor) -> Tensor:
        return (rank < share).to(rank.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient.sum()


def ranks(weight: Tensor) -> Tensor:
    """The rank of each entry by magnitude, largest first, as a share of the tensor: 0, 1/n, … (n − 1)/n."""
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    shares = torch.arange(len(order), device=weight.device, dtype=weight.dtype) / len(order)
    return torch.empty_like(shares).scatter_(0, order, shares).view_as(weight)


def by_layer(weights: Weights) -> dict[str, int]:
    """Tensor → the number of its layer."""
    return {name: number for number, layer in enumerate(layers_of(weights).values()) for name in layer}
