"""Activations that torch differentiates twice in many passes (hardswish, SiLU) or not at all (hardsigmoid), and ReLU6,
for which it keeps a map more than is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """A function of each value by itself, of maps or vectors of any shape."""

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]  # (g, x) → g · f′(x)
    second: Callable[[Tensor, Tensor], Tensor] | None = None  # (g, x) → g · f″(x); None: zero everywhere
    of_output: bool = False  # f′(f(x)) = f′(x): the output, which the layer behind keeps anyway, serves for x


def _second_of_hardswish(gradient: Tensor, x: Tensor) -> Tensor:
    """g / 3 between −3 and 3."""
    between: Tensor = aten.hardtanh_backward(gradient, x, -3, 3)
    return between.div_(3)


def _second_of_silu(gradient: Tensor, x: Tensor) -> Tensor:
    """g · s · (1 − s) · (2 + x − 2 · x · s), where s is sigmoid(x)."""
    sigmoid = torch.sigmoid(x)
    slope: Tensor = aten.sigmoid_backward(gradient, sigmoid)
    return sigmoid.mul_(x).mul_(-2).add_(x).add_(2).mul_(slope)


def _clipped(x: Tensor) -> Tensor:
    y: Tensor = aten.hardtanh(x, 0, 6)
    return y


def _clipped_gradient(gradient: Tensor, y: Tensor) -> Tensor:
    between: Tensor = aten.hardtanh_backward(gradient, y, 0, 6)
    return between


_RELU6 = Activation(_clipped, _clipped_gradient, of_output=True)
_HARDSIGMOID = Activation(aten.hardsigmoid, aten.hardsigmoid_backward)
_HARDSWISH = Activation(aten.hardswish, aten.hardswish_backward, _second_of_hardswish)
_SILU = Activation(aten.silu, aten.silu_backward, _second_of_silu)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation) -> Tensor:
        y = activation.value(x)
        ctx.save_for_backward(y if activation.of_output else x)
        ctx.activation = activation
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _ActivationGradient.apply(gradient, *ctx.saved_tensors, ctx.activation), None


class _ActivationGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.activation = activation
        return activation.gradient(gradient, x)

    @staticmethod
    def backward(ctx: Any, at: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradient, x = ctx.saved_tensors
        activation: Activation = ctx.activation
        to_gradient, to_x, _ = ctx.needs_input_grad
        at_gradient = activation.gradient(at, x) if to_gradient else None
        at_x = activation.second(at * gradient, x) if to_x and activation.second else None
        return at_gradient, at_x, None


def relu6(x: Tensor) -> Tensor:
    """x, between 0 and 6."""
    y: Tensor = _Activated.apply(x, _RELU6)
    return y


def hardsigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1/2, between 0 and 1. torch's own has no second derivative."""
    y: Tensor = _Activated.apply(x, _HARDSIGMOID)
    return y


def hardswish(x: Tensor) -> Tensor:
    """x · hardsigmoid(x)."""
    y: Tensor = _Activated.apply(x, _HARDSWISH)
    return y


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    y: Tensor = _Activated.apply(x, _SILU)
    return y
