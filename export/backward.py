"""Gradients of convolution and max-pool as plain ONNX operations, in the forms that onnxruntime runs fast.

Measured before this was written, on 2 x86 cores: a weight gradient as one Conv with the map as its kernel runs at 36–39
GFLOP/s, as slices and MatMul at 59–64; MaxPool with its Indices output takes 9 times as long as without.
"""

import math

import numpy as np
from onnx import TensorProto
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export.builder import Dim, GraphBuilder

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def require_plain(node: fx.Node, stride, dilation, transposed, groups) -> None:
    """Refuse convolutions other than stride 1, dilation 1, one group."""
    if list(stride) != [1, 1] or list(dilation) != [1, 1] or transposed or groups != 1:
        raise UserError(
            f"cannot export the convolution {node.name}: stride {list(stride)}, dilation {list(dilation)}, groups {groups}, "
            f"transposed {transposed}; only stride 1, dilation 1, one group"
        )


def require_halving(node: fx.Node, kernel, stride, rest) -> None:
    """Refuse max-pools other than 2×2 with stride 2 and no padding."""
    padding, dilation, ceil = (*rest, *([0, 0], [1, 1], False)[len(rest) :])
    if list(kernel) != [2, 2] or list(stride or kernel) != [2, 2] or any(padding) or set(dilation) != {1} or ceil:
        raise UserError(f"cannot export the pool {node.name}: only 2×2 max-pool with stride 2 and no padding")


def convolution_input(b: GraphBuilder, gradient: str, weight: str, shape: tuple[Dim, ...], padding: list[int]) -> str:
    """dL/dx [N, I, H, W]: the gradient [N, O, H, W] convolved with the flipped kernel, in- and outputs exchanged."""
    outputs, inputs, *kernel = shape
    places = math.prod(kernel)
    flipped = weight
    if places > 1:  # a product with a permutation is exact; a Slice with negative steps is slow
        reverse = b.constant(np.eye(places, dtype=np.float32)[::-1])
        flipped = b.op("MatMul", b.op("Reshape", weight, b.constant([outputs * inputs, places])), reverse)
    # Two exchanges of matrices' axes: 1.5 to 3 times faster than one Transpose of single kernels.
    flipped = b.op("Transpose", b.op("Reshape", flipped, b.constant([outputs, inputs * places])), perm=[1, 0])
    if places > 1:
        flipped = b.op("Transpose", b.op("Reshape", flipped, b.constant([inputs, places, outputs])), perm=[0, 2, 1])
    flipped = b.op("Reshape", flipped, b.constant([inputs, outputs, *kernel]))
    pads = [k - 1 - p for k, p in zip(kernel, padding)]
    return b.op("Conv", gradient, flipped, kernel_shape=kernel, pads=[*pads, *pads], strides=[1, 1])


def convolution_weight(
    b: GraphBuilder, gradient: str, x: str, shape_x: tuple[Dim, ...], shape_w: tuple[Dim, ...], padding: list[int]
) -> str:
    """dL/dW [O, I, kh, kw] = Σ_images of products of shifted maps [·, H·W] · [H·W, ·].

    A kernel's place is a shift between gradient and map. Either the map is shifted by all kh·kw of them, where it has few
    channels, or the gradient by the rows' kh and the map by the columns' kw: the same product out of fewer copies.
    """
    outputs, inputs, kh, kw = shape_w
    places = shape_x[2] * shape_x[3]
    if (kh, kw) != (2 * padding[0] + 1, 2 * padding[1] + 1):
        raise UserError(f"cannot export a {kh}×{kw} convolution with padding {padding}: only sizes that keep the map")
    if 2 * kh * kw * inputs < (2 * kh - 1) * outputs + (2 * kw - 1) * inputs:
        x, kernel_rows, kernel_columns = _patches(b, x, shape_x, kh, kw), 1, kh * kw
    else:
        x, kernel_rows, kernel_columns = _shifted(b, x, 3, kw), kh, kw
        gradient = _shifted(b, gradient, 2, kh, opposite=True)
    left = b.op("Reshape", gradient, b.constant([0, kernel_rows * outputs, places]))
    right = b.op("Transpose", b.op("Reshape", x, b.constant([0, kernel_columns * inputs, places])), perm=[0, 2, 1])
    total = b.op("ReduceSum", b.op("MatMul", left, right), b.constant([0]), keepdims=0)
    if kernel_rows > 1:  # [kh, O, kw·I] → [O, kh·kw·I]; two steps are 3 to 6 times faster than one of 4 axes
        blocks = b.op("Reshape", total, b.constant([kernel_rows, outputs, kernel_columns * inputs]))
        total = b.op("Transpose", blocks, perm=[1, 0, 2])
    if kh * kw > 1:
        total = b.op("Transpose", b.op("Reshape", total, b.constant([outputs, kh * kw, inputs])), perm=[0, 2, 1])
    return b.op("Reshape", total, b.constant([outputs, inputs, kh, kw]))


def _patches(b: GraphBuilder, x: str, shape: tuple[Dim, ...], kh: int, kw: int) -> str:
    """The map [N, I, H, W] as every place of a kernel sees it, one after the other: [N, kh·kw·I, H, W]."""
    if kh * kw == 1:
        return x
    height, width = shape[2], shape[3]
    padding = [kh // 2, kw // 2]
    padded = b.op("Pad", x, b.constant([0, 0, *padding, 0, 0, *padding]))
    slices = [
        b.op("Slice", padded, b.constant([i, j]), b.constant([i + height, j + width]), b.constant([2, 3]))
        for i in range(kh) for j in range(kw)
    ]  # fmt: skip
    return b.op("Concat", *slices, axis=1)


def _shifted(b: GraphBuilder, x: str, axis: int, count: int, opposite: bool = False) -> str:
    """The map [N, C, H, W] shifted along an axis by −(count // 2) … count // 2 with zeros behind it: [N, count·C, H, W].

    Shifts as the first to last place of a kernel see the map, or those that undo them.
    """
    if count == 1:
        return x
    parts = []
    for shift in range(count // 2, -(count // 2) - 1, -1):
        shift = -shift if opposite else shift
        before, after = [0] * 4, [0] * 4
        before[axis], after[axis] = shift, -shift
        parts.append(b.op("Pad", x, b.constant([*before, *after])) if shift else x)
    return b.op("Concat", *parts, axis=1)


def max_pool(b: GraphBuilder, gradient: str, x: str, shape: tuple[Dim, ...]) -> str:
    """The gradient of a 2×2 max-pool at its input x [N, C, H, W]: it goes to the first maximum of each window, as in torch.

    Flat image areas give equal values, so ties are common and must be broken the same way. The places of the maxima
    get priorities 4 3 / 2 1 as bytes; the greatest priority of each window wins.
    """
    height, width = shape[2], shape[3]
    even_h, even_w = height // 2 * 2, width // 2 * 2
    if (height, width) != (even_h, even_w):  # the last odd row and column are in no window
        x = b.op("Slice", x, b.constant([0, 0]), b.constant([even_h, even_w]), b.constant([2, 3]))
    pooled = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    is_maximum = b.op("Equal", x, _enlarge(b, pooled))
    tile = np.array([[4, 3], [2, 1]], np.uint8)
    priority = b.constant(np.tile(tile, (even_h // 2, even_w // 2))[None, None])
    candidates = b.op("Where", is_maximum, priority, b.constant(np.uint8(0)))
    winner = b.op("MaxPool", b.op("Cast", candidates, to=FLOAT), kernel_shape=[2, 2], strides=[2, 2])
    is_first = b.op("Equal", candidates, _enlarge(b, b.op("Cast", winner, to=UINT8)))
    result = masked(b, _enlarge(b, gradient), is_first)
    if (height, width) != (even_h, even_w):
        result = b.op("Pad", result, b.constant([0, 0, 0, 0, 0, 0, height - even_h, width - even_w]))
    return result


def masked(b: GraphBuilder, x: str, condition: str) -> str:
    """x where the condition holds, 0 elsewhere: a product, which is faster than Where."""
    return b.op("Mul", x, b.op("Cast", condition, to=FLOAT))


def _enlarge(b: GraphBuilder, x: str) -> str:
    """Each element four times, 2×2."""
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    return b.op(
        "Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
