"""Forms of a gradient in plain ONNX operations: those that export writes, and what they were measured against.

A form reads x [N, C, H, W], w (a weight) and g (the gradient at the result); "" where it does not apply.
"""

from collections.abc import Callable

import numpy as np

from gems_edge.export import convolutions, depthwise, pools, weight_gradients
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution, Window
from gems_edge.export.windows import padded, seen_from

# (builder, shape, number of images) → the name of the result
Form = Callable[[GraphBuilder, Convolution, int], str]
# gradient → name of the form → the form
FORMS: dict[str, dict[str, Form]] = {}


def form(gradient: str, name: str) -> Callable[[Form], Form]:
    def register(build: Form) -> Form:
        FORMS.setdefault(gradient, {})[name] = build
        return build

    return register


# Depthwise, at the weight


@form("depthwise dW", "product and sum of each place's slice")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    x = padded(b, "x", s)
    sums = [
        b.op("ReduceSum", b.op("Mul", seen_from(b, x, s, (i, j)), "g"), b.constant([2, 3]), keepdims=1)
        for i, j in np.ndindex(*s.kernel)
    ]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "patches and a product per channel")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    x = padded(b, "x", s)
    patches = [b.op("Unsqueeze", seen_from(b, x, s, (i, j)), b.constant([2])) for i, j in np.ndindex(*s.kernel)]
    rows = b.op("Reshape", b.op("Concat", *patches, axis=2), b.constant([0, 0, s.places, -1]))
    product = b.op("MatMul", rows, b.op("Reshape", "g", b.constant([0, 0, -1, 1])))
    return b.op("ReduceSum", product, b.constant([0]), keepdims=0)


@form("depthwise dW", "convolution by the gradient")
def _(b: GraphBuilder, s: Convolution, images: int) -> str:
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
    maps = b.op("Reshape", x, b.constant([1, -1, *(h + min(0, e) for h, e in zip(s.sides, behind))]))
    kernels = b.op("Reshape", "g", b.constant([-1, 1, *s.out_sides]))
    y = b.op(
        "Conv", maps, kernels, kernel_shape=list(s.out_sides), dilations=list(s.stride), strides=[1, 1],
        pads=[*s.padding, *(max(0, e) for e in behind)], group=images * s.inputs,
    )  # fmt: skip
    return b.op("ReduceSum", b.op("Reshape", y, b.constant([images, s.inputs, -1])), b.constant([0]), keepdims=0)


@form("depthwise dW", "columns against columns")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    x = b.op("Pad", "x", b.constant([0, 0, s.padding[0], 0, 0, 0, s.kernel[0], 0]))
    ends = [i + (s.out_sides[0] - 1) * s.stride[0] + 1 for i in range(s.kernel[0])]
    rows = [
        b.op("Slice", x, b.constant([i]), b.constant([end]), b.constant([2]), b.constant([s.stride[0]]))
        for i, end in enumerate(ends)
    ]
    basis = s.sees(1)
    basis = b.constant(basis.reshape(len(basis), -1).T.copy())
    sums = []
    for row in rows:
        pairs = b.op("MatMul", b.op("Transpose", row, perm=[0, 1, 3, 2]), "g")
        pairs = b.op("Reshape", b.op("ReduceSum", pairs, b.constant([0]), keepdims=0), b.constant([s.inputs, -1]))
        sums.append(b.op("MatMul", pairs, basis))
    return b.op("Concat", *sums, axis=1)


@form("depthwise dW", "columns picked by products")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    picks, sums = s.sees(1), {}
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


def _rows_and_columns(b: GraphBuilder, s: Convolution) -> tuple[list[str], list[str]]:
    """The map moved up and down for each row of the kernel, the gradient to and fro for each column."""
    (kh, kw), (p, q), (h, w) = s.kernel, s.padding, s.out_sides
    x = b.op("Pad", "x", b.constant([0, 0, p, 0, 0, 0, p, 0]))
    rows = [b.op("Slice", x, b.constant([i]), b.constant([i + h]), b.constant([2])) for i in range(kh)]
    columns = [b.op("Pad", "g", b.constant([0, 0, 0, j - q, 0, 0, 0, s.sides[1] - w - j + q])) for j in range(kw)]
    return rows, columns


@form("depthwise dW", "rows of x, columns of g")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.stride != (1, 1):
        return ""
    rows, columns = _rows_and_columns(b, s)
    sums = [
        b.op("ReduceSum", b.op("Mul", row, column), b.constant([2, 3]), keepdims=1)
        for row in rows
        for column in columns
    ]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "rows of x, columns of g, dot products")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.stride != (1, 1):
        return ""
    rows, columns = _rows_and_columns(b, s)
    rows = [b.op("Reshape", row, b.constant([0, 0, 1, -1])) for row in rows]
    columns = [b.op("Reshape", column, b.constant([0, 0, -1, 1])) for column in columns]
    sums = [b.op("MatMul", row, column) for row in rows for column in columns]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "slices, dot products")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    x, g = padded(b, "x", s), b.op("Reshape", "g", b.constant([0, 0, -1, 1]))
    rows = [b.op("Reshape", seen_from(b, x, s, (i, j)), b.constant([0, 0, 1, -1])) for i, j in np.ndindex(*s.kernel)]
    sums = [b.op("MatMul", row, g) for row in rows]
    return b.op("ReduceSum", b.op("Concat", *sums, axis=2), b.constant([0]), keepdims=0)


@form("depthwise dW", "all pairs of pixels")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.pixels > 150:
        return ""
    x = b.op("Transpose", b.op("Reshape", "x", b.constant([0, 0, s.pixels])), perm=[1, 2, 0])
    g = b.op("Transpose", b.op("Reshape", "g", b.constant([0, 0, s.out_pixels])), perm=[1, 0, 2])
    pairs = b.op("Reshape", b.op("MatMul", x, g), b.constant([s.inputs, -1]))
    return b.op("MatMul", pairs, b.constant(depthwise.pairs(s).T.copy()))


@form("depthwise dW", "export")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    return depthwise.of_weight(b, "g", "x", s)


# Depthwise, forward


@form("depthwise y", "Conv")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    return b.op("Conv", "x", "w", **s.attributes())


@form("depthwise y", "a matrix per channel, all images")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.pixels > 150:
        return ""
    x = b.op("Transpose", b.op("Reshape", "x", b.constant([0, 0, s.pixels])), perm=[1, 0, 2])
    y = b.op("Transpose", b.op("MatMul", x, depthwise.matrices(b, "w", s)), perm=[1, 0, 2])
    return b.op("Reshape", y, b.constant([0, 0, *s.out_sides]))


@form("depthwise y", "a matrix per channel, each image")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.pixels > 150:
        return ""
    x = b.op("Reshape", "x", b.constant([0, 0, 1, s.pixels]))
    y = b.op("MatMul", x, b.op("Unsqueeze", depthwise.matrices(b, "w", s), b.constant([0])))
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
    flipped = convolutions.flipped(b, "w", s)
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
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    return _conv_of_zeros(b, s, _zeros_between(b, s)) if s.groups == 1 or s.is_depthwise else ""


@form("dX", "Conv of zeros put between by Resize")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.stride == (1, 1) or 1 < s.groups and not s.is_depthwise:
        return ""
    mask = np.zeros((1, 1, *(c * t for c, t in zip(s.out_sides, s.stride))), np.float32)
    mask[:, :, :: s.stride[0], :: s.stride[1]] = 1
    return _conv_of_zeros(b, s, b.op("Mul", pools.enlarge(b, "g", s.stride), b.constant(mask)))


@form("dX", "ConvTranspose")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    left = [
        side - ((count - 1) * step + k - 2 * p)
        for side, count, step, k, p in zip(s.sides, s.out_sides, s.stride, s.kernel, s.padding)
    ]
    groups = {"group": s.groups} if s.groups > 1 else {}
    return b.op("ConvTranspose", "g", "w", **(s.attributes() | groups), output_padding=left)


@form("dX", "the pixels of each phase as channels")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    """Every s-th pixel sees the same places of the kernel: one convolution gives the pixels of all phases."""
    (step, other), (k, _), (p, _), (side, _) = s.stride, s.kernel, s.padding, s.sides
    if step != other or step == 1 or side % step or s.kernel[0] != s.kernel[1]:
        return ""
    seen = {
        (phase, (phase + p - at) // step): at for phase in range(step) for at in range(k) if not (phase + p - at) % step
    }
    first, last = min(0, *(pixel for _, pixel in seen)), max(0, *(pixel for _, pixel in seen))
    window, count = last - first + 1, side // step
    rows = np.full((step, 1, window, 1), -1)
    for (phase, pixel), at in seen.items():
        rows[phase, 0, pixel - first, 0] = at
    columns = rows.reshape(1, step, 1, window)
    index = np.where((rows < 0) | (columns < 0), k * k, rows * k + columns).reshape(step * step, -1)
    outputs, inputs, *_ = s.weight
    flat = b.op("Reshape", "w", b.constant([s.groups, outputs // s.groups, inputs, -1]))
    flat = b.op("Gather", b.op("Pad", flat, b.constant([0, 0, 0, 0, 0, 0, 0, 1])), b.constant(index), axis=3)
    kernels = b.op("Transpose", flat, perm=[0, 2, 3, 1, 4])
    kernels = b.op("Reshape", kernels, b.constant([-1, outputs // s.groups, window, window]))
    behind = count + last - s.out_sides[0]
    form = {"kernel_shape": [window] * 2, "pads": [-first, -first, behind, behind], "group": s.groups}
    return b.op("DepthToSpace", b.op("Conv", "g", kernels, **form), blocksize=step, mode="CRD")


@form("dX", "a matrix per channel, all images")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    if s.pixels > 150 or not s.is_depthwise:
        return ""
    g = b.op("Transpose", b.op("Reshape", "g", b.constant([0, 0, s.out_pixels])), perm=[1, 0, 2])
    y = b.op("MatMul", g, b.op("Transpose", depthwise.matrices(b, "w", s), perm=[0, 2, 1]))
    return b.op("Reshape", b.op("Transpose", y, perm=[1, 0, 2]), b.constant([0, 0, *s.sides]))


@form("dX", "export")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    return convolutions.of_input(b, "g", "w", s)


# Dense and grouped, at the weight


@form("dW", "export")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    return weight_gradients.of_weight(b, "g", "x", s)


@form("dW", "slices and a product each")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    o, i, *_ = s.weight
    x = padded(b, "x", s) if any(s.padding) or s.places > 1 else "x"
    left = b.op("Reshape", "g", b.constant([0, s.groups, o // s.groups, s.out_pixels]))
    totals = []
    for place in np.ndindex(*s.kernel):
        rows = b.op("Reshape", seen_from(b, x, s, place), b.constant([0, s.groups, i, s.out_pixels]))
        product = b.op("MatMul", left, b.op("Transpose", rows, perm=[0, 1, 3, 2]))
        totals.append(b.op("Unsqueeze", b.op("ReduceSum", product, b.constant([0]), keepdims=0), b.constant([3])))
    total = b.op("Concat", *totals, axis=3) if len(totals) > 1 else totals[0]
    return b.op("Reshape", total, b.constant(list(s.weight)))


@form("dW", "convolution of the map by the gradient")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
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
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    w = Window(s.kernel, s.stride, s.padding, s.sides)
    return (
        pools.of_separate_windows(b, "g", "x", w)
        if s.kernel == s.stride
        else pools.of_windows(b, "g", "x", s.inputs, w)
    )


@form("max-pool dX", "places in turn")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    w = Window(s.kernel, s.stride, s.padding, s.sides)
    return pools.of_windows(b, "g", "x", s.inputs, w) if s.kernel == s.stride else ""


@form("max-pool dX", "Indices and ScatterElements")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    _, indices = b.node("MaxPool", ["x"], 2, **Window.attributes(s))
    flat = b.constant([-1])
    zeros = b.op("Reshape", b.op("Mul", "x", b.constant(0.0)), flat)
    total = b.op(
        "ScatterElements", zeros, b.op("Reshape", indices, flat), b.op("Reshape", "g", flat), axis=0, reduction="add"
    )
    return b.op("Reshape", total, b.op("Shape", "x"))


@form("average-pool dX", "export")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    return pools.of_average(b, "g", s, True, float(s.places))


@form("average-pool dX", "depthwise ConvTranspose")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    weight = b.constant(np.full(s.weight, 1 / s.places, np.float32))
    return convolutions.of_input(b, "g", weight, s)


@form("average-pool dX", "AveragePool of zeros put between")
def _(b: GraphBuilder, s: Convolution, _images: int) -> str:
    sides = [count * step for count, step in zip(s.out_sides, s.stride)]
    before = [k - 1 - p for k, p in zip(s.kernel, s.padding)]
    behind = [side + k - 1 - f - have for side, k, f, have in zip(s.sides, s.kernel, before, sides)]
    x = b.op("Pad", _zeros_between(b, s), b.constant([0, 0, *before, 0, 0, *behind]))
    return b.op("AveragePool", x, kernel_shape=list(s.kernel), strides=[1, 1])
