"""Batch normalisation and its gradient in the operations that onnxruntime has for them.

Patterns, of maps y [N, C, H, W] with the statistics mean and var [C], root = 1/√(var + ε), of images with the shares s
[N] (models/normalization.py writes both):

- y · γ·root + (β − mean·γ·root) becomes a BatchNormalization by mean and var, which computes the vectors itself;
- the gradient at y, γ·root·g + s·(slope·y + shift) with slope = −q·γ·root³ / (H·W), shift = −(Σg)·γ·root / (H·W) −
  mean·slope and q = Σg·y − mean·Σg, becomes γ·root·(g − s / (H·W) · (x̂·dγ + Σg)), dγ = q·root, in which x̂·dγ + Σg is
  a BatchNormalization, too. Some fifteen operations on [C] fewer, and as many passes over the maps.

Products are compared as sets of factors: in which order a graph multiplies is not looked at.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from gems_edge.export.passes.rewriting import constant, replace, tidy
from gems_edge.graphs.batch_axes import whole_numbers

OVER_IMAGES_AND_PIXELS = [0, 2, 3]
VIEWS = ("Reshape", "Unsqueeze")


@dataclass(frozen=True)
class Product:
    number: float
    factors: Counter[ir.Value]

    def is_of(self, *factors: ir.Value, number: float = 1.0) -> bool:
        return self.factors == Counter(factors) and bool(np.isclose(self.number, number, rtol=1e-5))


@dataclass(frozen=True)
class Norm:
    """y · scale + shift of the node `affine`; all vectors are [C]."""

    affine: ir.Node
    weight: ir.Value
    bias: ir.Value
    mean: ir.Value
    var: ir.Value
    root: ir.Value
    epsilon: float

    def tensors(self, weight: ir.Value, bias: ir.Value) -> list[ir.Value]:
        """Inputs of a BatchNormalization of y that scales by this weight and shifts by this bias."""
        y = self.affine.inputs[0]
        assert y is not None
        return [y, weight, bias, self.mean, self.var]


@dataclass(frozen=True)
class Gradient:
    """The gradient `total` at a norm's y from `gradient` (g), that at its result."""

    norm: Norm
    total: ir.Value
    gradient: ir.Value
    scale: ir.Value  # γ·root as [C, 1, 1]
    of_bias: ir.Value  # Σg
    covariance: ir.Value  # q
    shares: ir.Value
    factor: float  # −1 / (H·W)


def write_normalizations(model: ir.Model) -> None:
    """Rewrite all that the patterns find in `model`, in place."""
    norms = [norm for node in model.graph if (norm := norm_of(node))]
    of_map = {norm.affine.inputs[0]: norm for norm in norms}
    gradients = [found for node in model.graph if (found := gradient_of(node, of_map))]
    weighted: dict[tuple[ir.Value, float], ir.Value] = {}
    for gradient in gradients:
        _write_gradient(model.graph, gradient, weighted)
    for norm in norms:
        for slot, value in enumerate(norm.tensors(norm.weight, norm.bias)):
            norm.affine.replace_input_with(slot, value)
        norm.affine.attributes.add(ir.AttrFloat32("epsilon", norm.epsilon))
    tidy(model)


def norm_of(node: ir.Node) -> Norm | None:
    """The first pattern."""
    if node.op_type != "BatchNormalization" or node.attributes.get_float("epsilon", 1e-5) != 0:
        return None
    _, scale, shift, mean, var = node.inputs
    if not (_is_all(mean, 0.0) and _is_all(var, 1.0)):
        return None
    vectors = list(product_of(scale).factors)
    roots = [(value, found) for value in vectors if (found := _variance_of(value))]
    subtraction = _producer(shift, "Sub")
    if len(vectors) != 2 or len(roots) != 1 or subtraction is None:
        return None
    root, (variance, epsilon) = roots[0]
    weight = next(value for value in vectors if value is not root)
    bias, product = subtraction.inputs
    means = [value for value in product_of(product).factors if value not in (weight, root)]
    if bias is None or len(means) != 1 or not product_of(product).is_of(means[0], weight, root):
        return None
    if not product_of(scale).is_of(weight, root):
        return None
    return Norm(node, weight, bias, means[0], variance, root, epsilon)


def gradient_of(node: ir.Node, norms: dict[ir.Value | None, Norm]) -> Gradient | None:
    """The second pattern, of one of the `norms` by their y."""
    for through_map, through_statistics in (node.inputs, node.inputs[::-1]) if node.op_type == "Add" else ():
        scaled, affine = _producer(through_map, "Mul"), _producer(through_statistics, "Add")
        sloped = None if affine is None else _producer(affine.inputs[0], "Mul")
        if scaled is None or affine is None or sloped is None or sloped.inputs[0] not in norms:
            continue
        norm = norms[sloped.inputs[0]]
        gradient, scale = scaled.inputs
        if gradient is None or scale is None or not product_of(_viewed(scale)).is_of(norm.weight, norm.root):
            continue
        slope, shift = product_of(_viewed(sloped.inputs[1])), product_of(_viewed(affine.inputs[1]))
        sums = _sums_of(norm, gradient, slope)
        if sums is not None and (found := _shared(norm, slope, shift, *sums)):
            shares, factor = found
            return Gradient(norm, node.outputs[0], gradient, scale, *sums, shares, factor)
    return None


def _sums_of(norm: Norm, gradient: ir.Value, slope: Product) -> tuple[ir.Value, ir.Value] | None:
    """Σg and q, found among the factors of the slope."""
    for value in slope.factors:
        total = _producer(value, "Add")
        if total is None:
            continue
        products, moved = total.inputs
        summed = _producer(_summed(products), "Mul")
        sums = [factor for factor in product_of(moved).factors if factor is not norm.mean]
        if summed is None or Counter(summed.inputs) != Counter([gradient, norm.affine.inputs[0]]) or len(sums) != 1:
            continue
        if _summed(sums[0]) is gradient and product_of(moved).is_of(norm.mean, sums[0], number=-1):
            return sums[0], value
    return None


def _shared(
    norm: Norm, slope: Product, shift: Product, of_bias: ir.Value, covariance: ir.Value
) -> tuple[ir.Value, float] | None:
    """The images' shares and −1 / (H·W), if slope and shift are what they are in the pattern."""
    of_var = (covariance, norm.weight, norm.root, norm.root, norm.root)
    shares = [value for value in slope.factors if value not in of_var]
    parts = [node for value in shift.factors if (node := _producer(value, "Sub"))]
    if len(shares) != 1 or len(parts) != 1 or not shift.is_of(shares[0], parts[0].outputs[0]):
        return None
    number = slope.number
    through_mean, through_var = map(product_of, parts[0].inputs)
    fits = (
        slope.is_of(shares[0], *of_var, number=number)
        and through_mean.is_of(of_bias, norm.weight, norm.root, number=number)
        and through_var.is_of(norm.mean, *of_var, number=number)
    )
    return (shares[0], number) if fits else None


def _write_gradient(graph: ir.Graph, found: Gradient, weighted: dict[tuple[ir.Value, float], ir.Value]) -> None:
    norm, tape = found.norm, ir.tape.Tape(graph)
    key = (found.shares, round(found.factor, 9))
    if key not in weighted:
        of_images = tape.op("Reshape", [found.shares, constant(graph, [-1, 1, 1, 1])])
        number = constant(graph, np.full((1, 1, 1, 1), found.factor, np.float32))
        weighted[key] = tape.op("Mul", [of_images, number])
    of_weight = tape.op("Mul", [found.covariance, norm.root])
    affine = tape.op("BatchNormalization", norm.tensors(of_weight, found.of_bias), {"epsilon": norm.epsilon})
    total = tape.op("Add", [found.gradient, tape.op("Mul", [affine, weighted[key]])])
    replace(found.total, tape.op("Mul", [total, found.scale]))


def product_of(value: ir.Value | None) -> Product:
    """A value as the product of a number and of what is no product itself."""
    node = None if value is None else value.producer()
    if value is None or (node is None and _number(value) is None):
        return Product(1.0, Counter([value] if value is not None else []))
    if (number := _number(value)) is not None:
        return Product(number, Counter())
    assert node is not None
    if node.op_type == "Neg":
        inner = product_of(node.inputs[0])
        return Product(-inner.number, inner.factors)
    if node.op_type == "Mul":
        left, right = map(product_of, node.inputs)
        return Product(left.number * right.number, left.factors + right.factors)
    if node.op_type == "Div" and (divisor := _number(node.inputs[1])) is not None:
        inner = product_of(node.inputs[0])
        return Product(inner.number / divisor, inner.factors)
    return Product(1.0, Counter([value]))


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def _viewed(value: ir.Value | None) -> ir.Value | None:
    """What `value` is a view of, if it is one."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type in VIEWS else value


def _summed(value: ir.Value | None) -> ir.Value | None:
    """What `value` [C] is the sum of, over images and pixels."""
    node = _producer(value, "ReduceSum")
    if node is None or node.attributes.get_int("keepdims", 1) != 0 or whole_numbers(node, 1) != OVER_IMAGES_AND_PIXELS:
        return None
    return node.inputs[0]


def _variance_of(root: ir.Value) -> tuple[ir.Value, float] | None:
    """var and ε of a 1/√(var + ε)."""
    inverse = _producer(root, "Reciprocal")
    sqrt = None if inverse is None else _producer(inverse.inputs[0], "Sqrt")
    total = None if sqrt is None else _producer(sqrt.inputs[0], "Add")
    if total is None:
        return None
    variance, epsilon = total.inputs[0], _number(total.inputs[1])
    return None if variance is None or epsilon is None else (variance, epsilon)


def _number(value: ir.Value | None) -> float | None:
    """The number that a constant holds; None for any other value."""
    array = _array(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def _is_all(value: ir.Value | None, number: float) -> bool:
    array = _array(value)
    return array is not None and bool((array == number).all())


def _array(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()
