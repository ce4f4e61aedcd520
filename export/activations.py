"""Activations and their derivatives. At a kink they are torch's: a pixel on it counts to the same side."""

from onnx import TensorProto
from torch import fx

from gems_edge.export.builder import GraphBuilder, Value
from gems_edge.export.translation import Translation

FLOAT = TensorProto.FLOAT
# Hardsigmoid: x / 6 + 1/2 between −3 and 3; and hardswish: x times that.
SLOPE, KNEE = 1 / 6, 3.0


def masked(b: GraphBuilder, x: str, condition: str) -> str:
    """x where the condition holds, 0 elsewhere: a product, which is faster than Where."""
    return b.op("Mul", x, b.op("Cast", condition, to=FLOAT))


def _where(low: Translation, node: fx.Node, gradient: fx.Node, condition: str) -> Value:
    """The gradient where the condition, of the node's full shape, holds. It may be the same for all of a map (behind a
    mean), and is not written out for each pixel then."""
    mask = low.builder.op("Cast", condition, to=FLOAT)
    return Value(low.builder.op("Mul", low.tensor(gradient).name, mask), low.shape(node))


def relu_backward(low: Translation, node: fx.Node, gradient: fx.Node, output: fx.Node, threshold: float) -> Value:
    """d ReLU: the gradient where the output is above the threshold (0)."""
    b = low.builder
    return _where(low, node, gradient, b.op("Greater", low.full(output), b.constant(float(threshold))))


def hardtanh(low: Translation, node: fx.Node, x: fx.Node, least: float = -1.0, most: float = 1.0) -> Value:
    """ReLU6, with 0 and 6."""
    b = low.builder
    return Value(b.op("Clip", low.full(x), b.constant(float(least)), b.constant(float(most))), low.shape(node))


def hardtanh_backward(
    low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node, least: float, most: float
) -> Value:
    b = low.builder
    above = b.op("Greater", low.full(x), b.constant(float(least)))
    below = b.op("Less", low.full(x), b.constant(float(most)))
    return _where(low, node, gradient, b.op("And", above, below))


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
