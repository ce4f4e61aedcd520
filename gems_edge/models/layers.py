"""The layers that both backbones are made of."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

EPSILON = 1e-5
GROUPS = 8

# Normalisation statistics by name ("backbone.blocks.0.norm.mean", "….var"), each [C].
Statistics = dict[str, Tensor]


@dataclass
class NormPass:
    """Statistics that travel with one forward pass: `given` ones are used, otherwise those of the batch, which are kept in `seen`."""

    given: Statistics | None = None
    seen: Statistics = field(default_factory=dict)


class Normalization(nn.Module):
    """Batch normalisation without running statistics, or group normalisation; written out, see below.

    In the batch modes the statistics are the batch's own, or given ones (mode "support": those of the support set).
    `torch.vmap` over `F.batch_norm` gives a wrong second-order gradient (functorch issue 534) and the ONNX exporter
    needs plain operations: hence var_mean and one multiply-add, which onnxruntime folds into the convolution when the
    statistics are constant.
    """

    def __init__(self, channels: int, name: str, grouped: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.name = name
        self.groups = math.gcd(GROUPS, channels) if grouped else 0

    def forward(self, x: Tensor, norm: NormPass) -> Tensor:
        """x [N, C, H, W] → the same shape."""
        if self.groups:
            return self._grouped(x)
        if norm.given is not None:
            mean, var = norm.given[f"{self.name}.mean"], norm.given[f"{self.name}.var"]
        else:
            mean, var = _moments(x)
            norm.seen |= {f"{self.name}.mean": mean, f"{self.name}.var": var}
        scale = self.weight * torch.rsqrt(var + EPSILON)
        shift = self.bias - mean * scale
        return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)

    def _grouped(self, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (self.groups, -1))
        var, mean = torch.var_mean(groups, (2, 3, 4), correction=0, keepdim=True)
        x = ((groups - mean) * torch.rsqrt(var + EPSILON)).flatten(1, 2)
        return x * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of a batch of maps [N, C, H, W]. `torch.var_mean` is slower on CPUs (its Welford sum is not
    vectorised over these axes)."""
    mean = x.mean((0, 2, 3), keepdim=True)
    centred = x - mean
    return mean.flatten(), (centred * centred).mean((0, 2, 3))


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the map's size, Kaiming normal, without bias: the normalisation after it has one."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
