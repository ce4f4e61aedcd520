"""Activations and their derivatives. At a kink they are torch's: a pixel on it counts to the same side."""

import numpy as np
from onnx import TensorProto
from torch import fx

from gems_edge.export.builder import GraphBuilder, Value
from gems_edge.export.translation import Translation

FLOAT = TensorProto.FLOAT
# Hardsigmoid: x / 6 + 1/2 between −3 and 3; and hardswish: x times that.
SLOPE, KNEE = 1 / 6, 3.0
# What is nearer to 0 than its reciprocal may count as 0; what is as large may be multiplied by it.
STEEP = 1e15


def masked(b: GraphBuilder, x: str, condition: str) -> str:
    """x where the condition holds, 0 elsewhere: a product, which is faster than Where."""
    return b.op("Mul", x, b.op("Cast", condition, to=FLOAT))


def _product(low: Translation, node: fx.Node, gradient: fx.Node, mask: str) -> Value:
    """The gradient times a mask of the node's full shape. It may be the same for all of a map (behind a mean), and is
    not written out for each pixel then."""
    return Value(low.builder.op("Mul", low.tensor(gradient).name, mask), low.shape(node))


def relu_backward(low: Translation, node: fx.Node, gradient: fx.Node, output: fx.Node, threshold: float) -> Value:
    """d ReLU: the gradient where the output is above the threshold, which is 0.

    A HardSigmoid so steep is 0 there and 1 above, in two thirds of what a comparison and its Cast take.
    """
    above = low.builder.op("HardSigmoid", low.full(output), alpha=STEEP, beta=-STEEP * threshold)
    return _product(low, node, gradient, above)


def hardtanh(low: Translation, node: fx.Node, x: fx.Node, least: float = -1.0, most: float = 1.0) -> Value:
    """ReLU6, with 0 and 6."""
    b = low.builder
    return Value(b.op("Clip", low.full(x), b.constant(float(least)), b.constant(float(most))), low.shape(node))


def hardtanh_backward(
    low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node, least: float, most: float
) -> Value:
    """The gradient where x lies between the ends: where a Clip to the next numbers inside leaves it as it is. A Clip
    takes less than a second comparison and what joins both."""
    b, ends = low.builder, np.array([least, most], np.float32)
    inner = np.nextafter(ends, ends[::-1])
    inner = np.where(ends == 0, np.sign(ends[::-1]) / np.float32(STEEP), inner)  # no denormal numbers, which are slow
    inside = b.op("Equal", low.full(x), b.op("Clip", low.full(x), *(b.constant(float(end)) for end in inner)))
    return _product(low, node, gradient, b.op("Cast", inside, to=FLOAT))


def sigmoid_backward(low: Translation, node: fx.Node, gradient: fx.Node, output: fx.Node) -> Value:
    """g · s · (1 − s), as g · (s − s²)."""
    b, s = low.builder, low.full(output)
    return Value(b.op("Mul", low.full(gradient), b.op("Sub", s, b.op("Mul", s, s))), low.shape(node))


def silu(low: Translation, node: fx.Node, x: fx.Node) -> Value:
    name = low.full(x)
    return Value(low.builder.op("Mul", name, low.builder.op("Sigmoid", name)), low.shape(node))


def silu_backward(low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node) -> Value:
    """g · (s + y − y · s) of y = x · s, both of which the forward pass has."""
    b, name = low.builder, low.full(x)
    s = b.op("Sigmoid", name)
    y = b.op("Mul", name, s)
    slope = b.op("Sub", b.op("Add", s, y), b.op("Mul", y, s))
    return Value(b.op("Mul", low.full(gradient), slope), low.shape(node))


def hardsigmoid(low: Translation, node: fx.Node, x: fx.Node) -> Value:
    return Value(_hard_sigmoid(low, x), low.shape(node))


def hardsigmoid_backward(low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node) -> Value:
    """g / 6 between the knees."""
    b = low.builder
    sloped = b.op("Mul", low.full(gradient), b.constant(SLOPE))
    return Value(masked(b, sloped, _between_knees(low, x)), low.shape(node))


def hardswish(low: Translation, node: fx.Node, x: fx.Node) -> Value:
    return Value(low.builder.op("Mul", low.full(x), _hard_sigmoid(low, x)), low.shape(node))


def hardswish_backward(low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node) -> Value:
    """g · (hardsigmoid(x) + x / 6 between the knees)."""
    b = low.builder
    rising = masked(b, b.op("Mul", low.full(x), b.constant(SLOPE)), _between_knees(low, x))
    return Value(b.op("Mul", low.full(gradient), b.op("Add", _hard_sigmoid(low, x), rising)), low.shape(node))


def _hard_sigmoid(low: Translation, x: fx.Node) -> str:
    return low.builder.op("HardSigmoid", low.full(x), alpha=SLOPE, beta=0.5)


def _between_knees(low: Translation, x: fx.Node) -> str:
    return low.builder.op("Less", low.builder.op("Abs", low.full(x)), low.builder.constant(KNEE))
