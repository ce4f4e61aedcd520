"""The layers that both backbones are made of."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
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
    """Batch normalisation without running statistics, or group normalisation, of a convolution's output.

    In the batch modes the statistics are the batch's own, or given ones (mode "support": those of the support set).
    `torch.vmap` over `F.batch_norm` gives a wrong second-order gradient (functorch issue 534) and the ONNX exporter
    needs plain operations, hence statistics written out. All of them come from each image's own moments: what runs over
    whole maps then never crosses images, so that an export can run it image by image (export/streaming.py).
    """

    def __init__(self, channels: int, name: str, grouped: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.name = name
        self.groups = math.gcd(GROUPS, channels) if grouped else 0

    def forward(self, conv: nn.Conv2d, x: Tensor, statistics: NormPass, halve: bool = False) -> Tensor:
        """The normalised conv(x), and its 2×2 max-pool where `halve`: x [N, I, H, W] → [N, O, H, W] or [N, O, H/2, W/2].

        Given statistics go into the convolution's weights. Otherwise a map that is to be halved is pooled before it is
        normalised, which is a quarter of the work and of the memory: normalising keeps the order of a channel's values
        or, where its weight is negative, turns it round; the convolution then computes them with the other sign.
        """
        if statistics.given is not None and not self.groups:
            mean, var = (statistics.given[f"{self.name}.{kind}"] for kind in ("mean", "var"))
            scale = self.weight * torch.rsqrt(var + EPSILON)
            y = _convolved(conv, x, scale, self.bias - mean * scale)
            return F.max_pool2d(y, 2) if halve else y
        signs = (self.weight.detach() < 0).to(x.dtype) * -2 + 1 if halve else None
        y = _convolved(conv, x, signs)
        scale, shift = self._scale_and_shift(y, signs, statistics)
        return (F.max_pool2d(y, 2) if halve else y) * scale[..., None, None] + shift[..., None, None]

    def _scale_and_shift(self, y: Tensor, signs: Tensor | None, statistics: NormPass) -> tuple[Tensor, Tensor]:
        """What normalises y, a convolution's output times `signs` (None: as it is), by its own statistics: each [C], or
        [N, C] in mode "group"."""
        mean, var = _Moments.apply(y)
        if self.groups:
            mean, root = self._of_groups(_times(mean, signs), var)
            mean = _times(mean, signs)
        else:
            images, mean = mean, mean.mean(0)
            var = var.mean(0) + (images - mean).square().mean(0)
            root = torch.rsqrt(var + EPSILON)
            statistics.seen |= {f"{self.name}.mean": _times(mean, signs), f"{self.name}.var": var}
        scale = _times(self.weight, signs) * root
        return scale, self.bias - mean * scale

    def _of_groups(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1/√(variance + ε) of each channel's group [N, C], from the channels' own moments [N, C]."""
        channels = mean.unflatten(1, (self.groups, -1))
        mean = channels.mean(2, keepdim=True)
        var = (var.unflatten(1, (self.groups, -1)) + (channels - mean).square()).mean(2, keepdim=True)
        root = torch.rsqrt(var + EPSILON)
        return tuple(part.expand_as(channels).flatten(1) for part in (mean, root))


class _Moments(torch.autograd.Function):
    """Mean and variance [N, C] of every map of y [N, C, H, W].

    The variance does not depend on the mean to first order, which autograd would find out by summing zeros over whole
    maps: hence a gradient by hand, in operations that differentiate in their turn. `torch.var_mean` is slower on CPUs (its
    Welford sum is not vectorised over these axes).
    """

    @staticmethod
    def forward(ctx, y: Tensor) -> tuple[Tensor, Tensor]:
        mean = y.mean((2, 3))
        centred = y - mean[..., None, None]
        ctx.save_for_backward(y, mean)
        return mean, (centred * centred).mean((2, 3))

    @staticmethod
    def backward(ctx, to_mean: Tensor, to_var: Tensor) -> Tensor:
        y, mean = ctx.saved_tensors
        size = y.shape[2] * y.shape[3]
        slope = to_var * (2 / size)
        return y * slope[..., None, None] + (to_mean / size - mean * slope)[..., None, None]


def _times(values: Tensor, signs: Tensor | None) -> Tensor:
    return values if signs is None else values * signs


def _convolved(conv: nn.Conv2d, x: Tensor, factors: Tensor | None, bias: Tensor | None = None) -> Tensor:
    """conv(x) with each filter times its factor."""
    weight = conv.weight if factors is None else conv.weight * factors.view(-1, 1, 1, 1)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the map's size, Kaiming normal, without bias: the normalisation after it has one."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
