"""Normalisation as a plain layer, in all modes, alone or together with the convolution and the pool around it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gems_edge.models.convolution import Convolution, convolved

# Of group normalisation in place of batch normalisation (mode "group"), or as many as divide the channels.
GROUPS = 8

# Normalisation statistics by name ("backbone.blocks.0.norm.mean", "….var"), each [C].
Statistics = dict[str, Tensor]

# A max-pool's kernel, stride and padding.
Pool = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass
class NormPass:
    """Statistics of one forward pass: `given` ones are used, else the batch's own, which are kept in `seen`.

    `shares`: how much each image of the batch counts in these, [N] with the sum 1; None: all alike.
    """

    given: Statistics | None = None
    shares: Tensor | None = None
    seen: Statistics = field(default_factory=dict)

    def shares_of(self, y: Tensor) -> Tensor:
        """Those of the images of y [N, C, H, W]."""
        if self.shares is not None:
            return self.shares
        alike = torch.ones_like(y[:, 0, 0, 0])
        return alike / alike.sum()


class Normalization(nn.Module):
    """Batch normalisation (`groups` 0), or group normalisation, of maps [N, C, H, W].

    In the batch modes the statistics are the batch's own, or given ones (mode "support": those of the support set). If
    it is `frozen` they are the running ones of its training, which are kept beside the parameters.
    `torch.vmap` over `F.batch_norm` gives a wrong second-order gradient (functorch issue 534) and the ONNX exporter
    needs plain operations, hence statistics written out. All of them come from each image's own moments: what runs over
    whole maps then never crosses images, so that an export can run it image by image (export/passes/stream.py).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, name: str, groups: int = 0, epsilon: float = 1e-5, frozen: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels), persistent=False)
        self.register_buffer("running_var", torch.ones(channels), persistent=False)
        self.name = name
        self.groups = math.gcd(groups, channels) if groups else 0
        self.frozen = frozen and not groups
        self.epsilon = epsilon

    def forward(
        self, x: Tensor, statistics: NormPass, conv: Convolution | None = None, pool: Pool | None = None
    ) -> Tensor:
        """The normalised x, or conv(x) where there is a `conv`, and behind it the max-pool `pool` where there is one.

        Given statistics go into the convolution's weights. Otherwise a map that is to be pooled is pooled before it is
        normalised, which is less work and less memory: normalising keeps the order of a channel's values or, where its
        weight is negative, turns it round; the convolution then computes them with the other sign.
        """
        given = self._given(statistics)
        if given is not None:
            return _pooled(self._by_given(x, *given, conv), pool)
        signs = None if pool is None else (self.weight.detach() < 0).to(x.dtype) * -2 + 1
        y = x if conv is None else convolved(conv, x, signs)
        scale, shift = self._scale_and_shift(y, signs, statistics)
        return torch.addcmul(shift[..., None, None], _pooled(y, pool), scale[..., None, None])

    def _given(self, statistics: NormPass) -> tuple[Tensor, Tensor] | None:
        """Mean and variance [C] that do not come from the maps themselves; None: they do."""
        if self.frozen:
            return self.running_mean, self.running_var
        if statistics.given is None or self.groups:
            return None
        return statistics.given[f"{self.name}.mean"], statistics.given[f"{self.name}.var"]

    def _by_given(self, x: Tensor, mean: Tensor, var: Tensor, conv: Convolution | None) -> Tensor:
        scale = self.weight * torch.rsqrt(var + self.epsilon)
        shift = self.bias - mean * scale
        if conv is not None:
            return convolved(conv, x, scale, shift)
        return torch.addcmul(shift[..., None, None], x, scale[..., None, None])

    def _scale_and_shift(self, y: Tensor, signs: Tensor | None, statistics: NormPass) -> tuple[Tensor, Tensor]:
        """What normalises y, a convolution's output times `signs` (None: as it is), by its own statistics: each [C], or
        [N, C] in mode "group"."""
        mean, var = _Moments.apply(y, None if self.groups else statistics.shares_of(y))
        if self.groups:
            mean, root = self._of_groups(_times(mean, signs), var)
            mean = _times(mean, signs)
        else:
            root = torch.rsqrt(var + self.epsilon)
            statistics.seen |= {f"{self.name}.mean": _times(mean, signs), f"{self.name}.var": var}
        scale = _times(self.weight, signs) * root
        return scale, torch.addcmul(self.bias, mean, scale, value=-1)

    def _of_groups(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1/√(variance + ε) of each channel's group [N, C], from the channels' own moments [N, C]."""
        channels = torch.unflatten(mean, 1, (self.groups, -1))
        mean = channels.mean(2, keepdim=True)
        var = (torch.unflatten(var, 1, (self.groups, -1)) + (channels - mean).square()).mean(2, keepdim=True)
        root = torch.rsqrt(var + self.epsilon)
        return mean.expand_as(channels).flatten(1), root.expand_as(channels).flatten(1)


class _Moments(torch.autograd.Function):
    """Mean and variance of the maps of y [N, C, H, W]: of every image by itself, [N, C], or of all together, [C], each
    with its share of `shares` [N].

    The variance does not depend on the mean to first order, which autograd would find out by summing zeros over whole
    maps: hence gradients by hand. `torch.var_mean` is slower on CPUs: its Welford sum is not vectorised over these
    axes.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = y.mean((2, 3))
        centred = y - mean[..., None, None]
        var = (centred * centred).mean((2, 3))
        if shares is not None:
            images, mean = mean, _together(mean, shares)
            var = _together(var + (images - mean).square(), shares)
        ctx.save_for_backward(y, mean, shares)
        return mean, var

    @staticmethod
    def backward(ctx: Any, to_mean: Tensor, to_var: Tensor) -> tuple[Tensor, None]:
        return _MomentsGradient.apply(*ctx.saved_tensors, to_mean, to_var), None


class _MomentsGradient(torch.autograd.Function):
    """share · (to_mean + 2 · to_var · (y − mean)) / places of a map, [N, C, H, W]; mean and the gradients to it [N, C]
    without shares, [C] with them."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mean: Tensor, shares: Tensor | None, to_mean: Tensor, to_var: Tensor) -> Tensor:
        ctx.places = y.shape[2] * y.shape[3]
        slope = to_var * (2 / ctx.places)
        ctx.save_for_backward(y, mean, shares, slope)
        shift = to_mean / ctx.places - mean * slope
        return torch.addcmul(_of_images(shift, shares), y, _of_images(slope, shares))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor]:
        y, mean, shares, slope = ctx.saved_tensors
        total, product = gradient.sum((2, 3)), (gradient * y).sum((2, 3))
        if shares is not None:
            total, product = _together(total, shares), _together(product, shares)
        of_var = (product - mean * total) * (2 / ctx.places)
        return gradient * _of_images(slope, shares), -slope * total, None, total / ctx.places, of_var


def _together(values: Tensor, shares: Tensor) -> Tensor:
    """The sum [C] of every image's values [N, C], each times its share."""
    return (values * shares[:, None]).sum(0).to(values.dtype)


def _of_images(values: Tensor, shares: Tensor | None) -> Tensor:
    """What each image's map has of `values` ([C] with shares, else [N, C]): [N, C, 1, 1]."""
    return (values if shares is None else (shares[:, None] * values).to(values.dtype))[..., None, None]


def _pooled(y: Tensor, pool: Pool | None) -> Tensor:
    return y if pool is None else F.max_pool2d(y, *pool)


def _times(values: Tensor, signs: Tensor | None) -> Tensor:
    return values if signs is None else values * signs
