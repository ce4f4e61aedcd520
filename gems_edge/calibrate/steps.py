"""Gradient steps of a few layers in the operations that adapt.onnx is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gems_edge.calibrate.graph import Builder, Graph

EXPANSION = 6  # of a mobile network's blocks


def gradient_step(width: int, side: int, images: int, each: bool) -> Graph:
    """Forward and back through two normalised and pooled convolutions, as adapt.onnx goes; `each`: image by image."""
    name = f"gradient step {width} filters {side} px x{images}" + (", image by image" if each else "")
    builder = Builder(name, (images, 3, side, side))

    def step(b: Builder, x: str) -> str:
        inputs, normal = [x], []
        for _ in range(2):
            maps = b.conv(inputs[-1], width, 3, fed=True, relu=False)
            means = b.sums(maps, (2, 3), "ReduceMean")
            means = b.reshaped(means, (*b.sizes[means].shape, 1, 1))
            normal.append(b.op("Sub", [maps, means], b.sizes[maps].shape))
            inputs.append(b.pool(b.scaled(b.scaled(normal[-1]), "Add")))
        gradient, products = inputs[-1], []
        for layer in (1, 0):
            back = b.unpooled(gradient, normal[layer])
            back = b.same("Sub", b.scaled(back), b.same("Mul", b.scaled(normal[layer]), back))
            if layer:
                gradient = b.conv(back, width, 3, fed=True, relu=False)
            products.append(b.product(b.flat(b.columns(inputs[layer])), b.flat(back)))
        return b.op("Concat", products, (b.sizes[x].shape[0], 9 * (3 + width), width), axis=1)

    return builder.graph(builder.each_image("x", step) if each else step(builder, "x"))


@dataclass(frozen=True)
class _Block:
    """The maps of a block that its gradient reads, by name."""

    input: str
    first: str  # before normalisation and activation …
    widened: str  # … and behind them
    second: str
    filtered: str
    stride: int


def mobile_step(width: int, side: int, images: int, strides: Sequence[int]) -> Graph:
    """Forward and back through blocks of a mobile network: widened, single channels 3×3 by a stride, narrowed."""
    steps = " ".join(map(str, strides))
    b = Builder(f"mobile gradient step {width} filters {side} px by {steps} x{images}", (images, width, side, side))
    blocks, x = [], "x"
    for stride in strides:
        block = _forward(b, x, stride)
        blocks.append(block)
        x = _normalized(b, b.conv(block.filtered, width, fed=True, relu=False))
    gradient, found = x, []
    for block in reversed(blocks):
        of_weights, of_wide = _backward(b, block, gradient)
        found += of_weights
        gradient = b.conv(of_wide, width, fed=True, relu=False)
    found.append(gradient)
    flat = [b.reshaped(gradient, (math.prod(b.sizes[gradient].shape),)) for gradient in found]
    return b.graph(b.op("Concat", flat, (sum(b.sizes[part].elements for part in flat),), axis=0))


def _forward(b: Builder, x: str, stride: int) -> _Block:
    wide = EXPANSION * b.sizes[x].shape[1]
    first = b.conv(x, wide, fed=True, relu=False)
    widened = b.clipped(_normalized(b, first))
    second = b.conv(widened, wide, 3, stride, groups=wide, fed=True, relu=False)
    return _Block(x, first, widened, second, b.clipped(_normalized(b, second)), stride)


def _backward(b: Builder, block: _Block, gradient: str) -> tuple[list[str], str]:
    """The gradients of the weights, and that at the widened maps before normalisation."""
    wide = b.sizes[block.first].shape[1]
    of_narrowing = b.product(b.flat(gradient), b.flat(block.filtered))
    back = b.conv(gradient, wide, fed=True, relu=False)
    back = _before_activation(b, back, block.second, block.filtered)
    of_single = _of_single_channels(b, back, block.widened, block.stride)
    if block.stride > 1:
        back = b.transposed(back, wide, 3, block.stride, wide)
    else:
        back = b.conv(back, wide, 3, groups=wide, fed=True, relu=False)
    back = _before_activation(b, back, block.first, block.widened)
    return [of_narrowing, of_single, b.product(b.flat(back), b.flat(block.input))], back


def _normalized(b: Builder, maps: str) -> str:
    """By statistics of the maps' own, as far as these take time."""
    means = b.sums(maps, (2, 3), "ReduceMean")
    centred = b.op("Sub", [maps, b.reshaped(means, (*b.sizes[means].shape, 1, 1))], b.sizes[maps].shape)
    return b.normalized(maps, b.sums(b.same("Mul", centred, centred), (0, 2, 3)))


def _before_activation(b: Builder, gradient: str, maps: str, clipped: str) -> str:
    """The gradient at `maps`, which are normalised and clipped."""
    inside = b.holds("Equal", clipped, b.clipped(clipped))
    gradient = b.same("Mul", gradient, b.op("Cast", [inside], b.sizes[clipped].shape, to=1))
    affine = b.normalized(maps, b.sums(b.same("Mul", gradient, maps), (0, 2, 3)))
    shift = b.op("Mul", [affine, b.feed(f"s{len(b.sizes)}", (1, 1, 1, 1))], b.sizes[maps].shape)
    return b.scaled(b.same("Add", gradient, shift))


def _of_single_channels(b: Builder, gradient: str, maps: str, stride: int) -> str:
    """Columns of the map by columns of the gradient, channel by channel, over the rows of all images."""
    images, channels, height, width = b.sizes[gradient].shape
    own = b.reshaped(b.permuted(gradient, (1, 0, 2, 3)), (channels, images * height, width))
    sides = b.sizes[maps].shape[3]
    seen = b.reshaped(b.permuted(maps, (1, 0, 2, 3)), (channels, images * height, stride * sides))
    return b.product(seen, own, (True, False))
