"""How each ATen operation is written in ONNX: one small function each, and the table of them."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export import activations, convolutions, pools
from gems_edge.export.builder import Value, numbers
from gems_edge.export.translation import DynamicNumber, Translation

# (translation, node, the node's arguments) → what the node is in the graph
Operation = Callable[..., Any]
Number = float | fx.Node  # or a size that the graph computes

aten = torch.ops.aten
_END = 2**63 - 1  # what ONNX takes for "to the last"


def _elementwise(kind: str) -> Operation:
    """Also of comparisons: `where` or a conversion makes numbers of a condition."""
    return lambda low, node, *arguments: low.elementwise(kind, *arguments)


def _scaled(kind: str) -> Operation:
    def lower(low: Translation, node: fx.Node, left: Number, right: Number, alpha: Number = 1) -> Value:
        return low.elementwise(kind, left, right if alpha == 1 else low.elementwise("Mul", right, alpha))

    return lower


def _add_product(
    low: Translation, node: fx.Node, x: fx.Node, left: fx.Node, right: fx.Node, value: Number = 1
) -> Value:
    maps, scale, shift = low.tensor(left), _vector(low, right), _vector(low, x)
    if value == 1 and scale and shift and len(maps.shape) == 4:
        # One pass over the maps instead of two: y · scale / √(1 + 0) + shift − 0 · scale.
        channels = numbers(maps.shape[1:2])
        mean, var = (low.builder.constant(np.full(channels, number)) for number in (0.0, 1.0))
        name = low.builder.op("BatchNormalization", maps.name, scale, shift, mean, var, epsilon=0.0)
        return Value(name, maps.shape)
    product = low.elementwise("Mul", left, right)
    if value == -1:
        return low.elementwise("Sub", x, product)
    return low.elementwise("Add", product if value == 1 else low.elementwise("Mul", product, value), x)


def _vector(low: Translation, node: Any) -> str | None:
    """The [C] that a tensor [C, 1, 1] was made of by adding axes."""
    axes = 0
    while isinstance(node, fx.Node) and node.target is aten.unsqueeze.default:
        node, axes = node.args[0], axes + 1
    return low.tensor(node).name if axes == 2 and len(low.shape(node)) == 1 else None


def _same(low: Translation, node: fx.Node, x: fx.Node, *_: object) -> Value:
    return low.tensor(x)


def _ones(low: Translation, node: fx.Node, *_: object) -> Value:
    return Value(low.builder.constant(1.0), ())  # unexpanded


def _rsqrt(low: Translation, node: fx.Node, x: fx.Node) -> Value:
    value = low.tensor(x)
    return Value(low.builder.op("Reciprocal", low.builder.op("Sqrt", value.name)), value.shape)


def _power(low: Translation, node: fx.Node, x: fx.Node, exponent: float) -> Value:
    if exponent not in (1, 2, 3):
        raise UserError(f"cannot export: a power of {exponent}")
    value = low.tensor(x)
    name = value.name
    for _ in range(int(exponent) - 1):  # ONNX Pow is slow on whole maps
        name = low.builder.op("Mul", name, value.name)
    return Value(name, value.shape)


def _reduce(kind: str) -> Operation:
    def lower(
        low: Translation, node: fx.Node, x: fx.Node, axes: Sequence[int] | None = None, keepdim: bool = False
    ) -> Value:
        rank = len(x.meta["val"].shape)
        reduced = [axis % rank for axis in axes or range(rank)]
        name = low.builder.op(kind, low.full(x), low.builder.constant(reduced), keepdims=int(keepdim))
        return Value(name, low.shape(node))

    return lower


def _var_mean(
    low: Translation, node: fx.Node, x: fx.Node, axes: Sequence[int], correction: float = 1, keepdim: bool = False
) -> list[Value]:
    if correction != 0:
        raise UserError("cannot export: a variance with Bessel's correction")
    x_name, axes_name = low.full(x), low.builder.constant(list(axes))
    wide = low.builder.op("ReduceMean", x_name, axes_name, keepdims=1)
    centred = low.builder.op("Sub", x_name, wide)  # the backward pass uses this very tensor
    square = low.builder.op("Mul", centred, centred)
    var = low.builder.op("ReduceMean", square, axes_name, keepdims=int(keepdim))
    mean = wide if keepdim else low.builder.op("Squeeze", wide, axes_name)
    shape = tuple(low.dim(size) for size in node.meta["val"][0].shape)
    return [Value(var, shape), Value(mean, shape)]


# An unexpanded value may lack leading axes: those count from the right, and a missing one needs nothing done.


def _unsqueeze(low: Translation, node: fx.Node, x: fx.Node, axis: int) -> Value:
    value, rank = low.tensor(x), len(node.meta["val"].shape)
    at = axis % rank - (rank - 1 - len(value.shape))
    if at < 0:
        return value
    shape = (*value.shape[:at], 1, *value.shape[at:])
    return Value(low.builder.op("Unsqueeze", value.name, low.builder.constant([at])), shape)


def _squeeze(low: Translation, node: fx.Node, x: fx.Node, axes: int | Sequence[int]) -> Value:
    value, full = low.tensor(x), low.shape(x)
    positive = [axis % len(full) for axis in ([axes] if isinstance(axes, int) else axes)]
    missing = len(full) - len(value.shape)
    at = [axis - missing for axis in positive if full[axis] == 1 and axis >= missing]
    if not at:
        return value
    shape = tuple(size for i, size in enumerate(value.shape) if i not in at)
    return Value(low.builder.op("Squeeze", value.name, low.builder.constant(at)), shape)


def _view(low: Translation, node: fx.Node, x: fx.Node, sizes: Sequence[Number]) -> Value:
    shape = low.shape(node)
    if low.tensor(x).shape == shape:
        return low.tensor(x)
    return Value(low.builder.op("Reshape", low.full(x), low.shape_name(sizes)), shape)


def _permute(low: Translation, node: fx.Node, x: fx.Node, axes: Sequence[int]) -> Value:
    shape = low.shape(x)
    order = [axis % len(shape) for axis in axes]
    return Value(low.builder.op("Transpose", low.full(x), perm=order), tuple(shape[axis] for axis in order))


def _matmul(low: Translation, node: fx.Node, a: fx.Node, b: fx.Node) -> Value:
    return Value(low.builder.op("MatMul", low.full(a), low.full(b)), low.shape(node))


def _addmm(low: Translation, node: fx.Node, bias: fx.Node, a: fx.Node, b: fx.Node) -> Value:
    product = low.builder.op("MatMul", low.full(a), low.full(b))
    return Value(low.builder.op("Add", product, low.tensor(bias).name), low.shape(node))


def _log_softmax(low: Translation, node: fx.Node, x: fx.Node, axis: int, _half: bool) -> Value:
    return Value(low.builder.op("LogSoftmax", low.full(x), axis=axis), low.shape(node))


def _log_softmax_backward(
    low: Translation, node: fx.Node, gradient: fx.Node, output: fx.Node, axis: int, _dtype: torch.dtype
) -> Value:
    b = low.builder
    total = b.op("ReduceSum", low.full(gradient), b.constant([axis]), keepdims=1)
    return Value(b.op("Sub", low.full(gradient), b.op("Mul", b.op("Exp", low.full(output)), total)), low.shape(node))


def _stack(low: Translation, node: fx.Node, tensors: Sequence[fx.Node], axis: int = 0) -> Value:
    at = low.builder.constant([axis % len(node.meta["val"].shape)])
    parts = [low.builder.op("Unsqueeze", low.full(tensor), at) for tensor in tensors]
    return Value(low.builder.op("Concat", *parts, axis=axis), low.shape(node))


def _cat(low: Translation, node: fx.Node, tensors: Sequence[fx.Node], axis: int = 0) -> Value:
    return Value(low.builder.op("Concat", *(low.full(tensor) for tensor in tensors), axis=axis), low.shape(node))


def _select(low: Translation, node: fx.Node, x: fx.Node, axis: int, index: int) -> Value:
    name = low.builder.op("Gather", low.full(x), low.builder.constant(np.int64(index)), axis=axis)
    return Value(name, low.shape(node))


def _bound(low: Translation, number: Number) -> str:
    value = low.scalar(number, floating=False)
    if isinstance(value, DynamicNumber):
        return low.builder.op("Unsqueeze", value.name, low.builder.constant([0]))
    return low.builder.constant([value])


def _slice(
    low: Translation,
    node: fx.Node,
    x: fx.Node,
    axis: int = 0,
    start: Number | None = None,
    end: Number | None = None,
    step: int = 1,
) -> Value:
    bounds = [0 if start is None else start, _END if end is None else end, axis, *([] if step == 1 else [step])]
    name = low.builder.op("Slice", low.full(x), *(_bound(low, bound) for bound in bounds))
    return Value(name, low.shape(node))


def _pad(low: Translation, node: fx.Node, x: fx.Node, pads: Sequence[int], value: float = 0.0) -> Value:
    """`pads`: before and behind, the last axis first; negative ones cut off."""
    rank = len(node.meta["val"].shape)
    pairs = [(0, 0)] * (rank - len(pads) // 2) + list(zip(pads[::2], pads[1::2]))[::-1]
    before, behind = zip(*pairs)
    filling = (low.builder.constant(float(value)),) if value else ()
    return Value(
        low.builder.op("Pad", low.full(x), low.builder.constant([*before, *behind]), *filling), low.shape(node)
    )


def _to_float(low: Translation, node: fx.Node, x: fx.Node) -> Value:
    if node.meta["val"].dtype != torch.float32:
        raise UserError(f"cannot export: a conversion to {node.meta['val'].dtype}")
    value = low.tensor(x)
    if x.meta["val"].dtype == torch.float32:
        return value
    return Value(low.builder.op("Cast", value.name, to=1), value.shape)


def _getitem(low: Translation, node: fx.Node, source: fx.Node, index: int) -> Any:
    return low.values[source][index]


def _transpose_last(low: Translation, node: fx.Node, x: fx.Node) -> Value:
    return _permute(low, node, x, [1, 0])


TABLE: dict[Any, Operation] = {
    aten.mul.Tensor: _elementwise("Mul"),
    aten.mul.Scalar: _elementwise("Mul"),
    aten.div.Tensor: _elementwise("Div"),
    aten.div.Scalar: _elementwise("Div"),
    aten.add.Tensor: _scaled("Add"),
    aten.add.Scalar: _scaled("Add"),
    aten.addcmul.default: _add_product,
    aten.sub.Tensor: _scaled("Sub"),
    aten.neg.default: _elementwise("Neg"),
    aten.exp.default: _elementwise("Exp"),
    aten.abs.default: _elementwise("Abs"),
    aten.sigmoid.default: _elementwise("Sigmoid"),
    aten.softplus.default: _elementwise("Softplus"),
    aten.gt.Scalar: _elementwise("Greater"),
    aten.lt.Scalar: _elementwise("Less"),
    aten.lt.Tensor: _elementwise("Less"),
    aten.where.self: _elementwise("Where"),
    aten._to_copy.default: _to_float,
    aten.stack.default: _stack,
    aten.cat.default: _cat,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.relu.default: _elementwise("Relu"),
    aten.ones_like.default: _ones,
    aten.reciprocal.default: _elementwise("Reciprocal"),
    aten.rsqrt.default: _rsqrt,
    aten.pow.Tensor_Scalar: _power,
    aten.sum.default: _reduce("ReduceSum"),
    aten.sum.dim_IntList: _reduce("ReduceSum"),
    aten.mean.default: _reduce("ReduceMean"),
    aten.mean.dim: _reduce("ReduceMean"),
    aten.var_mean.correction: _var_mean,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten.expand.default: _same,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten.alias.default: _same,
    aten.t.default: _transpose_last,
    aten.permute.default: _permute,
    aten.mm.default: _matmul,
    aten.addmm.default: _addmm,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.convolution.default: convolutions.convolution,
    aten.convolution_backward.default: convolutions.convolution_backward,
    aten.constant_pad_nd.default: _pad,
    aten.max_pool2d_with_indices.default: pools.max_pool,
    aten.max_pool2d_with_indices_backward.default: pools.max_pool_backward,
    aten.avg_pool2d.default: pools.average_pool,
    aten.avg_pool2d_backward.default: pools.average_pool_backward,
    aten.threshold_backward.default: activations.relu_backward,
    aten.hardtanh.default: activations.hardtanh,
    aten.hardtanh_backward.default: activations.hardtanh_backward,
    aten.sigmoid_backward.default: activations.sigmoid_backward,
    aten.silu.default: activations.silu,
    aten.silu_backward.default: activations.silu_backward,
    aten.hardsigmoid.default: activations.hardsigmoid,
    aten.hardsigmoid_backward.default: activations.hardsigmoid_backward,
    aten.hardswish.default: activations.hardswish,
    aten.hardswish_backward.default: activations.hardswish_backward,
    operator.getitem: _getitem,
}
