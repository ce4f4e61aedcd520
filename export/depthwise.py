"""Convolutions of single channels and their gradients in the forms that onnxruntime runs fast.

docs/gradient_graph.md has what was measured.
"""

import numpy as np

from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution

# So few pairs of a pixel and a position: each channel's convolution is a matrix of them, and one product of it and the
# pixels of all images takes less than a call of onnxruntime's convolution for every channel of every image.
TINY_PAIRS = 36 * 36
# Of maps with no more columns, products of every column with every column take less than sums of shifted maps.
NARROW = 12


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
    elif shape.stride == (1, 1) and shape.sides[1] > NARROW:
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
    if shape.out_sides == shape.sides:
        rows = [_moved(b, x, shape, 2, top - row) for row in range(shape.kernel[0])]
        columns = [_moved(b, gradient, shape, 3, column - left) for column in range(shape.kernel[1])]
    else:
        around = b.op("Pad", x, b.constant([0, 0, top, 0, 0, 0, top, 0])) if top else x
        rows = [_rows(b, around, row, row + height, shape.sides[0] + 2 * top) for row in range(shape.kernel[0])]
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


def _moved(b: GraphBuilder, x: str, shape: Convolution, axis: int, by: int) -> str:
    """The map [N, C, H, W] moved by so many rows (axis 2) or columns (axis 3), with zeros where nothing comes from.

    What would leave it is zero first: each image then moves as one long row, where a Pad of every short one takes
    twice as long.
    """
    side = shape.sides[axis - 2]
    if not by:
        return x
    stays = np.arange(side) < side - by if by > 0 else np.arange(side) >= -by
    mask = np.broadcast_to(stays[:, None] if axis == 2 else stays, shape.sides).astype(np.float32)
    flat = b.op("Reshape", b.op("Mul", x, b.constant(mask)), b.constant([0, shape.inputs * shape.pixels]))
    steps = by * (shape.sides[1] if axis == 2 else 1)
    moved = b.op("Pad", flat, b.constant([0, steps, 0, -steps]))
    return b.op("Reshape", moved, b.constant([0, shape.inputs, *shape.sides]))


def _of_columns(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """For each row of the kernel every column of the map with every column of the gradient, and the sums of the pairs
    that a column of the kernel joins.

    Rows of the map that one position of the kernel sees lie behind each other, `stride` of them as one long row: of
    those that several rows of the kernel see there is one product, and nothing is padded.
    """
    (stride, above), (height, width) = (shape.stride[0], shape.padding[0]), shape.sides
    lacking = -height % stride
    if lacking:
        x = b.op("Pad", x, b.constant([0, 0, 0, 0, 0, 0, lacking, 0]))
    groups = (height + lacking) // stride
    rows = x if stride == 1 else b.op("Reshape", x, b.constant([0, 0, groups, stride * width]))
    joined = b.constant(shape.sees(1).reshape(shape.kernel[1], -1).T.copy())
    totals = []
    for group, members in _rows_by_group(shape.kernel[0], stride, above):
        first, last = max(0, -group), min(shape.out_sides[0], groups - group)  # the positions that see any of them
        if first >= last:
            totals.append(b.constant(np.zeros((shape.inputs, len(members), shape.kernel[1]), np.float32)))
            continue
        seen = _rows(b, rows, first + group, last + group, groups)
        if len(members) < stride:
            ends = [members[0] * width], [(members[-1] + 1) * width]
            seen = b.op("Slice", seen, *map(b.constant, ends), b.constant([3]))
        own = _rows(b, gradient, first, last, shape.out_sides[0])
        products = b.op("MatMul", b.op("Transpose", seen, perm=[0, 1, 3, 2]), own)  # [N, C, members · W, W']
        products = b.op("ReduceSum", products, b.constant([0]), keepdims=0)
        pairs_of = b.op("Reshape", products, b.constant([shape.inputs, len(members), width * shape.out_sides[1]]))
        totals.append(b.op("MatMul", pairs_of, joined))
    return b.op("Concat", *totals, axis=1) if len(totals) > 1 else totals[0]


def _rows_by_group(rows: int, stride: int, above: int) -> list[tuple[int, list[int]]]:
    """For the rows of a kernel in order: which group of `stride` rows of the map, counted from the position's own, and
    which members of it they see."""
    groups: dict[int, list[int]] = {}
    for row in range(rows):
        group, member = divmod(row - above, stride)
        groups.setdefault(group, []).append(member)
    return list(groups.items())


def _rows(b: GraphBuilder, x: str, first: int, last: int, count: int) -> str:
    """Rows `first` to `last` of the `count` that x [N, C, count, W] has."""
    if (first, last) == (0, count):
        return x
    return b.op("Slice", x, b.constant([first]), b.constant([last]), b.constant([2]))
