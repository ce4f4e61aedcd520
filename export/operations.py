"""How each ATen operation is written in ONNX: one small function each, and the table of them."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export import backward
from gems_edge.export.builder import Value

if TYPE_CHECKING:
    from gems_edge.export.lowering import Lowering

aten = torch.ops.aten
_END = 2**63 - 1  # what ONNX takes for "to the last"


def _elementwise(kind: str) -> Callable:
    return lambda low, node, *arguments: low.elementwise(kind, *arguments)


def _scaled(kind: str) -> Callable:
    def lower(low: "Lowering", node: fx.Node, left, right, alpha=1):
        return low.elementwise(kind, left, right if alpha == 1 else low.elementwise("Mul", right, alpha))

    return lower


def _add_product(low: "Lowering", node: fx.Node, x, left, right, value=1):
    maps, scale, shift = low.tensor(left), _vector(low, right), _vector(low, x)
    if value == 1 and scale and shift and len(maps.shape) == 4:
        # One pass over the maps instead of two: y · scale / √(1 + 0) + shift − 0 · scale.
        mean, var = (low.builder.constant(np.full(maps.shape[1], number)) for number in (0.0, 1.0))
        name = low.builder.op("BatchNormalization", maps.name, scale, shift, mean, var, epsilon=0.0)
        return Value(name, maps.shape)
    product = low.elementwise("Mul", left, right)
    if value == -1:
        return low.elementwise("Sub", x, product)
    return low.elementwise("Add", product if value == 1 else low.elementwise("Mul", product, value), x)


def _vector(low: "Lowering", node: Any) -> str | None:
    """The [C] that a tensor [C, 1, 1] was made of by adding axes."""
    axes = 0
    while isinstance(node, fx.Node) and node.target is aten.unsqueeze.default:
        node, axes = node.args[0], axes + 1
    return low.tensor(node).name if axes == 2 and len(low.shape(node)) == 1 else None


def _same(low: "Lowering", node: fx.Node, x, *_) -> Value:
    return low.tensor(x)


def _ones(low: "Lowering", node: fx.Node, *_) -> Value:
    return Value(low.builder.constant(1.0), ())  # unexpanded


def _rsqrt(low: "Lowering", node: fx.Node, x) -> Value:
    value = low.tensor(x)
    return Value(low.builder.op("Reciprocal", low.builder.op("Sqrt", value.name)), value.shape)


def _power(low: "Lowering", node: fx.Node, x, exponent) -> Value:
    if exponent not in (1, 2, 3):
        raise UserError(f"cannot export: a power of {exponent}")
    value = low.tensor(x)
    name = value.name
    for _ in range(int(exponent) - 1):  # ONNX Pow is slow on whole maps
        name = low.builder.op("Mul", name, value.name)
    return Value(name, value.shape)


def _reduce(kind: str) -> Callable:
    def lower(low: "Lowering", node: fx.Node, x, axes=None, keepdim=False) -> Value:
        rank = len(x.meta["val"].shape)
        axes = list(range(rank)) if not axes else [axis % rank for axis in axes]
        name = low.builder.op(kind, low.full(x), low.builder.constant(axes), keepdims=int(keepdim))
        return Value(name, low.shape(node))

    return lower


def _var_mean(low: "Lowering", node: fx.Node, x, axes, correction=1, keepdim=False) -> list[Value]:
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


def _unsqueeze(low: "Lowering", node: fx.Node, x, axis) -> Value:
    value, rank = low.tensor(x), len(node.meta["val"].shape)
    at = axis % rank - (rank - 1 - len(value.shape))
    if at < 0:
        return value
    shape = (*value.shape[:at], 1, *value.shape[at:])
    return Value(low.builder.op("Unsqueeze", value.name, low.builder.constant([at])), shape)


def _squeeze(low: "Lowering", node: fx.Node, x, axes) -> Value:
    value, full = low.tensor(x), low.shape(x)
    axes = [axis % len(full) for axis in (axes if isinstance(axes, list | tuple) else [axes])]
    missing = len(full) - len(value.shape)
    at = [axis - missing for axis in axes if full[axis] == 1 and axis >= missing]
    if not at:
        return value
    shape = tuple(size for i, size in enumerate(value.shape) if i not in at)
    return Value(low.builder.op("Squeeze", value.name, low.builder.constant(at)), shape)


def _view(low: "Lowering", node: fx.Node, x, sizes) -> Value:
    shape = low.shape(node)
    if low.tensor(x).shape == shape:
        return low.tensor(x)
    return Value(low.builder.op("Reshape", low.full(x), low.shape_name(sizes)), shape)


def _permute(low: "Lowering", node: fx.Node, x, axes) -> Value:
    shape = low.shape(x)
    axes = [axis % len(shape) for axis in axes]
    return Value(low.builder.op("Transpose", low.full(x), perm=axes), tuple(shape[axis] for axis in axes))


def _matmul(low: "Lowering", node: fx.Node, a, b) -> Value:
    return Value(low.builder.op("MatMul", low.full(a), low.full(b)), low.shape(node))


def _addmm(low: "Lowering", node: fx.Node, bias, a, b) -> Value:
    product = low.builder.op("MatMul", low.full(a), low.full(b))
    return Value(low.builder.op("Add", product, low.tensor(bias).name), low.shape(node))


def _log_softmax(low: "Lowering", node: fx.Node, x, axis, _half) -> Value:
    return Value(low.builder.op("LogSoftmax", low.full(x), axis=axis), low.shape(node))


def _log_softmax_backward(low: "Lowering", node: fx.Node, gradient, output, axis, _dtype) -> Value:
    b = low.builder
    total = b.op("ReduceSum", low.full(gradient), b.constant([axis]), keepdims=1)
    return Value(b.op("Sub", low.full(gradient), b.op("Mul", b.op("Exp", low.full(output)), total)), low.shape(node))


def _convolution(
    low: "Lowering", node: fx.Node, x, weight, bias, stride, padding, dilation, transposed, _padding, groups
) -> Value:
    backward.require_plain(node, stride, dilation, transposed, groups)
    inputs = [low.full(x), low.full(weight)] + ([low.full(bias)] if bias is not None else [])
    kernel = list(low.shape(weight)[2:])
    name = low.builder.op("Conv", *inputs, kernel_shape=kernel, pads=[*padding, *padding], strides=[1, 1])
    return Value(name, low.shape(node))


def _convolution_backward(
    low: "Lowering",
    node: fx.Node,
    gradient,
    x,
    weight,
    _bias,
    stride,
    padding,
    dilation,
    transposed,
    _padding,
    groups,
    mask,
):
    backward.require_plain(node, stride, dilation, transposed, groups)
    b, g = low.builder, low.full(gradient)
    shape_x, shape_w = low.shape(x), low.shape(weight)
    dx = dw = db = None
    if mask[0]:
        dx = Value(backward.convolution_input(b, g, low.full(weight), shape_w, padding), shape_x)
    if mask[1]:
        dw = Value(backward.convolution_weight(b, g, low.full(x), shape_x, shape_w, padding), shape_w)
    if mask[2]:
        db = Value(b.op("ReduceSum", g, b.constant([0, 2, 3]), keepdims=0), shape_w[:1])
    return [dx, dw, db]


def _max_pool(low: "Lowering", node: fx.Node, x, kernel, stride=None, *rest) -> list[Value | None]:
    backward.require_halving(node, kernel, stride, rest)
    name = low.builder.op("MaxPool", low.full(x), kernel_shape=[2, 2], strides=[2, 2])
    return [Value(name, tuple(low.dim(s) for s in node.meta["val"][0].shape)), None]  # no Indices: 9× slower


def _max_pool_backward(
    low: "Lowering", node: fx.Node, gradient, x, kernel, stride, padding, dilation, ceil, _indices
) -> Value:
    backward.require_halving(node, kernel, stride, (padding, dilation, ceil))
    return Value(backward.max_pool(low.builder, low.full(gradient), low.full(x), low.shape(x)), low.shape(x))


def _relu_backward(low: "Lowering", node: fx.Node, gradient, output, threshold) -> Value:
    """d ReLU: the gradient where the output is above the threshold (0)."""
    b = low.builder
    positive = b.op("Greater", low.full(output), b.constant(float(threshold)))
    return Value(backward.masked(b, low.full(gradient), positive), low.shape(node))


def _stack(low: "Lowering", node: fx.Node, tensors, axis=0) -> Value:
    at = low.builder.constant([axis % len(node.meta["val"].shape)])
    parts = [low.builder.op("Unsqueeze", low.full(tensor), at) for tensor in tensors]
    return Value(low.builder.op("Concat", *parts, axis=axis), low.shape(node))


def _cat(low: "Lowering", node: fx.Node, tensors, axis=0) -> Value:
    return Value(low.builder.op("Concat", *(low.full(tensor) for tensor in tensors), axis=axis), low.shape(node))


def _select(low: "Lowering", node: fx.Node, x, axis, index) -> Value:
    name = low.builder.op("Gather", low.full(x), low.builder.constant(np.int64(index)), axis=axis)
    return Value(name, low.shape(node))


def _slice(low: "Lowering", node: fx.Node, x, axis=0, start=None, end=None, step=1) -> Value:
    bounds = [[start or 0], [_END if end is None else end], [axis], [step]]
    name = low.builder.op("Slice", low.full(x), *(low.builder.constant(bound) for bound in bounds))
    return Value(name, low.shape(node))


def _compared(kind: str) -> Callable:
    """A condition; _to_copy or where makes numbers of it."""
    return lambda low, node, left, right: low.elementwise(kind, left, right)


def _to_float(low: "Lowering", node: fx.Node, x) -> Value:
    if node.meta["val"].dtype != torch.float32:
        raise UserError(f"cannot export: a conversion to {node.meta['val'].dtype}")
    value = low.tensor(x)
    return (
        value if x.meta["val"].dtype == torch.float32 else Value(low.builder.op("Cast", value.name, to=1), value.shape)
    )


def _where(low: "Lowering", node: fx.Node, condition, left, right) -> Value:
    return low.elementwise("Where", condition, left, right)


def _getitem(low: "Lowering", node: fx.Node, source, index) -> Any:
    return low.values[source][index]


def _transpose_last(low: "Lowering", node: fx.Node, x) -> Value:
    return _permute(low, node, x, [1, 0])


TABLE: dict[Any, Callable] = {
    aten.mul.Tensor: _elementwise("Mul"),
    aten.mul.Scalar: _elementwise("Mul"),
    aten.div.Tensor: _elementwise("Div"),
    aten.div.Scalar: _elementwise("Div"),
    aten.add.Tensor: _scaled("Add"),
    aten.addcmul.default: _add_product,
    aten.sub.Tensor: _scaled("Sub"),
    aten.neg.default: _elementwise("Neg"),
    aten.abs.default: _elementwise("Abs"),
    aten.sigmoid.default: _elementwise("Sigmoid"),
    aten.softplus.default: _elementwise("Softplus"),
    aten.gt.Scalar: _compared("Greater"),
    aten.lt.Scalar: _compared("Less"),
    aten.lt.Tensor: _compared("Less"),
    aten.where.self: _where,
    aten._to_copy.default: _to_float,
    aten.stack.default: _stack,
    aten.cat.default: _cat,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.relu.default: _elementwise("Relu"),
    aten.ones_like.default: _ones,
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
    aten.alias.default: _same,
    aten.t.default: _transpose_last,
    aten.permute.default: _permute,
    aten.mm.default: _matmul,
    aten.addmm.default: _addmm,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten.threshold_backward.default: _relu_backward,
    operator.getitem: _getitem,
}
