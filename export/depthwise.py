"""Convolutions of single channels and their gradients in the forms that onnxruntime runs fast.

docs/gradient_graph.md has what was measured.
"""

import numpy as np

from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution

# So few pairs of a pixel and a position: each channel's convolution is a matrix of them, and one product of it and the
# pixels of all images takes less than a call of onnxruntime's convolution for every channel of every image.
TINY_PAIRS = 36 * 36


def is_tiny(shape: Convolution) -> bool:
    return shape.is_depthwise and shape.pixels * shape.out_pixels <= TINY_PAIRS


def forward(b: GraphBuilder, x: str, weight: str, shape: Convolution) -> str:
    """[N, C, H, W] → [N, C, H', W'], of tiny maps."""
    return _times(b, x, shape.pixels, matrices(b, weight, shape), shape.out_sides)


def of_input(b: GraphBuilder, gradient: str, weight: str, shape: Convolution) -> str:
    """dL/dx [N, C, H, W], of tiny maps."""
    turned = b.op("Transpose", matrices(b, weight, shape), perm=[0, 2, 1])
    return _times(b, gradient, shape.out_pixels, turned, shape.sides)


def _times(b: GraphBuilder, x: str, pixels: int, factors: str, sides: tuple[int, int]) -> str:
    """Maps of so many pixels as rows, by channel and by image, times a matrix per channel: maps of `sides`."""
    rows = b.op("Transpose", b.op("Reshape", x, b.constant([0, 0, pixels])), perm=[1, 0, 2])
    product = b.op("Transpose", b.op("MatMul", rows, factors), perm=[1, 0, 2])
    return b.op("Reshape", product, b.constant([0, 0, *sides]))


def matrices(b: GraphBuilder, weight: str, shape: Convolution) -> str:
    """[C, H·W, H'·W']: what a pixel counts at a position."""
    places = b.op("Reshape", weight, b.constant([shape.inputs, shape.places]))
    product = b.op("MatMul", places, b.constant(pairs(shape)))
    return b.op("Reshape", product, b.constant([shape.inputs, shape.pixels, shape.out_pixels]))


def pairs(shape: Convolution) -> np.ndarray:
    """[kh·kw, H·W·H'·W']: 1 where a place of the kernel sees a pixel from a position."""
    rows, columns = (shape.sees(axis) for axis in (0, 1))
    joined: np.ndarray = np.einsum("iyp,jxq->ijyxpq", rows, columns)
    return joined.reshape(shape.places, -1)


def of_weight(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """dL/dW [C, 1, kh, kw]: what each place of the kernel sees of x, times the gradient, summed over pixels and images.

    Nothing that is made on the way is larger than the map itself.
    """
    if is_tiny(shape):
        total = _of_all_pairs(b, gradient, x, shape)
    elif shape.stride == (1, 1):
        total = _of_shifted_maps(b, gradient, x, shape)
    else:
        total = _of_columns(b, gradient, x, shape)
    return b.op("Reshape", total, b.constant(list(shape.weight)))


def _of_all_pairs(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """Every pixel with every position, over all images, and the sum of the pairs that a place of the kernel joins."""
    pixels = b.op("Transpose", b.op("Reshape", x, b.constant([0, 0, shape.pixels])), perm=[1, 2, 0])
    positions = b.op("Transpose", b.op("Reshape", gradient, b.constant([0, 0, shape.out_pixels])), perm=[1, 0, 2])
    products = b.op("Reshape", b.op("MatMul", pixels, positions), b.constant([shape.inputs, -1]))
    return b.op("MatMul", products, b.constant(pairs(shape).T.copy()))


def _of_shifted_maps(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """Row by row of the kernel the map is moved up and down, column by column the gradient to and fro: fewer copies
    than places of the kernel."""
    (height, width), (top, left) = shape.out_sides, shape.padding
    moved = b.op("Pad", x, b.constant([0, 0, top, 0, 0, 0, top, 0])) if top else x
    rows = [
        b.op("Slice", moved, b.constant([row]), b.constant([row + height]), b.constant([2]))
        if shape.kernel[0] > 1
        else moved
        for row in range(shape.kernel[0])
    ]
    shifts = [(column - left, shape.sides[1] - width - column + left) for column in range(shape.kernel[1])]
    columns = [
        b.op("Pad", gradient, b.constant([0, 0, 0, before, 0, 0, 0, behind])) if before or behind else gradient
        for before, behind in shifts
    ]
    sums = [
        b.op("ReduceSum", b.op("Mul", row, column), b.constant([2, 3]), keepdims=1)
        for row in rows
        for column in columns
    ]
    together = b.op("Concat", *sums, axis=2) if len(sums) > 1 else sums[0]
    return b.op("ReduceSum", together, b.constant([0]), keepdims=0)


def _of_columns(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """For each row of the kernel every column of the map with every column of the gradient, and the sums of the pairs
    that a column of the kernel joins."""
    above, stride, height = shape.padding[0], shape.stride[0], shape.out_sides[0]
    padded = b.op("Pad", x, b.constant([0, 0, above, 0, 0, 0, shape.behind()[0], 0]))
    joined = b.constant(shape.sees(1).reshape(shape.kernel[1], -1).T.copy())
    totals = []
    for row in range(shape.kernel[0]):
        bounds = [row], [row + (height - 1) * stride + 1], [2], [stride]
        seen = b.op("Slice", padded, *(b.constant(bound) for bound in bounds))
        products = b.op("MatMul", b.op("Transpose", seen, perm=[0, 1, 3, 2]), gradient)  # [N, C, W, W']
        products = b.op("ReduceSum", products, b.constant([0]), keepdims=0)
        totals.append(b.op("MatMul", b.op("Reshape", products, b.constant([shape.inputs, -1])), joined))
    return b.op("Concat", *totals, axis=1) if len(totals) > 1 else totals[0]
