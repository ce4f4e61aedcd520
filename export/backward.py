"""Gradients of convolution and max-pool as plain ONNX operations, in the forms that onnxruntime runs fast.

Measured before this was written, on 2 x86 cores: a weight gradient as one Conv with the map as its kernel runs at 36–39
GFLOP/s, as patches and MatMul at 59–64; MaxPool with its Indices output takes 9 times as long as without.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export.builder import GraphBuilder

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
# So many patches a pixel are picked by a convolution: as many multiplications for each of them.
FEW_PATCHES = 32
# Patches of one image that are larger than this are made of one row of the kernel at a time.
PATCHES_BYTES = 1 << 20


class ConvolutionForm(NamedTuple):
    """As ATen hands it to a convolution."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int


class PoolForm(NamedTuple):
    """As ATen hands it to a max-pool."""

    kernel: Sequence[int]
    stride: Sequence[int] | None = None
    padding: Sequence[int] = (0, 0)
    dilation: Sequence[int] = (1, 1)
    ceil: bool = False


def require_plain(node: fx.Node, form: ConvolutionForm) -> None:
    """Refuse convolutions other than stride 1, dilation 1, one group."""
    stride, dilation = list(form.stride), list(form.dilation)
    if stride != [1, 1] or dilation != [1, 1] or form.transposed or form.groups != 1:
        raise UserError(
            f"cannot export the convolution {node.name}: stride {stride}, dilation {dilation}, groups {form.groups}, "
            f"transposed {form.transposed}; only stride 1, dilation 1, one group"
        )


def require_halving(node: fx.Node, form: PoolForm) -> None:
    """Refuse max-pools other than 2×2 with stride 2 and no padding."""
    kernel, stride, padding, dilation, ceil = form
    if list(kernel) != [2, 2] or list(stride or kernel) != [2, 2] or any(padding) or set(dilation) != {1} or ceil:
        raise UserError(f"cannot export the pool {node.name}: only 2×2 max-pool with stride 2 and no padding")


def convolution_input(
    b: GraphBuilder, gradient: str, weight: str, shape: tuple[int, ...], padding: Sequence[int]
) -> str:
    """dL/dx [N, I, H, W]: the gradient [N, O, H, W] convolved with the flipped kernel, in- and outputs exchanged."""
    outputs, inputs, *kernel = shape
    if math.prod(kernel) > 1:
        # As a matrix for each of the kernel's places: one Transpose of single filters takes up to twice as long.
        places = b.op("Transpose", weight, perm=[2, 3, 0, 1])
        places = b.op("Reshape", places, b.constant([-1, outputs, inputs]))
        reverse = b.constant(np.arange(math.prod(kernel))[::-1].copy())
        places = b.op("Transpose", b.op("Gather", places, reverse, axis=0), perm=[0, 2, 1])
        flipped = b.op("Transpose", b.op("Reshape", places, b.constant([*kernel, inputs, outputs])), perm=[2, 3, 0, 1])
    else:
        matrix = b.op("Transpose", b.op("Reshape", weight, b.constant([outputs, inputs])), perm=[1, 0])
        flipped = b.op("Reshape", matrix, b.constant([inputs, outputs, *kernel]))
    pads = [k - 1 - p for k, p in zip(kernel, padding)]
    return b.op("Conv", gradient, flipped, kernel_shape=kernel, pads=[*pads, *pads], strides=[1, 1])


def convolution_weight(
    b: GraphBuilder, gradient: str, x: str, sides: tuple[int, ...], shape: tuple[int, ...], padding: Sequence[int]
) -> str:
    """dL/dW [O, I, kh, kw] = Σ_images G·Pᵀ of the gradient G [O, H·W] and the map's patches P [I·kh·kw, H·W], what each
    place of the kernel sees of it. `sides`: H, W; `shape`: of the weight.

    As a product for each image and a sum over the images, which streaming.py can run image by image and products.py can
    make one product of.
    """
    outputs, inputs, kh, kw = shape
    height, width = sides
    if (kh, kw) != (2 * padding[0] + 1, 2 * padding[1] + 1):
        raise UserError(f"cannot export a {kh}×{kw} convolution with padding {padding}: only sizes that keep the map")
    first = b.constant([0])
    if inputs * kh * kw <= FEW_PATCHES or kh * kw == 1:
        x = _patches(b, x, inputs, kh, kw)
        left = b.op("Reshape", gradient, b.constant([0, outputs, height * width]))
        right = b.op("Reshape", x, b.constant([0, inputs * kh * kw, height * width]))
        total = b.op("MatMul", left, b.op("Transpose", right, perm=[0, 2, 1]))
        return b.op("Reshape", b.op("ReduceSum", total, first, keepdims=0), b.constant([outputs, inputs, kh, kw]))
    # Pixels as rows of channels: a patch is then a few rows, copied whole. One more row is the padding.
    pixels = b.op("Reshape", x, b.constant([0, inputs, height * width]))
    pixels = b.op("Pad", b.op("Transpose", pixels, perm=[0, 2, 1]), b.constant([0, 0, 0, 0, 1, 0]))
    left = b.op("Reshape", gradient, b.constant([0, 1, outputs, height * width]))
    seen = _places(height, width, kh, kw)
    rows = kh * kw if 4 * inputs * seen.size <= PATCHES_BYTES else kw  # of the kernel's places at a time
    totals = [
        b.op("ReduceSum", b.op("MatMul", left, b.op("Gather", pixels, b.constant(part), axis=1)), first, keepdims=0)
        for part in seen.reshape(-1, rows, height * width)
    ]  # fmt: skip
    total = b.op("Concat", *totals, axis=0) if len(totals) > 1 else totals[0]
    total = b.op("Reshape", total, b.constant([kh, kw, outputs, inputs]))
    return b.op("Transpose", total, perm=[2, 3, 0, 1])


def _patches(b: GraphBuilder, x: str, inputs: int, kh: int, kw: int) -> str:
    """The map [N, I, H, W] as every place of a kernel sees it: [N, I·kh·kw, H, W], by a convolution that picks them."""
    if kh * kw == 1:
        return x
    places = inputs * kh * kw
    pick = np.eye(places, dtype=np.float32).reshape(places, inputs, kh, kw)
    pads = [kh // 2, kw // 2] * 2
    return b.op("Conv", x, b.constant(pick), kernel_shape=[kh, kw], pads=pads, strides=[1, 1])


def _places(height: int, width: int, kh: int, kw: int) -> np.ndarray:
    """[kh·kw, H·W]: which pixel of a map each place of a kernel sees from each pixel; H·W outside the map."""
    pixels = np.pad(
        np.arange(height * width, dtype=np.int32).reshape(height, width),
        ((kh // 2, kh // 2), (kw // 2, kw // 2)),
        constant_values=height * width,
    )
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (height, width))
    return windows.reshape(kh * kw, height * width)


def max_pool(b: GraphBuilder, gradient: str, x: str, sides: tuple[int, ...]) -> str:
    """The gradient of a 2×2 max-pool at its input x [N, C, H, W], `sides` H, W: it goes to the first maximum of each
    window, as in torch.

    Flat image areas give equal values, so ties are common and must be broken the same way. The places of the maxima
    get priorities 4 3 / 2 1 as bytes; the greatest priority of each window wins.
    """
    height, width = sides
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
