"""From a traced step (an FX graph of ATen operations) to ONNX operations.

operations.py gives one small function per operation. An operation that is not in its table is refused by name. Two things
differ from a literal translation:
- `expand` writes nothing: ONNX arithmetic broadcasts, so the small tensor is kept until an operation needs its full shape.
- sizes that depend on the number of images or classes are computed inside the graph; all others are numbers.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export.builder import Dim, GraphBuilder, Value
from gems_edge.export.operations import TABLE

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
            return self.dynamic.get(size, size)
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
        if not floating and isinstance(argument, int) and argument in self.dynamic:
            return DynamicNumber(self.size_of(self.dynamic[argument]), floating=False)
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
            self.builder.op("Unsqueeze", number.name, axis)
            if isinstance(number, DynamicNumber)
            else self.builder.constant([int(number)])
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
        parts = [
            self.builder.op("Unsqueeze", self.size_of(d), self.builder.constant([0]))
            if isinstance(d, str)
            else self.builder.constant([d])
            for d in shape
        ]
        return self.builder.op("Expand", value.name, self.builder.op("Concat", *parts, axis=0))

    def elementwise(self, kind: str, *arguments: Any) -> Value:
        """An operation on nodes, values or numbers, broadcast."""
        values = [self._operand(argument) for argument in arguments]
        return Value(self.builder.op(kind, *(v.name for v in values)), broadcast(*(v.shape for v in values)))

    def _operand(self, argument: Any) -> Value:
        if isinstance(argument, Value):
            return argument
        return self.tensor(argument) if _is_tensor(argument) else Value(self.scalar_name(argument), ())

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
                "supported are Conv-4 and ResNet-12 with maml, anil, boil, bmp and mmsup"
            )
        return lower(
            self,
            node,
            *node.args,
            **{k: v for k, v in node.kwargs.items() if k in ("alpha", "keepdim", "correction", "value")},
        )

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
        floating = (
            any(isinstance(n, float) or (isinstance(n, DynamicNumber) and n.floating) for n in numbers) or kind == "Div"
        )
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
