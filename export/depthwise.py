"""The gradient of a convolution of single channels at its weight."""

import math

from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution, Window


def of_weight(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """dL/dW [C, 1, kh, kw]: what each place of the kernel sees of x, times the gradient, summed over pixels and images.

    One place after the other, so that nothing is larger than the map itself.
    """
    phases = phases_of(b, x, shape, 0.0)
    totals = []
    for row in range(shape.kernel[0]):
        for column in range(shape.kernel[1]):
            product = b.op("Mul", seen_from(b, phases, shape, shape.inputs, (row, column)), gradient)
            totals.append(b.op("ReduceSum", product, b.constant([2, 3]), keepdims=0))
    stacked = b.op("Concat", *(b.op("Unsqueeze", total, b.constant([2])) for total in totals), axis=2)
    total = b.op("ReduceSum", stacked, b.constant([0]), keepdims=0)
    return b.op("Reshape", total, b.constant(list(shape.weight)))


def phases_of(b: GraphBuilder, x: str, window: Window, padding: float) -> str:
    """x [N, C, H, W], padded, as maps of every s-th pixel: [N, s·s·C, ⌈H/s⌉, ⌈W/s⌉], C maps of a phase side by side."""
    sides = padded_sides(window)
    pads = [0, 0, *window.padding, 0, 0, *(s - o - p for s, o, p in zip(sides, window.sides, window.padding))]
    if any(pads):
        value = (b.constant(padding),) if padding else ()
        x = b.op("Pad", x, b.constant(pads), *value)
    (sh, sw), (height, width) = window.stride, sides
    if sh == sw == 1:
        return x
    apart = b.op("Reshape", x, b.constant([0, -1, height // sh, sh, width // sw, sw]))
    apart = b.op("Transpose", apart, perm=[0, 3, 5, 1, 2, 4])
    return b.op("Reshape", apart, b.constant([0, -1, height // sh, width // sw]))


def padded_sides(window: Window) -> tuple[int, int]:
    """The least multiples of the strides that hold the map, padding before it, and all that the window sees."""
    axes = zip(window.sides, window.kernel, window.stride, window.padding, window.out_sides)
    height, width = (
        stride * math.ceil(max(padding + side, (count - 1) * stride + kernel) / stride)
        for side, kernel, stride, padding, count in axes
    )
    return height, width


def seen_from(b: GraphBuilder, phases: str, window: Window, channels: int, place: tuple[int, int]) -> str:
    """What the kernel's `place` sees of a map: [N, C, H', W'] of its `phases`."""
    (sh, sw), (height, width) = window.stride, window.out_sides
    phase = place[0] % sh * sw + place[1] % sw
    starts = [phase * channels, place[0] // sh, place[1] // sw]
    ends = [starts[0] + channels, starts[1] + height, starts[2] + width]
    axes = [1, 2, 3] if sh * sw > 1 else [2, 3]
    if axes == [2, 3] and tuple(starts[1:]) == (0, 0) and padded_sides(window) == (height, width):
        return phases
    first = 3 - len(axes)
    return b.op("Slice", phases, b.constant(starts[first:]), b.constant(ends[first:]), b.constant(axes))
