"""From a traced step (an FX graph of ATen operations) to ONNX operations.

operations.py gives one small function per operation. An operation that is not in its table is refused by name.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export.builder import Value
from gems_edge.export.operations import TABLE
from gems_edge.export.translation import DynamicNumber, Translation

aten = torch.ops.aten
# The arguments by name that change what an operation computes; others say where and in what type.
_NAMED_ARGUMENTS = frozenset({"alpha", "keepdim", "correction", "value"})
_SIZE_ARITHMETIC: dict[Any, str] = {
    operator.mul: "Mul",
    operator.add: "Add",
    operator.sub: "Sub",
    operator.truediv: "Div",
}


def lower(low: Translation, graph: fx.Graph, inputs: Sequence[Value]) -> list[Value]:
    """Write `graph`, whose placeholders are `inputs` in order; returns its outputs in their full shapes."""
    placeholders = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            low.values[node] = next(placeholders)
        elif node.op == "get_attr":
            low.values[node] = _constant(low, getattr(graph.owning_module, str(node.target)))
        elif node.op == "call_function":
            low.values[node] = _call(low, node)
        elif node.op == "output":
            return [Value(low.full(result), low.shape(result)) for result in node.args[0]]
        else:
            raise UserError(f"cannot export: the traced step holds a {node.op} ({node.target})")
    raise UserError("cannot export: the traced step has no output")


def _constant(low: Translation, tensor: torch.Tensor) -> Value:
    """Numbers that the traced program made a tensor of."""
    return Value(low.builder.constant(tensor.numpy()), tuple(tensor.shape))


def _call(low: Translation, node: fx.Node) -> Any:
    value = node.meta["val"]
    if isinstance(value, int | float):
        return value
    if isinstance(value, torch.SymInt | torch.SymFloat):
        depends = value.node.expr.free_symbols & low.dynamic.keys()
        return _size(low, node) if depends else value.node.hint
    operation = TABLE.get(node.target)
    if operation is None:
        raise _no_form(node)
    return operation(low, node, *node.args, **{k: v for k, v in node.kwargs.items() if k in _NAMED_ARGUMENTS})


def _size(low: Translation, node: fx.Node) -> DynamicNumber:
    """A size that depends on a dynamic one, or a number computed from such sizes."""
    if node.target is aten.sym_size.int:
        name = low.dim(node.meta["val"])
        if name not in low.sources:
            raise UserError(f"cannot export: a size of the traced step is the expression {name}")
        return DynamicNumber(low.size_of(str(name)), False)
    arguments: tuple[Any, ...] = node.args
    if node.target is aten.sym_numel.default:
        return DynamicNumber(low.builder.op("Size", low.full(arguments[0])), False)
    if node.target is torch.sym_float:
        return DynamicNumber(low.builder.op("Cast", low.values[arguments[0]].name, to=1), True)
    kind = _SIZE_ARITHMETIC.get(node.target)
    if kind is None:
        raise _no_form(node)
    numbers = [low.scalar(argument, floating=False) for argument in arguments]
    floating = kind == "Div" or any(
        number.floating if isinstance(number, DynamicNumber) else isinstance(number, float) for number in numbers
    )
    return DynamicNumber(low.builder.op(kind, *(low.number_name(number, floating) for number in numbers)), floating)


def _no_form(node: fx.Node) -> UserError:
    return UserError(
        f"cannot export: no ONNX form for the operation {node.target} (traced by torch {torch.__version__}); "
        "docs/networks.md lists the layers that a network may be made of"
    )
