"""A convolution's shape, how it is written in ONNX, and its gradient at its input.

Kernels of any size, any stride, padding that is the same on both sides of an axis, one to as many groups as channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export import depthwise, weight_gradients
from gems_edge.export.builder import GraphBuilder, Value, numbers
from gems_edge.export.shapes import Convolution, pair
from gems_edge.export.translation import Translation

aten = torch.ops.aten


def shape_of(low: Translation, node: fx.Node, x: fx.Node, weight: fx.Node, form: Sequence[Any]) -> Convolution:
    """The convolution of `x` by `weight`; `form`: stride, padding, dilation, transposed, output padding, groups."""
    stride, padding, dilation, transposed, _output_padding, groups = form
    if transposed or any(step != 1 for step in dilation):
        what = "transposed" if transposed else f"dilation {list(dilation)}"
        raise UserError(f"cannot export the convolution {node.name}: {what}; docs/networks.md lists what can be")
    outputs, inputs, *kernel = numbers(low.shape(weight))
    window = pair(kernel), pair(stride), pair(padding), pair(numbers(low.shape(x)[2:]))
    return Convolution(*window, inputs * groups, outputs, groups)


def convolution(
    low: Translation, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, *form: Any
) -> Value:
    shape, b = shape_of(low, node, x, weight, form), low.builder
    if bias is None and depthwise.is_tiny(shape) and _learns(x):
        return Value(depthwise.forward(b, low.full(x), low.full(weight), shape), low.shape(node))
    inputs = [low.full(tensor) for tensor in (x, weight, bias) if tensor is not None]
    return Value(b.op("Conv", *inputs, **shape.attributes()), low.shape(node))


def _learns(x: fx.Node) -> bool:
    """Whether a convolution of x has a gradient: its weight is fed then. One of constants is fast as it is."""
    return any(user.target is aten.convolution_backward.default and user.args[1] is x for user in x.users)


def convolution_backward(
    low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node, weight: fx.Node, _bias: Any, *rest: Any
) -> list[Value | None]:
    """The gradients of x, weight and bias; None for those that are not needed."""
    *form, needed = rest
    shape = shape_of(low, node, x, weight, form)
    b, g = low.builder, low.full(gradient)
    of_x = of_weight = of_bias = None
    if needed[0]:
        of_x = Value(of_input(b, g, low.full(weight), shape), low.shape(x))
    if needed[1]:
        form_of = depthwise.of_weight if shape.is_depthwise else weight_gradients.of_weight
        of_weight = Value(form_of(b, g, low.full(x), shape), shape.weight)
    if needed[2]:
        of_bias = Value(b.op("ReduceSum", g, b.constant([0, 2, 3]), keepdims=0), shape.weight[:1])
    return [of_x, of_weight, of_bias]


def of_input(b: GraphBuilder, gradient: str, weight: str, shape: Convolution) -> str:
    """dL/dx [N, I, H, W] from the gradient [N, O, H', W'] and the weight [O, I / groups, kh, kw].

    Of one group and stride 1 a convolution with the flipped kernel is as fast as ConvTranspose, or faster; so it is of
    single channels, on more than one thread.
    """
    if depthwise.is_tiny(shape):
        return depthwise.of_input(b, gradient, weight, shape)
    plain = shape.stride == (1, 1) and all(p < k for p, k in zip(shape.padding, shape.kernel))
    if plain and (shape.groups == 1 or shape.is_depthwise):
        pads = [k - 1 - p for k, p in zip(shape.kernel, shape.padding)]
        form = shape.attributes() | {"pads": [*pads, *pads]}
        return b.op("Conv", gradient, flipped(b, weight, shape), **form)
    return b.op("ConvTranspose", gradient, weight, **shape.attributes(), output_padding=shape.unseen())


def flipped(b: GraphBuilder, weight: str, shape: Convolution) -> str:
    """[O, I, kh, kw] → [I, O, kh, kw], or [C, 1, kh, kw] as it is, each kernel turned by 180°."""
    outputs, inputs, *kernel = shape.weight
    if shape.is_depthwise:
        places = b.op("Reshape", weight, b.constant([outputs, shape.places]))
        places = b.op("Gather", places, b.constant(np.arange(shape.places)[::-1].copy()), axis=1)
        return b.op("Reshape", places, b.constant([outputs, 1, *kernel]))
    if shape.places == 1:
        matrix = b.op("Transpose", b.op("Reshape", weight, b.constant([outputs, inputs])), perm=[1, 0])
        return b.op("Reshape", matrix, b.constant([inputs, outputs, *kernel]))
    # As a matrix for each of the kernel's places: one Transpose of single filters takes up to twice as long.
    places = b.op("Transpose", weight, perm=[2, 3, 0, 1])
    places = b.op("Reshape", places, b.constant([-1, outputs, inputs]))
    reverse = b.constant(np.arange(shape.places)[::-1].copy())
    places = b.op("Transpose", b.op("Gather", places, reverse, axis=0), perm=[0, 2, 1])
    return b.op("Transpose", b.op("Reshape", places, b.constant([*kernel, inputs, outputs])), perm=[2, 3, 0, 1])
