"""A traced step on its way to ONNX: what each of its tensors and sizes is called in the graph so far.

Two things differ from a literal translation:
- `expand` writes nothing: ONNX arithmetic broadcasts, so the small tensor is kept until an operation needs its full
  shape.
- sizes that depend on the number of images or classes are computed inside the graph; all others are numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from gems_edge.export.builder import Dim, GraphBuilder, Value


@dataclass(frozen=True)
class DynamicNumber:
    """A scalar of the graph that depends on a dynamic size."""

    name: str
    floating: bool


class Translation:
    """`dynamic` maps the symbols of the dynamic sizes to their names; `sources` these to the graph input and the axis
    that carry them."""

    def __init__(self, builder: GraphBuilder, dynamic: Mapping[Any, str], sources: Mapping[str, tuple[Value, int]]):
        self.builder = builder
        self.dynamic = dynamic
        self.sources = sources
        # A tensor is a Value, an operation with several results a list of them, a size a number or a DynamicNumber.
        self.values: dict[fx.Node, Any] = {}

    # Sizes

    def dim(self, size: int | torch.SymInt) -> Dim:
        """A number, or an expression of dynamic names for a size that depends on them."""
        if isinstance(size, int):
            return self.dynamic.get(size, size)
        expression = size.node.expr
        symbols = expression.free_symbols & self.dynamic.keys()
        if not symbols:
            return cast(int, size.node.hint)
        if expression in self.dynamic:
            return self.dynamic[expression]
        return str(expression)

    def shape(self, node: fx.Node) -> tuple[Dim, ...]:
        """The shape that the traced program gives this tensor."""
        return tuple(self.dim(size) for size in node.meta["val"].shape)

    def size_of(self, name: str) -> str:
        """The dynamic size `name` as an int64 scalar in the graph."""
        value, axis = self.sources[name]
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
        value: Value = self.values[argument]
        return value

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
        if kind == "Mul" and any(_is_one(argument) for argument in arguments) and any(map(_is_tensor, arguments)):
            return next(self.tensor(argument) for argument in arguments if _is_tensor(argument))
        values = [self._operand(argument) for argument in arguments]
        # onnxruntime multiplies an [O, I, 1, 1] by a scalar number by number, by one of four axes all at once.
        if any(len(v.shape) == 4 and v.shape[2:] == (1, 1) for v in values):
            values = [self._deepened(argument, v) for argument, v in zip(arguments, values)]
        return Value(self.builder.op(kind, *(v.name for v in values)), broadcast(*(v.shape for v in values)))

    def _operand(self, argument: Any) -> Value:
        if isinstance(argument, Value):
            return argument
        return self.tensor(argument) if _is_tensor(argument) else Value(self.scalar_name(argument), ())

    def _deepened(self, argument: Any, value: Value) -> Value:
        """A Python number with four axes of length 1, other values as they are."""
        if not isinstance(argument, int | float):
            return value
        return Value(self.builder.constant(np.full((1,) * 4, argument, np.float32)), (1,) * 4)

    def number_name(self, number: Any, floating: bool) -> str:
        if isinstance(number, DynamicNumber):
            return self.builder.op("Cast", number.name, to=1) if floating and not number.floating else number.name
        return self.builder.constant(float(number) if floating else int(number))


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded))


def _is_one(argument: Any) -> bool:
    """Whether it is the number 1, which autograd multiplies by where a factor is left out."""
    return isinstance(argument, int | float) and argument == 1


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and isinstance(argument.meta["val"], torch.Tensor)
