"""Convolutions of any stride and number of groups that are fast to differentiate twice."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN's kernels for the weight gradient of a depthwise convolution are so wide at most.
_COLUMNS = 3

# Of a convolution's input, weight and bias: whether the gradient is asked for.
Needed = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Form:
    """What of a convolution is not in its tensors; dilation is 1."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._is_product(x, weight):
            return _maps(F.linear(_rows(x), weight.flatten(1), bias), x)
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needed: Needed
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """At the input, weight and bias, from the gradient at the output; None for one that is not `needed`."""
        if self._is_product(x, weight):
            rows = _rows(gradient)
            of_x = _maps(rows @ weight.flatten(1), x) if needed[0] else None
            of_weight = (rows.t() @ _rows(x)).view(weight.shape) if needed[1] else None
            return of_x, of_weight, rows.sum(0) if needed[2] else None
        by_columns = needed[1] and self._weight_by_columns(gradient, weight)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, x, weight, weight.shape[:1], self.stride, self.padding, (1, 1), False, (0, 0), self.groups,
            (needed[0], needed[1] and not by_columns, needed[2] and not by_columns),
        )  # fmt: skip
        if by_columns:  # the bias's by itself, too: asked for it, oneDNN computes the weight's along with it
            of_weight, of_bias = self._gradient_of_columns(gradient, x, weight), gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias if needed[2] else None

    def _is_product(self, x: Tensor, weight: Tensor) -> bool:
        """Whether it is a matrix product over the places of maps that lie channels last on a CPU, where that is faster
        than oneDNN's convolution. A trace (no plain tensors) has a convolution."""
        plain = type(x) is Tensor and x.device.type == "cpu" and self == Form()
        return plain and weight.shape[2:] == (1, 1) and x.is_contiguous(memory_format=torch.channels_last)

    def _weight_by_columns(self, gradient: Tensor, weight: Tensor) -> bool:
        """Whether the weight's gradient comes faster a few columns of the kernel at a time: of a depthwise convolution
        on a CPU, where oneDNN falls back to plain loops for wider kernels. A trace (no plain tensors) has it whole."""
        depthwise = weight.shape[1] == 1 and 1 < self.groups == weight.shape[0]
        return depthwise and weight.shape[3] > _COLUMNS and type(gradient) is Tensor and gradient.device.type == "cpu"

    def _gradient_of_columns(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient at a depthwise convolution's weight [C, 1, kh, kw]: of each three of its columns by itself."""
        width, narrow = weight.shape[3], replace(self, padding=(0, 0))  # few paddings are fast, too
        parts = []
        for column in range(0, width, _COLUMNS):
            columns = weight[..., column : column + _COLUMNS]
            read = self._read_by(column, columns.shape[3], gradient.shape[3], x)
            _, part, _ = narrow.gradients(gradient, read, columns, (False, True, False))
            assert part is not None
            parts.append(part)
        return torch.cat(parts, 3)

    def _read_by(self, column: int, columns: int, places: int, x: Tensor) -> Tensor:
        """What `columns` columns of the kernel from `column` on read of x, with its zeros, for `places` of a row."""
        top, left = self.padding
        length = (places - 1) * self.stride[1] + columns
        before = column - left  # of x's own columns
        inner = x[..., max(0, before) : max(0, before + length)]
        if not top and inner.shape[3] == length:
            return inner
        images, channels, height, _ = x.shape
        padded = torch.empty(
            (images, channels, height + 2 * top, length), dtype=x.dtype, memory_format=torch.channels_last
        ).zero_()
        start = max(0, -before)
        padded[:, :, top : top + height, start : start + inner.shape[3]] = inner
        return padded


def _rows(maps: Tensor) -> Tensor:
    """Maps [N, C, H, W] → [N · H · W, C]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    """The other way round, for as many images and places as `like` [N, ?, H, W] has."""
    images, _, height, width = like.shape
    return rows.view(images, height, width, -1).permute(0, 3, 1, 2)


class _DoublyDifferentiable(torch.autograd.Function):
    """conv2d, [N, I, H, W] and [O, I / groups, kh, kw] → [N, O, h, w], fast to differentiate twice.

    torch's own second derivative computes a weight gradient as a convolution whose kernel is the whole map, with
    transposed copies of all images and for each group by itself, and two convolutions where one of twice the channels
    does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.form = form
        return form.apply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        return *_ConvolutionGradient.apply(gradient, *ctx.saved_tensors, ctx.form, ctx.needs_input_grad[:3]), None


class _ConvolutionGradient(torch.autograd.Function):
    """The gradients of a convolution at its input, weight and bias; None for one that is not `needed`."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, form: Form, needed: Needed
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(gradient, x, weight)
        ctx.form = form
        ctx.set_materialize_grads(False)
        return form.gradients(gradient, x, weight, needed)

    @staticmethod
    def backward(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """`of_x` [N, I, H, W], `of_weight` [O, I / groups, kh, kw], `of_bias` [O]: the gradients at the three."""
        gradient, x, weight = ctx.saved_tensors
        form: Form = ctx.form
        to_gradient, to_x, to_weight = ctx.needs_input_grad[:3]
        at_gradient = at_x = at_weight = None
        pairs = [(m, f) for m, f in ((of_x, weight), (x, of_weight)) if m is not None and f is not None]
        if to_gradient and pairs:
            at_gradient = _sum_of_convolutions(form, pairs)
        if to_gradient and of_bias is not None:
            spread = of_bias[:, None, None]
            at_gradient = spread.expand_as(gradient) if at_gradient is None else at_gradient + spread
        if to_x and of_weight is not None:
            at_x = form.gradients(gradient, x, of_weight, (True, False, False))[0]
        if to_weight and of_x is not None:
            at_weight = form.gradients(gradient, of_x, weight, (False, True, False))[1]
        return at_gradient, at_x, at_weight, None, None


def _sum_of_convolutions(form: Form, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ conv(map, filters): in one group as one convolution over all the maps' channels."""
    if form.groups == 1:
        maps, filters = zip(*pairs)
        return form.apply(torch.cat(maps, 1), torch.cat(filters, 1))
    first, *rest = (form.apply(maps, filters) for maps, filters in pairs)
    return first if not rest else first.add_(rest[0])


class Convolution(nn.Conv2d):
    """As its base, but for the way it is differentiated; dilation is 1 and padding is zeros, in numbers."""

    @property
    def form(self) -> Form:
        assert isinstance(self.padding, tuple)
        (vertical, horizontal), (top, left) = self.stride, self.padding
        return Form((vertical, horizontal), (top, left), self.groups)

    def forward(self, x: Tensor) -> Tensor:
        return convolved(self, x)


def convolved(conv: Convolution, x: Tensor, factors: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """conv(x), each filter and its bias times its factor [O], plus `shift` [O]."""
    weight, bias = conv.weight, conv.bias
    if factors is not None:
        weight = weight * factors.view(-1, 1, 1, 1)
        bias = None if bias is None else bias * factors
    if shift is not None:
        bias = shift if bias is None else bias + shift
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):  # it knows no functions of ours
        return conv.form.apply(x, weight, bias)
    y: Tensor = _DoublyDifferentiable.apply(x, weight, bias, conv.form)
    return y
