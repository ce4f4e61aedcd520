"""What the passes ask of a node and its tensors, over onnx_ir. Shapes must be there, as numbers (shapes.py)."""

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from gems_edge.graphs.liveness import TensorSize


def attributes(node: ir.Node) -> dict[str, Any]:
    """The values of a node's attributes by name; what has its default is not among them."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def inputs_of(node: ir.Node) -> list[ir.Value]:
    """What a node reads; optional inputs that are left out are left out."""
    return [value for value in node.inputs if value is not None]


def outputs_of(node: ir.Node) -> list[ir.Value]:
    """What a node gives, without outputs that nobody asked for."""
    return [value for value in node.outputs if value.name]


def name_of(value: ir.Value) -> str:
    if value.name is None:
        raise ValueError("a tensor of the graph has no name")
    return value.name


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """ValueError if the shape is not known."""
    if value.shape is None:
        raise ValueError(f"the shape of {value.name} is not known")
    return value.shape.numpy()


def size_of(value: ir.Value) -> TensorSize:
    """ValueError if shape or type are not known."""
    if value.dtype is None:
        raise ValueError(f"the type of {value.name} is not known")
    return TensorSize(shape_of(value), item_bytes(value.dtype))


def item_bytes(dtype: ir.DataType) -> int:
    """Bytes of an element as onnxruntime's arena holds it."""
    return max(1, int(dtype.numpy().itemsize))


def only_reader(value: ir.Value) -> ir.Node | None:
    """The only node that reads a tensor, and reads it once; None if several do, or if it is a graph output."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def body_of(node: ir.Node) -> ir.Graph | None:
    """The graph inside a Scan; None for other nodes."""
    return node.attributes["body"].as_graph() if node.op_type == "Scan" else None


def graphs_of(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and those inside its Scans."""
    yield graph
    for node in graph:
        body = body_of(node)
        if body is not None:
            yield from graphs_of(body)


def captured_by(body: ir.Graph) -> list[ir.Value]:
    """What the nodes of `body` read of the graph around it, in the order in which they do."""
    inside = {*body.inputs, *body.initializers.values()} | {value for node in body for value in node.outputs}
    return [value for value in dict.fromkeys(v for node in body for v in inputs_of(node)) if value not in inside]


def absorb(node: ir.Node, follower: ir.Node) -> None:
    """Have `node` give what its only reader `follower` gives, and drop that."""
    mine, theirs = node.outputs[0], follower.outputs[0]
    name, graph = theirs.name, follower.graph
    assert graph is not None
    theirs.replace_all_uses_with(mine, replace_graph_outputs=True)
    mine.shape, mine.type = theirs.shape, theirs.type
    graph.remove(follower, safe=True)
    mine.name = name
