"""Which values of a graph can exist for one image at a time."""

import onnx_ir as ir

from gems_edge.export.passes.batches import Batches
from gems_edge.graphs.ops import row_of


def streamed_values(batches: Batches, least_bytes: int) -> set[ir.Value]:
    """The large values, small ones that only they are made from, and pieces of them.

    A piece that was not streamed would be there for all images from when its value is computed: of a depthwise
    convolution's weight gradient, which reads a map a piece for each place of the kernel, from the forward pass on.
    """
    values = [value for node in batches.graph for value in node.outputs]
    streamed = {value for value in values if why_whole(batches, value, least_bytes) is None}
    for node in batches.graph:
        if any(value in streamed for value in node.inputs) and _copies(batches, node):
            if all(batches.splits(user) for value in node.outputs for user in value.consumers()):
                streamed |= _inner(node)
    for node in reversed(batches.graph):
        users = {user for value in node.outputs for user in value.consumers()}
        large = all(touches(user, streamed) and batches.splits(user) for user in users)
        if users and large and not row_of(node.op_type).product and node in batches.apart and not is_pool(node):
            streamed |= _inner(node)
    return streamed


def _copies(batches: Batches, node: ir.Node) -> bool:
    """Whether the node computes element by element, or takes and moves elements, and adds nothing up."""
    row = row_of(node.op_type)
    return node in batches.apart and not (row.product or row.over_images or is_pool(node))


def _inner(node: ir.Node) -> set[ir.Value]:
    return {value for value in node.outputs if not value.is_graph_output()}


def why_whole(batches: Batches, value: ir.Value, least_bytes: int) -> str | None:
    """Why a value has to, or had better, exist for all images; None if it is streamed.

    A pool's result is: it is a fraction of its input, and the next layer starts with it.
    """
    node = value.producer()
    if node is None or value not in batches.batched or value.is_graph_output():
        return "it is none of the maps in the graph"
    if batches.sizes[value].bytes < least_bytes:
        return f"it takes {batches.sizes[value].bytes} bytes, fewer than {least_bytes}"
    if node not in batches.apart:
        return f"its {node.op_type} is not of each image apart"
    if is_pool(node):
        return "it is a pool's result"
    mixing = [user.op_type for user in value.consumers() if not batches.splits(user)]
    return f"a {mixing[0]} needs it of all images" if mixing else None


def is_pool(node: ir.Node) -> bool:
    """Whether the node is a pool of the network; those by which its gradient finds the maxima read cast bytes."""
    if not row_of(node.op_type).pool or node.inputs[0] is None:
        return False
    source = node.inputs[0].producer()
    return source is None or source.op_type != "Cast"


def touches(node: ir.Node, values: set[ir.Value]) -> bool:
    return any(value in values for value in (*node.inputs, *node.outputs))
