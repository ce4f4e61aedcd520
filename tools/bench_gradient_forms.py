"""Forms of a gradient in plain ONNX operations against each other, and against torch.

  python tools/bench_gradient_forms.py [--only depthwise] [--images 5 --images 25] [--rounds 7]

For each gradient and shape (those of MobileNetV2 of width 0.35 at 96 pixels, and of ResNets) every form runs on stock
onnxruntime, one thread each, alternating in this process; milliseconds are medians of the rounds, of the process's own
time. All forms must compute what torch does: the exit code is 1 if one does not. "export" is what the product writes.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import numpy as np
import torch
import torch.nn.functional as F
from alternating import alternate

from gems_edge.device.runtime import Session
from gems_edge.export import convolutions, depthwise, pools, weight_gradients
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution, Window

Arrays = dict[str, np.ndarray]
Form = Callable[[GraphBuilder], str]
FORMS: dict[str, dict[str, Callable[..., str]]] = {}
TOLERANCE = 1e-3  # of the largest value


def form(gradient: str, name: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def register(build: Callable[..., str]) -> Callable[..., str]:
        FORMS.setdefault(gradient, {})[name] = build
        return build

    return register


def strided(b: GraphBuilder, x: str, starts: list[int], window: Window) -> str:
    """Every so many pixels of a padded map, as a place of the kernel sees it."""
    ends = [at + (count - 1) * step + 1 for at, count, step in zip(starts, window.out_sides, window.stride)]
    return b.op("Slice", x, b.constant(starts), b.constant(ends), b.constant([2, 3]), b.constant(list(window.stride)))


def padded(b: GraphBuilder, x: str, window: Window, value: float = 0.0) -> str:
    behind = [
        max(0, (count - 1) * step + k - p - side)
        for count, step, k, p, side in zip(window.out_sides, window.stride, window.kernel, window.padding, window.sides)
    ]
    filling = (b.constant(value),) if value else ()
    return b.op("Pad", x, b.constant([0, 0, *window.padding, 0, 0, *behind]), *filling)


def sees(window: Window, axis: int) -> np.ndarray:
    """[k, side, count]: 1 where a place of the kernel sees a pixel from a position."""
    found = np.zeros((window.kernel[axis], window.sides[axis], window.out_sides[axis]), np.float32)
    for place, at in np.ndindex(found.shape[0], found.shape[2]):
        pixel = at * window.stride[axis] + place - window.padding[axis]
        if 0 <= pixel < found.shape[1]:
            found[place, pixel, at] = 1
    return found


# Depthwise, at the weight


@form("depthwise dW", "product and sum of each place's slice")
def _(b: GraphBuilder, s: Convolution) -> str:
    x = padded(b, "x", s)
    sums = [
        b.op("ReduceSum", b.op("Mul", strided(b, x, [i, j], s), "g"), b.constant([2, 3]), keepdims=1)
        for i, j in np.ndindex(*s.kernel)
    ]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "patches and a product per channel")
def _(b: GraphBuilder, s: Convolution) -> str:
    x = padded(b, "x", s)
    patches = [b.op("Unsqueeze", strided(b, x, [i, j], s), b.constant([2])) for i, j in np.ndindex(*s.kernel)]
    rows = b.op("Reshape", b.op("Concat", *patches, axis=2), b.constant([0, 0, s.places, -1]))
    product = b.op("MatMul", rows, b.op("Reshape", "g", b.constant([0, 0, -1, 1])))
    return b.op("ReduceSum", product, b.constant([0]), keepdims=0)


@form("depthwise dW", "convolution by the gradient")
def _(b: GraphBuilder, s: Convolution) -> str:
    behind = [
        (count - 1) * step + k - side - p
        for count, step, k, side, p in zip(s.out_sides, s.stride, s.kernel, s.sides, s.padding)
    ]
    x = b.op(
        "Slice",
        "x",
        b.constant([0, 0]),
        b.constant([h + min(0, e) for h, e in zip(s.sides, behind)]),
        b.constant([2, 3]),
    )
    images = b.op("Shape", "x", start=0, end=1)
    maps = b.op("Reshape", x, b.constant([1, -1, *(h + min(0, e) for h, e in zip(s.sides, behind))]))
    kernels = b.op("Reshape", "g", b.constant([-1, 1, *s.out_sides]))
    y = b.op(
        "Conv", maps, kernels, kernel_shape=list(s.out_sides), dilations=list(s.stride), strides=[1, 1],
        pads=[*s.padding, *(max(0, e) for e in behind)], group=IMAGES * s.inputs,
    )  # fmt: skip
    del images
    return b.op("ReduceSum", b.op("Reshape", y, b.constant([IMAGES, s.inputs, -1])), b.constant([0]), keepdims=0)


@form("depthwise dW", "columns against columns")
def _(b: GraphBuilder, s: Convolution) -> str:
    x = b.op("Pad", "x", b.constant([0, 0, s.padding[0], 0, 0, 0, s.kernel[0], 0]))
    ends = [i + (s.out_sides[0] - 1) * s.stride[0] + 1 for i in range(s.kernel[0])]
    rows = [
        b.op("Slice", x, b.constant([i]), b.constant([end]), b.constant([2]), b.constant([s.stride[0]]))
        for i, end in enumerate(ends)
    ]
    basis = sees(s, 1)
    basis = b.constant(basis.reshape(len(basis), -1).T.copy())
    sums = []
    for row in rows:
        pairs = b.op("MatMul", b.op("Transpose", row, perm=[0, 1, 3, 2]), "g")
        pairs = b.op("Reshape", b.op("ReduceSum", pairs, b.constant([0]), keepdims=0), b.constant([s.inputs, -1]))
        sums.append(b.op("MatMul", pairs, basis))
    return b.op("Concat", *sums, axis=1)


@form("depthwise dW", "columns picked by products")
def _(b: GraphBuilder, s: Convolution) -> str:
    picks, sums = sees(s, 1), {}
    for j, pick in enumerate(picks):
        x = b.op("MatMul", "x", b.constant(pick))  # [N, C, H, W']
        x = b.op("Pad", x, b.constant([0, 0, s.padding[0], 0, 0, 0, s.kernel[0] + s.stride[0], 0]))
        for i in range(s.kernel[0]):
            if s.stride[0] == 1:
                row = b.op("Slice", x, b.constant([i]), b.constant([i + s.out_sides[0]]), b.constant([2]))
            else:
                end = i + s.out_sides[0] * s.stride[0]
                row = b.op("Slice", x, b.constant([i]), b.constant([end]), b.constant([2]))
                row = b.op("Reshape", row, b.constant([0, 0, s.out_sides[0], s.stride[0] * s.out_sides[1]]))
                row = b.op("Slice", row, b.constant([0]), b.constant([s.out_sides[1]]), b.constant([3]))
            sums[i, j] = b.op("ReduceSum", b.op("Mul", row, "g"), b.constant([2, 3]), keepdims=1)
    together = b.op("Concat", *(sums[place] for place in sorted(sums)), axis=2)
    return b.op("ReduceSum", together, b.constant([0]), keepdims=0)


@form("depthwise dW", "rows of x, columns of g")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.stride != (1, 1):
        return ""
    (kh, kw), (p, q), (h, w) = s.kernel, s.padding, s.out_sides
    x = b.op("Pad", "x", b.constant([0, 0, p, 0, 0, 0, p, 0]))
    rows = [b.op("Slice", x, b.constant([i]), b.constant([i + h]), b.constant([2])) for i in range(kh)]
    columns = [b.op("Pad", "g", b.constant([0, 0, 0, j - q, 0, 0, 0, s.sides[1] - w - j + q])) for j in range(kw)]
    sums = [
        b.op("ReduceSum", b.op("Mul", row, column), b.constant([2, 3]), keepdims=1)
        for row in rows
        for column in columns
    ]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "rows of x, columns of g, dot products")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.stride != (1, 1):
        return ""
    (kh, kw), (p, q), (h, w) = s.kernel, s.padding, s.out_sides
    x = b.op("Pad", "x", b.constant([0, 0, p, 0, 0, 0, p, 0]))
    rows = [b.op("Slice", x, b.constant([i]), b.constant([i + h]), b.constant([2])) for i in range(kh)]
    columns = [b.op("Pad", "g", b.constant([0, 0, 0, j - q, 0, 0, 0, s.sides[1] - w - j + q])) for j in range(kw)]
    rows = [b.op("Reshape", row, b.constant([0, 0, 1, -1])) for row in rows]
    columns = [b.op("Reshape", column, b.constant([0, 0, -1, 1])) for column in columns]
    sums = [b.op("MatMul", row, column) for row in rows for column in columns]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "slices, dot products")
def _(b: GraphBuilder, s: Convolution) -> str:
    x, g = padded(b, "x", s), b.op("Reshape", "g", b.constant([0, 0, -1, 1]))
    rows = [b.op("Reshape", strided(b, x, [i, j], s), b.constant([0, 0, 1, -1])) for i, j in np.ndindex(*s.kernel)]
    sums = [b.op("MatMul", row, g) for row in rows]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "all pairs of pixels")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.pixels > 150:
        return ""
    x = b.op("Transpose", b.op("Reshape", "x", b.constant([0, 0, s.pixels])), perm=[1, 2, 0])
    g = b.op("Transpose", b.op("Reshape", "g", b.constant([0, 0, s.out_pixels])), perm=[1, 0, 2])
    pairs = b.op("Reshape", b.op("MatMul", x, g), b.constant([s.inputs, -1]))
    return b.op("MatMul", pairs, b.constant(_all_pairs(s).reshape(s.places, -1).T.copy()))


def _all_pairs(s: Window) -> np.ndarray:
    """[k·k, pixels, positions]"""
    rows, columns = sees(s, 0), sees(s, 1)
    pairs = np.einsum("iyp,jxq->ijyxpq", rows, columns)
    return pairs.reshape(s.places, s.pixels, s.out_pixels)


@form("depthwise dW", "export")
def _(b: GraphBuilder, s: Convolution) -> str:
    return depthwise.of_weight(b, "g", "x", s)


# Depthwise, forward


@form("depthwise y", "Conv")
def _(b: GraphBuilder, s: Convolution) -> str:
    return b.op("Conv", "x", "w", **s.attributes())


def _matrices(b: GraphBuilder, s: Convolution) -> str:
    """[C, pixels, positions]: each channel's convolution as a matrix."""
    flat = b.op("Reshape", "w", b.constant([s.inputs, s.places]))
    matrices = b.op("MatMul", flat, b.constant(_all_pairs(s).reshape(s.places, -1)))
    return b.op("Reshape", matrices, b.constant([s.inputs, s.pixels, s.out_pixels]))


@form("depthwise y", "a matrix per channel, all images")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.pixels > 150:
        return ""
    x = b.op("Transpose", b.op("Reshape", "x", b.constant([0, 0, s.pixels])), perm=[1, 0, 2])
    y = b.op("Transpose", b.op("MatMul", x, _matrices(b, s)), perm=[1, 0, 2])
    return b.op("Reshape", y, b.constant([0, 0, *s.out_sides]))


@form("depthwise y", "a matrix per channel, each image")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.pixels > 150:
        return ""
    x = b.op("Reshape", "x", b.constant([0, 0, 1, s.pixels]))
    y = b.op("MatMul", x, b.op("Unsqueeze", _matrices(b, s), b.constant([0])))
    return b.op("Reshape", y, b.constant([0, 0, *s.out_sides]))


# Depthwise and dense, at the input


def _zeros_between(b: GraphBuilder, s: Convolution) -> str:
    """The gradient with zeros between its pixels: columns by a product, rows by padding."""
    (sh, sw), (height, width) = s.stride, s.out_sides
    g = "g"
    if sw > 1:
        put = np.zeros((width, width * sw), np.float32)
        put[np.arange(width), np.arange(width) * sw] = 1
        g = b.op("MatMul", g, b.constant(put))
    if sh > 1:
        g = b.op("Reshape", g, b.constant([0, 0, height, width * sw]))
        g = b.op("Pad", g, b.constant([0, 0, 0, 0, 0, 0, 0, width * sw * (sh - 1)]))
        g = b.op("Reshape", g, b.constant([0, 0, height * sh, width * sw]))
    return g


def _conv_of_zeros(b: GraphBuilder, s: Convolution, g: str) -> str:
    sides = [count * step for count, step in zip(s.out_sides, s.stride)]
    before = [k - 1 - p for k, p in zip(s.kernel, s.padding)]
    behind = [side + k - 1 - f - have for side, k, f, have in zip(s.sides, s.kernel, before, sides)]
    if min(behind) < 0:
        ends = [have + min(0, e) for have, e in zip(sides, behind)]
        g = b.op("Slice", g, b.constant([0, 0]), b.constant(ends), b.constant([2, 3]))
    flipped = (convolutions._flipped if s.groups == 1 else convolutions._flipped_in_groups)(b, "w", s)
    groups = {"group": s.groups} if s.groups > 1 else {}
    return b.op(
        "Conv",
        g,
        flipped,
        kernel_shape=list(s.kernel),
        pads=[*before, *(max(0, e) for e in behind)],
        strides=[1, 1],
        **groups,
    )


@form("dX", "Conv of zeros put between by a product")
def _(b: GraphBuilder, s: Convolution) -> str:
    return _conv_of_zeros(b, s, _zeros_between(b, s))


@form("dX", "Conv of zeros put between by Resize")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.stride == (1, 1):
        return ""
    mask = np.zeros((1, 1, *(c * t for c, t in zip(s.out_sides, s.stride))), np.float32)
    mask[:, :, :: s.stride[0], :: s.stride[1]] = 1
    return _conv_of_zeros(b, s, b.op("Mul", pools.enlarge(b, "g", s.stride), b.constant(mask)))


@form("dX", "ConvTranspose")
def _(b: GraphBuilder, s: Convolution) -> str:
    left = [
        side - ((count - 1) * step + k - 2 * p)
        for side, count, step, k, p in zip(s.sides, s.out_sides, s.stride, s.kernel, s.padding)
    ]
    groups = {"group": s.groups} if s.groups > 1 else {}
    return b.op("ConvTranspose", "g", "w", **(s.attributes() | groups), output_padding=left)


@form("dX", "phases as channels, DepthToSpace")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.stride != (2, 2) or s.sides[0] % 2 or s.sides[1] % 2:
        return ""
    whole = convolutions._interleaved
    try:
        convolutions._interleaved = lambda b, phases, *_: b.op("DepthToSpace", phases, blocksize=2, mode="CRD")
        return convolutions._of_input_by_phases(b, "g", "w", s)
    finally:
        convolutions._interleaved = whole


@form("dX", "phases as channels, a product interleaves")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.stride[0] == 1:
        return ""
    whole = convolutions._interleaved

    def interleaved(b, phases, shape, steps, counts):
        (sh, sw), (height, width) = steps, counts
        put = np.zeros((sw, width, width, sw), np.float32)
        for j in range(sw):
            put[j, np.arange(width), np.arange(width), j] = 1
        x = b.op("Reshape", phases, b.constant([0, shape.inputs, sh, sw, height, width]))
        x = b.op("Transpose", x, perm=[0, 1, 4, 2, 3, 5])
        x = b.op("Reshape", x, b.constant([0, shape.inputs, height * sh, sw * width]))
        x = b.op("MatMul", x, b.constant(put.reshape(sw * width, width * sw)))
        if (height * sh, width * sw) == shape.sides:
            return x
        return b.op("Slice", x, b.constant([0, 0]), b.constant(list(shape.sides)), b.constant([2, 3]))

    try:
        convolutions._interleaved = interleaved
        return convolutions._of_input_by_phases(b, "g", "w", s)
    finally:
        convolutions._interleaved = whole


@form("dX", "a matrix per channel, all images")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.pixels > 150 or not s.is_depthwise:
        return ""
    g = b.op("Transpose", b.op("Reshape", "g", b.constant([0, 0, s.out_pixels])), perm=[1, 0, 2])
    y = b.op("MatMul", g, b.op("Transpose", _matrices(b, s), perm=[0, 2, 1]))
    return b.op("Reshape", b.op("Transpose", y, perm=[1, 0, 2]), b.constant([0, 0, *s.sides]))


@form("dX", "export")
def _(b: GraphBuilder, s: Convolution) -> str:
    return convolutions.of_input(b, "g", "w", s)


# Dense and grouped, at the weight


@form("dW", "export")
def _(b: GraphBuilder, s: Convolution) -> str:
    return weight_gradients.of_weight(b, "g", "x", s)


@form("dW", "slices and a product each")
def _(b: GraphBuilder, s: Convolution) -> str:
    o, i, *_ = s.weight
    x = padded(b, "x", s) if any(s.padding) or s.places > 1 else "x"
    left = b.op("Reshape", "g", b.constant([0, s.groups, o // s.groups, s.out_pixels]))
    totals = []
    for place in np.ndindex(*s.kernel):
        rows = b.op("Reshape", strided(b, x, list(place), s), b.constant([0, s.groups, i, s.out_pixels]))
        product = b.op("MatMul", left, b.op("Transpose", rows, perm=[0, 1, 3, 2]))
        totals.append(b.op("Unsqueeze", b.op("ReduceSum", product, b.constant([0]), keepdims=0), b.constant([3])))
    total = b.op("Concat", *totals, axis=3) if len(totals) > 1 else totals[0]
    return b.op("Reshape", total, b.constant(list(s.weight)))


@form("dW", "convolution of the map by the gradient")
def _(b: GraphBuilder, s: Convolution) -> str:
    if s.groups > 1:
        return ""
    behind = [
        (count - 1) * step + k - side - p
        for count, step, k, side, p in zip(s.out_sides, s.stride, s.kernel, s.sides, s.padding)
    ]
    ends = [side + min(0, e) for side, e in zip(s.sides, behind)]
    x = b.op("Slice", "x", b.constant([0, 0]), b.constant(ends), b.constant([2, 3])) if min(behind) < 0 else "x"
    y = b.op(
        "Conv", b.op("Transpose", x, perm=[1, 0, 2, 3]), b.op("Transpose", "g", perm=[1, 0, 2, 3]),
        kernel_shape=list(s.out_sides), dilations=list(s.stride), strides=[1, 1],
        pads=[*s.padding, *(max(0, e) for e in behind)],
    )  # fmt: skip
    return b.op("Transpose", y, perm=[1, 0, 2, 3])


# Pools


@form("max-pool dX", "export")
def _(b: GraphBuilder, s: Convolution) -> str:
    w = Window(s.kernel, s.stride, s.padding, s.sides)
    return (
        pools.of_separate_windows(b, "g", "x", w)
        if s.kernel == s.stride
        else pools.of_windows(b, "g", "x", s.inputs, w)
    )


@form("max-pool dX", "places in turn")
def _(b: GraphBuilder, s: Convolution) -> str:
    w = Window(s.kernel, s.stride, s.padding, s.sides)
    return pools.of_windows(b, "g", "x", s.inputs, w) if s.kernel == s.stride else ""


@form("max-pool dX", "Indices and ScatterElements")
def _(b: GraphBuilder, s: Convolution) -> str:
    _, indices = b.node("MaxPool", ["x"], 2, **Window.attributes(s))
    flat = b.constant([-1])
    zeros = b.op("Reshape", b.op("Mul", "x", b.constant(0.0)), flat)
    total = b.op(
        "ScatterElements", zeros, b.op("Reshape", indices, flat), b.op("Reshape", "g", flat), axis=0, reduction="add"
    )
    return b.op("Reshape", total, b.op("Shape", "x"))


@form("average-pool dX", "export")
def _(b: GraphBuilder, s: Convolution) -> str:
    return pools.of_average(b, "g", s, True, float(s.places))


@form("average-pool dX", "depthwise convolution by phases")
def _(b: GraphBuilder, s: Convolution) -> str:
    weight = b.constant(np.full(s.weight, 1 / s.places, np.float32))
    return convolutions.of_input(b, "g", weight, s)


@form("average-pool dX", "AveragePool of zeros put between")
def _(b: GraphBuilder, s: Convolution) -> str:
    sides = [count * step for count, step in zip(s.out_sides, s.stride)]
    before = [k - 1 - p for k, p in zip(s.kernel, s.padding)]
    behind = [side + k - 1 - f - have for side, k, f, have in zip(s.sides, s.kernel, before, sides)]
    x = b.op("Pad", _zeros_between(b, s), b.constant([0, 0, *before, 0, 0, *behind]))
    return b.op("AveragePool", x, kernel_shape=list(s.kernel), strides=[1, 1])


def _channels(channels: int, side: int, kernel: int, stride: int) -> Convolution:
    return Convolution((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (side,) * 2, channels, channels, channels)


def _dense(inputs: int, outputs: int, side: int, kernel: int, stride: int, groups: int = 1) -> Convolution:
    return Convolution((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (side,) * 2, inputs, outputs, groups)


def _pool(channels: int, side: int, kernel: int, stride: int, padding: int) -> Convolution:
    return Convolution((kernel,) * 2, (stride,) * 2, (padding,) * 2, (side,) * 2, channels, channels, channels)


DEPTHWISE = [
    _channels(16, 48, 3, 1), _channels(48, 48, 3, 2), _channels(48, 24, 3, 1), _channels(48, 24, 3, 2),
    _channels(96, 12, 3, 1), _channels(72, 24, 5, 2), _channels(96, 12, 3, 2), _channels(144, 6, 3, 1),
    _channels(192, 6, 3, 2), _channels(240, 6, 5, 1), _channels(336, 3, 3, 1),
]  # fmt: skip
DENSE = [
    _dense(3, 16, 96, 3, 2), _dense(32, 64, 24, 3, 2), _dense(64, 128, 12, 3, 2), _dense(64, 128, 24, 1, 2),
    _dense(8, 48, 48, 1, 1), _dense(16, 96, 12, 1, 1), _dense(112, 336, 3, 1, 1), _dense(64, 64, 24, 3, 1, 4),
    _dense(64, 64, 24, 3, 2, 16),
]  # fmt: skip
POOLS = [_pool(64, 48, 3, 2, 1), _pool(64, 12, 3, 1, 1), _pool(64, 24, 3, 3, 0), _pool(64, 24, 2, 2, 0)]
CASES = {
    "depthwise y": DEPTHWISE,
    "depthwise dW": DEPTHWISE,
    "dX": [*DEPTHWISE, *DENSE[1:]],
    "dW": DENSE,
    "max-pool dX": POOLS,
    "average-pool dX": POOLS,
}
IMAGES = 5  # of the case that is being built


def references(gradient: str, s: Convolution, arrays: Arrays) -> Callable[[], torch.Tensor]:
    x, w, g = (torch.from_numpy(arrays[name]) for name in "xwg")
    if gradient == "depthwise y":
        return lambda: F.conv2d(x, w, None, s.stride, s.padding, groups=s.groups)
    if gradient == "max-pool dX":
        _, indices = F.max_pool2d(x, s.kernel, s.stride, s.padding, return_indices=True)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: backward(g, x, s.kernel, s.stride, s.padding, (1, 1), False, indices)
    if gradient == "average-pool dX":
        return lambda: torch.ops.aten.avg_pool2d_backward(g, x, s.kernel, s.stride, s.padding, False, True, None)
    needed = (gradient == "dX", gradient != "dX", False)
    form = (s.stride, s.padding, (1, 1), False, (0, 0), s.groups, needed)
    return lambda: torch.ops.aten.convolution_backward(g, x, w, None, *form)[0 if needed[0] else 1]


def session(build: Callable[..., str], s: Convolution, arrays: Arrays) -> Callable[[], np.ndarray] | None:
    b = GraphBuilder("form")
    for name, array in arrays.items():
        b.input(name, ["images", *array.shape[1:]] if name != "w" else array.shape)
    result = build(b, s)
    if not result:
        return None
    b.output("result", b.op("Reshape", result, b.constant([-1])), ["size"])
    loaded = Session(b.model().SerializeToString(), "form", threads=1, channel_blocks=False)
    feeds = {name: array for name, array in arrays.items() if name in loaded.inputs}
    return lambda: loaded.run(["result"], feeds)[0]


@dataclass(frozen=True)
class Result:
    gradient: str
    shape: Convolution
    images: int
    milliseconds: dict[str, float]
    wrong: list[str]


def measure(gradient: str, s: Convolution, images: int, rounds: int) -> Result:
    global IMAGES
    IMAGES = images
    random = np.random.default_rng(0)
    shapes = {"x": (images, s.inputs, *s.sides), "w": s.weight, "g": (images, s.outputs, *s.out_sides)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    calls = {"torch": references(gradient, s, arrays)}
    calls |= {name: call for name, build in FORMS[gradient].items() if (call := session(build, s, arrays))}
    expected = calls["torch"]().numpy().ravel()
    largest = np.abs(expected).max()
    wrong = [
        name
        for name, call in calls.items()
        if np.abs(np.asarray(call()).ravel() - expected).max() > TOLERANCE * largest
    ]
    found = alternate(calls, rounds=rounds, block_seconds=0.03, clock="cpu")
    return Result(gradient, s, images, {name: float(np.median(times)) for name, times in found.items()}, wrong)


def title(s: Convolution) -> str:
    channels = f"{s.inputs}" if s.is_depthwise else f"{s.inputs} → {s.outputs}"
    groups = f" in {s.groups} groups" if s.groups > 1 and not s.is_depthwise else ""
    kernel, stride = "×".join(map(str, s.kernel)), s.stride[0]
    return f"{channels}{groups}, {s.sides[0]} px, {kernel}" + (f" by {stride}" if stride > 1 else "")


def results(only: str, images: tuple[int, ...], rounds: int) -> Iterator[Result]:
    for gradient, shapes in CASES.items():
        if only in gradient:
            for count in images:
                for shape in shapes:
                    yield measure(gradient, shape, count, rounds)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", help="Part of a gradient's name.")
@click.option("--images", multiple=True, type=int, default=(5, 25), show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(only: str, images: tuple[int, ...], rounds: int) -> None:
    torch.set_num_threads(1)
    heading, wrong = "", False
    for result in results(only, images, rounds):
        forms = ["torch", *FORMS[result.gradient]]
        if heading != result.gradient:
            heading = result.gradient
            print(f"\n{heading}, ms\n\n| shape | images | {' | '.join(forms)} |\n|---|---|{'---|' * len(forms)}")
        cells = [f"{result.milliseconds[name]:.2f}" if name in result.milliseconds else "" for name in forms]
        print(f"| {title(result.shape)} | {result.images} | {' | '.join(cells)} |", flush=True)
        for name in result.wrong:
            wrong = True
            print(f"{name} differs from torch", file=sys.stderr)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
