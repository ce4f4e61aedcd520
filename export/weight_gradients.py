"""A convolution's gradient at its weight, as plain ONNX operations in the forms that onnxruntime runs fast.

docs/gradient_graph.md has what was measured.
"""

import numpy as np

from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution
from gems_edge.export.windows import padded, seen_from

# So many patches a pixel are picked by a convolution: as many multiplications for each of them.
FEW_PATCHES = 32
# Patches of one image that are larger than this are made of one row of the kernel at a time.
PATCHES_BYTES = 1 << 20


def of_weight(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """dL/dW [O, I, kh, kw] = Σ_images G·Pᵀ of the gradient G [O, H'·W'] and the map's patches P [I·kh·kw, H'·W'], what
    each place of the kernel sees of it.

    As a product for each image and a sum over the images, which passes/stream.py can run image by image and
    passes/join_images.py can make one product of.
    """
    if shape.groups > 1:
        return _of_groups(b, gradient, x, shape)
    outputs, inputs, kh, kw = shape.weight
    first = b.constant([0])
    if inputs * shape.places <= FEW_PATCHES or shape.places == 1 and shape.padding == (0, 0):
        x = _patches(b, x, shape)
        left = b.op("Reshape", gradient, b.constant([0, outputs, shape.out_pixels]))
        right = b.op("Reshape", x, b.constant([0, inputs * shape.places, shape.out_pixels]))
        total = b.op("MatMul", left, b.op("Transpose", right, perm=[0, 2, 1]))
        return b.op("Reshape", b.op("ReduceSum", total, first, keepdims=0), b.constant([outputs, inputs, kh, kw]))
    # Pixels as rows of channels: a patch is then a few rows, copied whole. One more row is the padding.
    pixels = b.op("Reshape", x, b.constant([0, inputs, shape.pixels]))
    pixels = b.op("Pad", b.op("Transpose", pixels, perm=[0, 2, 1]), b.constant([0, 0, 0, 0, 1, 0]))
    left = b.op("Reshape", gradient, b.constant([0, 1, outputs, shape.out_pixels]))
    seen = shape.seen()
    rows = shape.places if 4 * inputs * seen.size <= PATCHES_BYTES else kw  # of the kernel's places at a time
    totals = [
        b.op("ReduceSum", b.op("MatMul", left, b.op("Gather", pixels, b.constant(part), axis=1)), first, keepdims=0)
        for part in seen.reshape(-1, rows, shape.out_pixels)
    ]  # fmt: skip
    total = b.op("Concat", *totals, axis=0) if len(totals) > 1 else totals[0]
    total = b.op("Reshape", total, b.constant([kh, kw, outputs, inputs]))
    return b.op("Transpose", total, perm=[2, 3, 0, 1])


def _patches(b: GraphBuilder, x: str, shape: Convolution) -> str:
    """The map [N, I, H, W] as every place of a kernel sees it: [N, I·kh·kw, H', W'], by a convolution that picks them,
    or every so many pixels of it where the kernel has one place."""
    if shape.places == 1 and shape.padding == (0, 0):
        return seen_from(b, x, shape, (0, 0))
    places = shape.inputs * shape.places
    pick = np.eye(places, dtype=np.float32).reshape(places, shape.inputs, *shape.kernel)
    return b.op("Conv", x, b.constant(pick), **shape.attributes())


def _of_groups(b: GraphBuilder, gradient: str, x: str, shape: Convolution) -> str:
    """As of_weight, for each of the kernel's places a product of what it sees with the gradient, group by group."""
    outputs, inputs, *_ = shape.weight
    left = b.op("Reshape", gradient, b.constant([0, shape.groups, outputs // shape.groups, shape.out_pixels]))
    x = padded(b, x, shape)
    totals = []
    for place in np.ndindex(*shape.kernel):
        seen = b.op("Reshape", seen_from(b, x, shape, place), b.constant([0, shape.groups, inputs, shape.out_pixels]))
        product = b.op("MatMul", left, b.op("Transpose", seen, perm=[0, 1, 3, 2]))
        total = b.op("ReduceSum", product, b.constant([0]), keepdims=0)
        totals.append(b.op("Reshape", total, b.constant([outputs, inputs, 1])))
    total = b.op("Concat", *totals, axis=2) if len(totals) > 1 else totals[0]
    return b.op("Reshape", total, b.constant(list(shape.weight)))
