"""From a traced step (an FX graph of ATen operations) to ONNX operations.

A table gives one small function per operation. An operation that is not in the table is refused by name. Two things
differ from a literal translation:
- `expand` writes nothing: ONNX arithmetic broadcasts, so the small tensor is kept until an operation needs its full shape.
- sizes that depend on the number of images or classes are computed inside the graph; all others are numbers.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export import backward
from gems_edge.export.builder import Dim, GraphBuilder, Value

aten = torch.ops.aten


class Lowering:
    """Walks one FX graph; `dynamic` maps the symbols of the dynamic sizes to their names."""

    def __init__(self, builder: GraphBuilder, dynamic: dict[Any, str], sources: dict[str, tuple[Value, int]]):
        self.builder = builder
        self.dynamic = dynamic
        self._sources = sources  # dynamic name → (graph input, axis) that carries the size
        self.values: dict[fx.Node, Any] = {}

    # Sizes

    def dim(self, size: int | torch.SymInt) -> Dim:
        """A number, or an expression of dynamic names for a size that depends on them."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        symbols = expression.free_symbols & self.dynamic.keys()
        if not symbols:
            return int(size.node.hint)
        if expression in self.dynamic:
            return self.dynamic[expression]
        return str(expression)

    def shape(self, node: fx.Node) -> tuple[Dim, ...]:
        """The shape that the traced program gives this tensor."""
        return tuple(self.dim(size) for size in node.meta["val"].shape)

    def size_of(self, name: str) -> str:
        """The dynamic size `name` as an int64 scalar in the graph."""
        value, axis = self._sources[name]
        shape = self.builder.op("Shape", value.name, start=axis, end=axis + 1)
        return self.builder.op("Squeeze", shape)

    def scalar(self, argument: Any, floating: bool = True) -> Any:
        """A Python number, or the name of a scalar in the graph when it depends on a dynamic size."""
        if isinstance(argument, fx.Node):
            return self.values[argument]
        return float(argument) if floating else argument

    def scalar_name(self, argument: Any) -> str:
        value = self.scalar(argument)
        if isinstance(value, DynamicNumber):
            return value.name if value.floating else self.builder.op("Cast", value.name, to=1)
        return self.builder.constant(float(value))

    def shape_name(self, sizes: Sequence[Any]) -> str:
        """A one-dimensional int64 tensor of `sizes`; at most one dynamic size is written as −1."""
        numbers = [self.scalar(size, floating=False) for size in sizes]
        dynamic = [i for i, number in enumerate(numbers) if isinstance(number, DynamicNumber)]
        if len(dynamic) <= 1:
            return self.builder.constant([-1 if i in dynamic else int(number) for i, number in enumerate(numbers)])
        axis = self.builder.constant([0])
        parts = [
            self.builder.op("Unsqueeze", number.name, axis) if isinstance(number, DynamicNumber) else self.builder.constant([int(number)])
            for number in numbers
        ]
        return self.builder.op("Concat", *parts, axis=0)

    # Tensors

    def tensor(self, argument: fx.Node) -> Value:
        """The value of a tensor node, possibly still unexpanded."""
        return self.values[argument]

    def full(self, argument: fx.Node) -> str:
        """The name of a tensor in the full shape that the traced program gives it."""
        value, shape = self.tensor(argument), self.shape(argument)
        if value.shape == shape:
            return value.name
        parts = [self.builder.op("Unsqueeze", self.size_of(d), self.builder.constant([0])) if isinstance(d, str) else self.builder.constant([d]) for d in shape]
        return self.builder.op("Expand", value.name, self.builder.op("Concat", *parts, axis=0))

    def elementwise(self, kind: str, *arguments: Any) -> Value:
        values = [self.tensor(a) if _is_tensor(a) else Value(self.scalar_name(a), ()) for a in arguments]
        return Value(self.builder.op(kind, *(v.name for v in values)), broadcast(*(v.shape for v in values)))

    def run(self, graph: fx.Graph, inputs: Sequence[Value]) -> list[Value]:
        """Lower `graph`, whose placeholders are `inputs` in order; returns its outputs in their full shapes."""
        placeholders = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = next(placeholders)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                return [Value(self.full(result), self.shape(result)) for result in node.args[0]]
            else:
                raise UserError(f"cannot export: the traced step holds a {node.op} ({node.target})")
        raise UserError("cannot export: the traced step has no output")

    def _call(self, node: fx.Node) -> Any:
        value = node.meta["val"]
        if isinstance(value, int | float | torch.SymInt | torch.SymFloat) and not _depends(value, self.dynamic):
            return value if isinstance(value, int | float) else value.node.hint
        if node.target in _SYMBOLIC:
            return self._symbolic(node)
        lower = TABLE.get(node.target)
        if lower is None:
            raise UserError(
                f"cannot export: no ONNX form for the operation {node.target} (traced by torch {torch.__version__}); "
                "supported are Conv-4 and ResNet-12 with maml, anil, boil"
            )
        return lower(self, node, *node.args, **{k: v for k, v in node.kwargs.items() if k in ("alpha", "keepdim", "correction")})

    def _symbolic(self, node: fx.Node) -> Any:
        if node.target is aten.sym_size.int:
            name = self.dim(node.meta["val"])
            if name not in self._sources:
                raise UserError(f"cannot export: a size of the traced step is the expression {name}")
            return DynamicNumber(self.size_of(name), False)
        if node.target is aten.sym_numel.default:
            return DynamicNumber(self.builder.op("Size", self.full(node.args[0])), False)
        if node.target is torch.sym_float:
            return DynamicNumber(self.builder.op("Cast", self.values[node.args[0]].name, to=1), True)
        kind = _SYMBOLIC[node.target]
        numbers = [self.scalar(argument, floating=False) for argument in node.args]
        floating = any(isinstance(n, float) or (isinstance(n, DynamicNumber) and n.floating) for n in numbers) or kind == "Div"
        names = [self._number_name(number, floating) for number in numbers]
        return DynamicNumber(self.builder.op(kind, *names), floating)

    def _number_name(self, number: Any, floating: bool) -> str:
        if isinstance(number, DynamicNumber):
            return self.builder.op("Cast", number.name, to=1) if floating and not number.floating else number.name
        return self.builder.constant(float(number) if floating else int(number))


class DynamicNumber:
    """A scalar of the graph that depends on a dynamic size."""

    def __init__(self, name: str, floating: bool):
        self.name = name
        self.floating = floating


_SYMBOLIC = {
    aten.sym_size.int: None,
    aten.sym_numel.default: None,
    torch.sym_float: None,
    operator.mul: "Mul",
    operator.add: "Add",
    operator.sub: "Sub",
    operator.truediv: "Div",
}


def _depends(value: Any, dynamic: dict[Any, str]) -> bool:
    return isinstance(value, torch.SymInt | torch.SymFloat) and bool(value.node.expr.free_symbols & dynamic.keys())


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and isinstance(argument.meta["val"], torch.Tensor)


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded))


def _elementwise(kind: str) -> Callable:
    return lambda low, node, *arguments: low.elementwise(kind, *arguments)


def _scaled(kind: str) -> Callable:
    def lower(low: Lowering, node: fx.Node, left, right, alpha=1):
        if alpha != 1:
            raise UserError(f"cannot export: {node.target} with alpha {alpha}")
        return low.elementwise(kind, left, right)

    return lower


def _same(low: Lowering, node: fx.Node, x, *_) -> Value:
    return low.tensor(x)


def _ones(low: Lowering, node: fx.Node, *_) -> Value:
    return Value(low.builder.constant(1.0), ())  # unexpanded


def _rsqrt(low: Lowering, node: fx.Node, x) -> Value:
    value = low.tensor(x)
    return Value(low.builder.op("Reciprocal", low.builder.op("Sqrt", value.name)), value.shape)


def _power(low: Lowering, node: fx.Node, x, exponent) -> Value:
    if exponent not in (2, 3):
        raise UserError(f"cannot export: a power of {exponent}")
    value = low.tensor(x)
    name = value.name
    for _ in range(exponent - 1):  # ONNX Pow is slow on whole maps
        name = low.builder.op("Mul", name, value.name)
    return Value(name, value.shape)


def _reduce(kind: str) -> Callable:
    def lower(low: Lowering, node: fx.Node, x, axes=None, keepdim=False) -> Value:
        rank = len(x.meta["val"].shape)
        axes = list(range(rank)) if not axes else [axis % rank for axis in axes]
        name = low.builder.op(kind, low.full(x), low.builder.constant(axes), keepdims=int(keepdim))
        return Value(name, low.shape(node))

    return lower


def _var_mean(low: Lowering, node: fx.Node, x, axes, correction=1, keepdim=False) -> list[Value]:
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


def _unsqueeze(low: Lowering, node: fx.Node, x, axis) -> Value:
    value, rank = low.tensor(x), len(node.meta["val"].shape)
    at = axis % rank - (rank - 1 - len(value.shape))
    if at < 0:
        return value
    shape = (*value.shape[:at], 1, *value.shape[at:])
    return Value(low.builder.op("Unsqueeze", value.name, low.builder.constant([at])), shape)


def _squeeze(low: Lowering, node: fx.Node, x, axes) -> Value:
    value, full = low.tensor(x), low.shape(x)
    axes = [axis % len(full) for axis in (axes if isinstance(axes, list | tuple) else [axes])]
    missing = len(full) - len(value.shape)
    at = [axis - missing for axis in axes if full[axis] == 1 and axis >= missing]
    if not at:
        return value
    shape = tuple(size for i, size in enumerate(value.shape) if i not in at)
    return Value(low.builder.op("Squeeze", value.name, low.builder.constant(at)), shape)


def _view(low: Lowering, node: fx.Node, x, sizes) -> Value:
    shape = low.shape(node)
    if low.tensor(x).shape == shape:
        return low.tensor(x)
    return Value(low.builder.op("Reshape", low.full(x), low.shape_name(sizes)), shape)


def _permute(low: Lowering, node: fx.Node, x, axes) -> Value:
    shape = low.shape(x)
    axes = [axis % len(shape) for axis in axes]
    return Value(low.builder.op("Transpose", low.full(x), perm=axes), tuple(shape[axis] for axis in axes))


def _matmul(low: Lowering, node: fx.Node, a, b) -> Value:
    return Value(low.builder.op("MatMul", low.full(a), low.full(b)), low.shape(node))


def _addmm(low: Lowering, node: fx.Node, bias, a, b) -> Value:
    product = low.builder.op("MatMul", low.full(a), low.full(b))
    return Value(low.builder.op("Add", product, low.tensor(bias).name), low.shape(node))


def _log_softmax(low: Lowering, node: fx.Node, x, axis, _half) -> Value:
    return Value(low.builder.op("LogSoftmax", low.full(x), axis=axis), low.shape(node))


def _log_softmax_backward(low: Lowering, node: fx.Node, gradient, output, axis, _dtype) -> Value:
    b = low.builder
    total = b.op("ReduceSum", low.full(gradient), b.constant([axis]), keepdims=1)
    return Value(b.op("Sub", low.full(gradient), b.op("Mul", b.op("Exp", low.full(output)), total)), low.shape(node))


def _convolution(low: Lowering, node: fx.Node, x, weight, bias, stride, padding, dilation, transposed, _padding, groups) -> Value:
    backward.require_plain(node, stride, dilation, transposed, groups)
    inputs = [low.full(x), low.full(weight)] + ([low.full(bias)] if bias is not None else [])
    kernel = list(low.shape(weight)[2:])
    name = low.builder.op("Conv", *inputs, kernel_shape=kernel, pads=[*padding, *padding], strides=[1, 1])
    return Value(name, low.shape(node))


def _convolution_backward(low: Lowering, node: fx.Node, gradient, x, weight, _bias, stride, padding, dilation, transposed, _padding, groups, mask):
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


def _max_pool(low: Lowering, node: fx.Node, x, kernel, stride=None, *rest) -> list[Value | None]:
    backward.require_halving(node, kernel, stride, rest)
    name = low.builder.op("MaxPool", low.full(x), kernel_shape=[2, 2], strides=[2, 2])
    return [Value(name, tuple(low.dim(s) for s in node.meta["val"][0].shape)), None]  # no Indices: 9× slower


def _max_pool_backward(low: Lowering, node: fx.Node, gradient, x, kernel, stride, padding, dilation, ceil, _indices) -> Value:
    backward.require_halving(node, kernel, stride, (padding, dilation, ceil))
    return Value(backward.max_pool(low.builder, low.full(gradient), low.full(x), low.shape(x)), low.shape(x))


def _relu_backward(low: Lowering, node: fx.Node, gradient, output, threshold) -> Value:
    """d ReLU: the gradient where the output is above the threshold (0)."""
    b = low.builder
    positive = b.op("Greater", low.full(output), b.constant(float(threshold)))
    return Value(b.op("Where", positive, low.full(gradient), b.constant(0.0)), low.shape(node))


def _getitem(low: Lowering, node: fx.Node, source, index) -> Any:
    return low.values[source][index]


def _transpose_last(low: Lowering, node: fx.Node, x) -> Value:
    return _permute(low, node, x, [1, 0])


TABLE: dict[Any, Callable] = {
    aten.mul.Tensor: _elementwise("Mul"),
    aten.mul.Scalar: _elementwise("Mul"),
    aten.div.Tensor: _elementwise("Div"),
    aten.div.Scalar: _elementwise("Div"),
    aten.add.Tensor: _scaled("Add"),
    aten.sub.Tensor: _scaled("Sub"),
    aten.neg.default: _elementwise("Neg"),
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
