"""What an ONNX op computes for each image apart: a rule for each kind of op (ops.py says which has which).

A tensor is *of all images* if its first axis is the images. A rule is asked about a node that reads such tensors and
whose outputs are such tensors: does it compute each image's part of its output from the same image's part of its
inputs? Shapes are asked of the values: they must be there, as numbers (shapes.py).
"""

from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a workstation's package, which the table itself does not need
    import onnx_ir as ir

# (node, those of its inputs that are of all images) → whether it keeps the images apart
Apart = Callable[["ir.Node", Set["ir.Value"]], bool]


def whole_numbers(node: "ir.Node", slot: int) -> list[int] | None:
    """The values of an input that is a constant of whole numbers; None for another, and for one that is left out."""
    value = node.inputs[slot] if len(node.inputs) > slot else None
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    numbers: list[int] = value.const_value.numpy().ravel().tolist()
    return numbers


def attribute(node: "ir.Node", name: str, default: Any) -> Any:
    """The value of a node's attribute, `default` if the node does not have it."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def rank_of(value: "ir.Value | None") -> int:
    """Number of axes of a tensor whose shape is known."""
    if value is None or value.shape is None:
        raise ValueError(f"the shape of {value} is not known")
    return len(value.shape)


def reduced_axes(node: "ir.Node") -> set[int] | None:
    """The axes of a reduction, counted from the front; None if the graph computes them."""
    rank = rank_of(node.inputs[0])
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return set(range(rank))
    axes = whole_numbers(node, 1)
    return None if axes is None else {axis % rank for axis in axes}


def elementwise(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    rank = rank_of(node.outputs[0])
    return all(
        rank_of(value) == rank if value in batched else rank_of(value) < rank or _sides(value)[0] == 1
        for value in node.inputs
        if value is not None
    )


def first_alone(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    """Whether only the first input is of all images."""
    return batched == {node.inputs[0]}


def product(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    rank, first = rank_of(node.outputs[0]), node.inputs[0]
    # The same matrices for every image may stand before as well as behind.
    shared = rank > 2 and first is not None and (rank_of(first) < rank or _sides(first)[0] == 1)
    return (first in batched or shared) and all(rank_of(value) == rank for value in batched)


def linear(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    return first_alone(node, batched) and not attribute(node, "transA", 0)


def along_axis(default: int) -> Apart:
    """Of an op whose attribute `axis` (`default` if the node does not have it) names the axis along which it works."""

    def rule(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
        axis = attribute(node, "axis", default)
        return first_alone(node, batched) and axis % rank_of(node.inputs[0]) != 0

    return rule


def flatten(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    return bool(attribute(node, "axis", 1) == 1)


def concatenation(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    axis = attribute(node, "axis", 0)
    return axis % rank_of(node.outputs[0]) != 0 and all(value in batched for value in node.inputs)


def transposition(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    perm = attribute(node, "perm", None)
    return perm is not None and perm[0] == 0


def reduction(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    axes = reduced_axes(node)
    return axes is not None and 0 not in axes


def reshape(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    shape = whole_numbers(node, 1)
    return (
        first_alone(node, batched) and shape is not None and shape[0] in (0, -1) and not attribute(node, "allowzero", 0)
    )


def resizing(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    """By a factor, the images' own being 1: sizes would be those of all images."""
    return first_alone(node, batched) and (len(node.inputs) < 4 or node.inputs[3] is None)


def padding(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    pads = whole_numbers(node, 1)
    all_axes = len(node.inputs) < 4
    rank = rank_of(node.outputs[0])
    return first_alone(node, batched) and all_axes and pads is not None and pads[0] == pads[rank] == 0


def axes_at(slot: int) -> Apart:
    """Of an op that reads the axes along which it works as its input number `slot`."""

    def rule(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
        axes = whole_numbers(node, slot)
        # Negative axes count from the end of whichever tensor has more of them (Unsqueeze: the output).
        rank = max(rank_of(node.inputs[0]), rank_of(node.outputs[0]))
        return first_alone(node, batched) and axes is not None and all(axis % rank for axis in axes)

    return rule


def _sides(value: "ir.Value") -> tuple[int, ...]:
    if value.shape is None:
        raise ValueError(f"the shape of {value} is not known")
    return value.shape.numpy()
