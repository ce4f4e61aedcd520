"""The layers that both backbones are made of."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
GROUPS = 8

# Normalisation statistics by name ("backbone.blocks.0.norm.mean", "….var"), each [C].
Statistics = dict[str, Tensor]


@dataclass
class NormPass:
    """Statistics of one forward pass: `given` ones are used, else the batch's own, which are kept in `seen`."""

    given: Statistics | None = None
    seen: Statistics = field(default_factory=dict)


class Normalization(nn.Module):
    """Batch normalisation without running statistics, or group normalisation, of a convolution's output.

    In the batch modes the statistics are the batch's own, or given ones (mode "support": those of the support set).
    `torch.vmap` over `F.batch_norm` gives a wrong second-order gradient (functorch issue 534) and the ONNX exporter
    needs plain operations, hence statistics written out. All of them come from each image's own moments: what runs over
    whole maps then never crosses images, so that an export can run it image by image (export/passes/stream.py).
    """

    def __init__(self, channels: int, name: str, grouped: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.name = name
        self.groups = math.gcd(GROUPS, channels) if grouped else 0

    def forward(self, conv: nn.Conv2d, x: Tensor, statistics: NormPass, halve: bool = False) -> Tensor:
        """The normalised conv(x), and its 2×2 max-pool where `halve`: x [N, I, H, W] → [N, O, H, W] or half of H and W.

        Given statistics go into the convolution's weights. Otherwise a map that is to be halved is pooled before it is
        normalised, which is a quarter of the work and of the memory: normalising keeps the order of a channel's values
        or, where its weight is negative, turns it round; the convolution then computes them with the other sign.
        """
        if statistics.given is not None and not self.groups:
            mean, var = (statistics.given[f"{self.name}.{kind}"] for kind in ("mean", "var"))
            scale = self.weight * torch.rsqrt(var + EPSILON)
            y = convolved(conv, x, scale, self.bias - mean * scale)
            return F.max_pool2d(y, 2) if halve else y
        signs = (self.weight.detach() < 0).to(x.dtype) * -2 + 1 if halve else None
        y = convolved(conv, x, signs)
        scale, shift = self._scale_and_shift(y, signs, statistics)
        y = F.max_pool2d(y, 2) if halve else y
        return torch.addcmul(shift[..., None, None], y, scale[..., None, None])

    def _scale_and_shift(self, y: Tensor, signs: Tensor | None, statistics: NormPass) -> tuple[Tensor, Tensor]:
        """What normalises y, a convolution's output times `signs` (None: as it is), by its own statistics: each [C], or
        [N, C] in mode "group"."""
        mean, var = _Moments.apply(y, not self.groups)
        if self.groups:
            mean, root = self._of_groups(_times(mean, signs), var)
            mean = _times(mean, signs)
        else:
            root = torch.rsqrt(var + EPSILON)
            statistics.seen |= {f"{self.name}.mean": _times(mean, signs), f"{self.name}.var": var}
        scale = _times(self.weight, signs) * root
        return scale, torch.addcmul(self.bias, mean, scale, value=-1)

    def _of_groups(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1/√(variance + ε) of each channel's group [N, C], from the channels' own moments [N, C]."""
        channels = torch.unflatten(mean, 1, (self.groups, -1))
        mean = channels.mean(2, keepdim=True)
        var = (torch.unflatten(var, 1, (self.groups, -1)) + (channels - mean).square()).mean(2, keepdim=True)
        root = torch.rsqrt(var + EPSILON)
        return mean.expand_as(channels).flatten(1), root.expand_as(channels).flatten(1)


class _Moments(torch.autograd.Function):
    """Mean and variance of the maps of y [N, C, H, W]: of every image by itself, [N, C], or `together`, [C].

    The variance does not depend on the mean to first order, which autograd would find out by summing zeros over whole
    maps: hence gradients by hand. `torch.var_mean` is slower on CPUs: its Welford sum is not vectorised over these
    axes.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        mean = y.mean((2, 3))
        centred = y - mean[..., None, None]
        var = (centred * centred).mean((2, 3))
        if together:
            images, mean = mean, mean.mean(0)
            var = var.mean(0) + (images - mean).square().mean(0)
        ctx.save_for_backward(y, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, to_mean: Tensor, to_var: Tensor) -> tuple[Tensor, None]:
        return _MomentsGradient.apply(*ctx.saved_tensors, to_mean, to_var), None


class _MomentsGradient(torch.autograd.Function):
    """(to_mean + 2 · to_var · (y − mean)) / number of values of each mean, [N, C, H, W]; mean and var [N, C] or [C]."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mean: Tensor, to_mean: Tensor, to_var: Tensor) -> Tensor:
        count = y.shape[2] * y.shape[3] * (1 if mean.ndim == 2 else y.shape[0])
        slope = to_var * (2 / count)
        ctx.save_for_backward(y, mean, slope)
        ctx.count = count
        return torch.addcmul((to_mean / count - mean * slope)[..., None, None], y, slope[..., None, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, mean, slope = ctx.saved_tensors
        axes = (2, 3) if mean.ndim == 2 else (0, 2, 3)
        total, product = gradient.sum(axes), (gradient * y).sum(axes)
        of_var = (product - mean * total) * (2 / ctx.count)
        return gradient * slope[..., None, None], -slope * total, total / ctx.count, of_var


class _DoublyDifferentiable(torch.autograd.Function):
    """conv2d of stride 1 in one group, [N, I, H, W] and [O, I, kh, kw] → [N, O, H, W], fast to differentiate twice.

    torch's own second derivative computes a weight gradient as a convolution whose kernel is the whole map, with
    transposed copies of all images, and two convolutions where one of twice the channels does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        needed = ctx.needs_input_grad[:2]
        return *_ConvolutionGradient.apply(gradient, *ctx.saved_tensors, ctx.padding, needed), None


class _ConvolutionGradient(torch.autograd.Function):
    """The gradients of a convolution at its input and its weight; None for one that is not `needed`."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], needed: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(gradient, x, weight)
        ctx.padding = padding
        ctx.set_materialize_grads(False)
        return _convolution_gradient(gradient, x, weight, padding, needed)

    @staticmethod
    def backward(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """`of_x` [N, I, H, W] and `of_weight` [O, I, kh, kw]: the gradients at the two gradients."""
        gradient, x, weight = ctx.saved_tensors
        to_gradient, to_x, to_weight = ctx.needs_input_grad[:3]
        at_gradient = at_x = at_weight = None
        pairs = [(m, f) for m, f in ((of_x, weight), (x, of_weight)) if m is not None and f is not None]
        if to_gradient and pairs:
            inputs, filters = zip(*pairs)
            at_gradient = F.conv2d(torch.cat(inputs, 1), torch.cat(filters, 1), padding=ctx.padding)
        if to_x and of_weight is not None:
            at_x = _convolution_gradient(gradient, x, of_weight, ctx.padding, (True, False))[0]
        if to_weight and of_x is not None:
            at_weight = _convolution_gradient(gradient, of_x, weight, ctx.padding, (False, True))[1]
        return at_gradient, at_x, at_weight, None, None


def _convolution_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (1, 1), padding, (1, 1), False, (0, 0), 1, (*needed, False)
    )
    return of_x, of_weight


def _times(values: Tensor, signs: Tensor | None) -> Tensor:
    return values if signs is None else values * signs


def convolved(conv: nn.Conv2d, x: Tensor, factors: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """conv(x) of a `convolution`, each filter times its factor."""
    weight = conv.weight if factors is None else conv.weight * factors.view(-1, 1, 1, 1)
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    # Where statistics are given (hence a bias) nothing is differentiated twice. Autocast knows no functions of ours.
    if bias is None and plain and not torch.is_autocast_enabled(x.device.type):
        y: Tensor = _DoublyDifferentiable.apply(x, weight, conv.padding)
        return y
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class Convolution(nn.Conv2d):
    """As its base, but for the way it is differentiated."""

    def forward(self, x: Tensor) -> Tensor:
        return convolved(self, x)


def convolution(inputs: int, outputs: int, kernel: int) -> Convolution:
    """A convolution that keeps the map's size, Kaiming normal, without bias: the normalisation after it has one."""
    layer = Convolution(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
