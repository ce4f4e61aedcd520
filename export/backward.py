"""Gradients of convolution and max-pool as plain ONNX operations, in the forms that onnxruntime runs fast.

Measured before this was written, on 2 x86 cores: a weight gradient as one Conv with the map as its kernel runs at 36–39
GFLOP/s, as slices and MatMul at 59–64; MaxPool with its Indices output takes 9 times as long as without.
"""

import numpy as np
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export.builder import Dim, GraphBuilder


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
    kernel = list(shape[2:])
    flipped = b.op("Transpose", weight, perm=[1, 0, 2, 3])
    if kernel != [1, 1]:
        end = np.iinfo(np.int64).min
        flipped = b.op(
            "Slice", flipped, b.constant([-1, -1]), b.constant([end, end]), b.constant([2, 3]), b.constant([-1, -1])
        )
    pads = [k - 1 - p for k, p in zip(kernel, padding)]
    return b.op("Conv", gradient, flipped, kernel_shape=kernel, pads=[*pads, *pads], strides=[1, 1])


def convolution_weight(
    b: GraphBuilder, gradient: str, x: str, shape_x: tuple[Dim, ...], shape_w: tuple[Dim, ...], padding: list[int]
) -> str:
    """dL/dW [O, I, kh, kw] = Σ_images patches [k·I, H·W] · gradientᵀ [H·W, O].

    The patches are kh·kw shifted slices side by side, so that they need no transposition: only the gradient, kh·kw
    times smaller, is transposed.
    """
    outputs, inputs, kh, kw = shape_w
    height, width = shape_x[2], shape_x[3]
    if (kh, kw) != (2 * padding[0] + 1, 2 * padding[1] + 1):
        raise UserError(f"cannot export a {kh}×{kw} convolution with padding {padding}: only sizes that keep the map")
    if kh * kw > 1:
        padded = b.op("Pad", x, b.constant([0, 0, *padding, 0, 0, *padding]))
        axes = b.constant([2, 3])
        slices = [
            b.op("Slice", padded, b.constant([i, j]), b.constant([i + height, j + width]), axes)
            for i in range(kh) for j in range(kw)
        ]  # fmt: skip
        x = b.op("Concat", *slices, axis=1)
    patches = b.op("Reshape", x, b.constant([0, kh * kw * inputs, height * width]))
    rows = b.op("Transpose", b.op("Reshape", gradient, b.constant([0, outputs, height * width])), perm=[0, 2, 1])
    products = b.op("MatMul", patches, rows)  # [N, kh·kw·I, O]
    total = b.op("ReduceSum", products, b.constant([0]), keepdims=0)
    return b.op("Transpose", b.op("Reshape", total, b.constant([kh, kw, inputs, outputs])), perm=[3, 2, 0, 1])


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
    winner = b.op("MaxPool", candidates, kernel_shape=[2, 2], strides=[2, 2])
    is_first = b.op("Equal", candidates, _enlarge(b, winner))
    result = b.op("Where", is_first, _enlarge(b, gradient), b.constant(0.0))
    if (height, width) != (even_h, even_w):
        result = b.op("Pad", result, b.constant([0, 0, 0, 0, 0, 0, height - even_h, width - even_w]))
    return result


def _enlarge(b: GraphBuilder, x: str) -> str:
    """Each element four times, 2×2."""
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    return b.op(
        "Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
