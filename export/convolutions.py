"""A convolution's shape, how it is written in ONNX, and its gradient at its input.

Kernels of any size, any stride, padding that is the same on both sides of an axis, one to as many groups as channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export import depthwise, weight_gradients
from gems_edge.export.builder import GraphBuilder, Value, numbers
from gems_edge.export.shapes import Convolution, pair
from gems_edge.export.translation import Translation


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
    shape = shape_of(low, node, x, weight, form)
    inputs = [low.full(tensor) for tensor in (x, weight, bias) if tensor is not None]
    return Value(low.builder.op("Conv", *inputs, **shape.attributes()), low.shape(node))


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
    """dL/dx [N, I, H, W] from the gradient [N, O, H', W'] and the weight [O, I / groups, kh, kw]."""
    if shape.stride == (1, 1) and all(p < k for p, k in zip(shape.padding, shape.kernel)):
        return _of_input_unstrided(b, gradient, weight, shape)
    return _of_input_by_phases(b, gradient, weight, shape)


def _of_input_unstrided(b: GraphBuilder, gradient: str, weight: str, shape: Convolution) -> str:
    """The gradient convolved with the flipped kernel, in- and outputs exchanged."""
    pads = [k - 1 - p for k, p in zip(shape.kernel, shape.padding)]
    flipped = _flipped(b, weight, shape) if shape.groups == 1 else _flipped_in_groups(b, weight, shape)
    of_groups = {"group": shape.groups} if shape.groups > 1 else {}
    return b.op(
        "Conv", gradient, flipped, kernel_shape=list(shape.kernel), pads=[*pads, *pads], strides=[1, 1], **of_groups
    )


def _flipped(b: GraphBuilder, weight: str, shape: Convolution) -> str:
    """[O, I, kh, kw] → [I, O, kh, kw], each kernel turned by 180°."""
    outputs, inputs, *kernel = shape.weight
    if math.prod(kernel) == 1:
        matrix = b.op("Transpose", b.op("Reshape", weight, b.constant([outputs, inputs])), perm=[1, 0])
        return b.op("Reshape", matrix, b.constant([inputs, outputs, *kernel]))
    # As a matrix for each of the kernel's places: one Transpose of single filters takes up to twice as long.
    places = b.op("Transpose", weight, perm=[2, 3, 0, 1])
    places = b.op("Reshape", places, b.constant([-1, outputs, inputs]))
    reverse = b.constant(np.arange(math.prod(kernel))[::-1].copy())
    places = b.op("Transpose", b.op("Gather", places, reverse, axis=0), perm=[0, 2, 1])
    return b.op("Transpose", b.op("Reshape", places, b.constant([*kernel, inputs, outputs])), perm=[2, 3, 0, 1])


def _flipped_in_groups(b: GraphBuilder, weight: str, shape: Convolution) -> str:
    """[G·o, i, kh, kw] → [G·i, o, kh, kw], each kernel turned by 180°."""
    outputs, inputs, *kernel = shape.weight
    groups, of_group = shape.groups, outputs // shape.groups
    places = math.prod(kernel)
    matrix = b.op("Reshape", weight, b.constant([groups, of_group, inputs, places]))
    if places > 1:
        matrix = b.op("Gather", matrix, b.constant(np.arange(places)[::-1].copy()), axis=3)
    if of_group > 1 and inputs > 1:
        matrix = b.op("Transpose", matrix, perm=[0, 2, 1, 3])
    return b.op("Reshape", matrix, b.constant([groups * inputs, of_group, *kernel]))


def _of_input_by_phases(b: GraphBuilder, gradient: str, weight: str, shape: Convolution) -> str:
    """Every s-th pixel of x sees the same places of the kernel: one convolution of the gradient gives the pixels of all
    s·s phases as channels, and they are put between one another.

    Against zeros put between the gradient's pixels, that is s·s times fewer multiplications, and no larger map.
    """
    outputs, inputs, *_ = shape.weight
    groups, of_group = shape.groups, outputs // shape.groups
    rows, columns = (Phases.of(shape, axis) for axis in (0, 1))
    seen = rows.places[:, None, :, None] * shape.kernel[1] + columns.places[None, :, None, :]
    nothing = (rows.places[:, None, :, None] < 0) | (columns.places[None, :, None, :] < 0)
    seen = np.where(nothing, math.prod(shape.kernel), seen)  # [sh, sw, jh, jw], of kh·kw places and one of zeros
    steps, window = seen.shape[:2], seen.shape[2:]
    flat = b.op("Reshape", weight, b.constant([groups, of_group, inputs, -1]))
    flat = b.op("Pad", flat, b.constant([0, 0, 0, 0, 0, 0, 0, 1]))
    kernels = b.op("Gather", flat, b.constant(seen.reshape(math.prod(steps), -1)), axis=3)  # [G, o, i, s·s, j·j]
    if of_group > 1:
        kernels = b.op("Transpose", kernels, perm=[0, 2, 3, 1, 4])
    channels = shape.inputs * math.prod(steps)
    kernels = b.op("Reshape", kernels, b.constant([channels, of_group, *window]))
    pads = [-rows.first, -columns.first, rows.behind(shape.out_sides[0]), columns.behind(shape.out_sides[1])]
    phases = b.op(
        "Conv", _cut(b, gradient, shape.out_sides, pads[2:]), kernels, kernel_shape=list(window),
        pads=[max(0, pad) for pad in pads], strides=[1, 1], group=groups,
    )  # fmt: skip
    return _interleaved(b, phases, shape, steps, (rows.count, columns.count))


def _cut(b: GraphBuilder, x: str, sides: tuple[int, int], pads: Sequence[int]) -> str:
    """`x` without what negative pads behind it leave out."""
    if min(pads) >= 0:
        return x
    ends = [side + min(0, pad) for side, pad in zip(sides, pads)]
    return b.op("Slice", x, b.constant([0, 0]), b.constant(ends), b.constant([2, 3]))


def _interleaved(
    b: GraphBuilder, phases: str, shape: Convolution, steps: tuple[int, ...], counts: tuple[int, int]
) -> str:
    """[N, I·sh·sw, H/sh, W/sw] → [N, I, H, W]."""
    if math.prod(steps) == 1:
        return phases
    apart = b.op("Reshape", phases, b.constant([0, shape.inputs, *steps, *counts]))
    apart = b.op("Transpose", apart, perm=[0, 1, 4, 2, 5, 3])
    sides = [step * count for step, count in zip(steps, counts)]
    x = b.op("Reshape", apart, b.constant([0, shape.inputs, *sides]))
    if tuple(sides) == shape.sides:
        return x
    return b.op("Slice", x, b.constant([0, 0]), b.constant(list(shape.sides)), b.constant([2, 3]))


@dataclass(frozen=True)
class Phases:
    """Along one axis: pixel q·s + r of x, of phase r, sees the gradient's pixels q + first, q + first + 1, …"""

    places: np.ndarray  # [s, j]: the place of the kernel by which; −1: by none
    first: int
    count: int  # of pixels of a phase

    @classmethod
    def of(cls, shape: Convolution, axis: int) -> "Phases":
        kernel, stride, padding = shape.kernel[axis], shape.stride[axis], shape.padding[axis]
        seen = {
            (phase, (phase + padding - place) // stride): place
            for phase in range(stride)
            for place in range(kernel)
            if (phase + padding - place) % stride == 0
        }
        pixels = {pixel for _, pixel in seen} | {0}
        first, last = min(pixels), max(pixels)
        places = np.full((stride, last - first + 1), -1)
        for (phase, pixel), place in seen.items():
            places[phase, pixel - first] = place
        return cls(places, first, math.ceil(shape.sides[axis] / stride))

    def behind(self, side: int) -> int:
        """The padding behind a gradient of `side` pixels; negative: what of it no pixel sees."""
        seen: int = self.places.shape[1]
        return self.count + self.first + seen - 1 - side
