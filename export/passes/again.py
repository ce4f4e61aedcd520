"""Products of weights exist where they are read, not from the first layer of the forward pass to that of the backward
one.

A convolution whose normalisation has given statistics reads its weight times a scale, and so does its input's gradient.
Of all layers together these products are a second set of weights; computed again for each reader they are one layer's
at a time, for a thousandth of the work. onnxruntime joins nodes that are alike, so one of two has its factors the other
way round. It goes through a graph from its end, of a node's sources first to the one that comes last in the file: what
comes first there is computed right before it is read.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gems_edge.export.passes.batches import Batches

LEAST_BYTES = 1 << 16
_MOVES = frozenset({"Reshape", "Transpose"})


def compute_again(model: ir.Model, batches: Batches) -> bool:
    """Give every reader of a large product of weights, or of its transpose, one of its own, in the body of a Scan that
    reads it too. Whether there is any. `batches`: of `model`."""
    graph, large = batches.graph, _large_products(batches)
    front: dict[ir.Node, None] = {}
    for node in large:
        _with_sources(node, front)
    again = _Again(set(large))
    for node in large:
        for use in list(node.outputs[0].uses()):
            if use.node in again.large or use.node.graph is None:
                continue
            copies = again.copied(node)
            use.node.replace_input_with(use.idx, copies[-1].outputs[0])
            if use.node.graph is graph:
                front |= dict.fromkeys(copies)
            else:
                use.node.graph.insert_before(use.node.graph[0], copies)
    graph.remove([node for node in front if node.graph is graph])
    graph.insert_before(graph[0], list(front))
    RemoveUnusedNodesPass()(model)
    return bool(large)


class _Again:
    """Copies of chains of `large` nodes, each under names of its own."""

    def __init__(self, large: set[ir.Node]):
        self.large, self.count = large, 0
        self.turned: set[ir.Node] = set()  # those whose next copy has its inputs in the other order

    def copied(self, node: ir.Node) -> list[ir.Node]:
        """A copy of `node`, last, and of the large ones that it reads."""
        copies: list[ir.Node] = []
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            source = None if value is None else value.producer()
            if source in self.large:
                copies += self.copied(source)
                value = copies[-1].outputs[0]
            inputs.append(value)
        self.count += 1
        if node.op_type == "Mul":
            inputs = inputs[::-1] if node in self.turned else inputs
            self.turned ^= {node}
        new = ir.node(node.op_type, inputs, node.attributes, name=f"{node.name}.again.{self.count}")
        new.outputs[0].name = new.name
        return [*copies, new]


def _large_products(batches: Batches) -> list[ir.Node]:
    """Products of weights of at least LEAST_BYTES, and what only moves their elements."""
    found: dict[ir.Node, None] = {}
    for node in _of_weights(batches):
        moved = node.op_type in _MOVES and node.inputs[0] is not None and node.inputs[0].producer() in found
        if (node.op_type == "Mul" or moved) and batches.sizes[node.outputs[0]].bytes >= LEAST_BYTES:
            found[node] = None
    return list(found)


def _of_weights(batches: Batches) -> list[ir.Node]:
    """The nodes that no image and no target reaches, and that are not constants."""
    known: set[ir.Value] = {value for value in batches.graph.inputs if value not in batches.batched}
    constants: set[ir.Value] = set()
    found = []
    for node in batches.graph:
        sources = {value for value in node.inputs if value is not None and not value.is_initializer()} - constants
        if not sources:
            constants.update(node.outputs)
        elif sources <= known and len(node.outputs) == 1:
            known.update(node.outputs)
            found.append(node)
    return found


def _with_sources(node: ir.Node, found: dict[ir.Node, None]) -> None:
    """Enter `node` behind all that it is computed from."""
    for value in node.inputs:
        source = value.producer() if value is not None else None
        if source is not None and source not in found:
            _with_sources(source, found)
    found[node] = None
