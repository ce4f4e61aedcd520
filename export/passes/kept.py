"""Which streamed values are kept for all images after all, as computing them again would take too long."""

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from gems_edge.export.passes.levels import Levels
from gems_edge.graphs.liveness import TensorSize
from gems_edge.graphs.ops import row_of


def kept_values(levels: Levels, streamed: set[ir.Value], convolutions: int, cheap_macs: int) -> set[ir.Value]:
    """Enough for other levels to have what they need of the streamed values with no more than so many `convolutions`
    run again for each, those of at most `cheap_macs` not counted (is_product)."""
    costs = _Costs(levels, streamed, convolutions, cheap_macs)
    for node in levels.batches.graph:
        for value in node.outputs:
            if value in streamed and value not in costs.kept:
                readers = {levels.of_node[reader] for reader in value.consumers() if reader in levels.inside}
                if readers - {levels.of_node[node]} and costs.costly(value):
                    costs.kept |= costs.cheapest(value)[1]
    return costs.kept


class _Costs:
    """What it takes to have a streamed value again, given what is `kept` so far."""

    def __init__(self, levels: Levels, streamed: set[ir.Value], convolutions: int, cheap_macs: int):
        self.sizes, self.streamed, self.convolutions = levels.batches.sizes, streamed, convolutions
        self.products = {node for node in levels.batches.graph if is_product(node, self.sizes, cheap_macs)}
        self.kept: set[ir.Value] = set()

    def costly(self, value: ir.Value) -> bool:
        again = self._ancestors(value)
        return len(again & self.products) > self.convolutions

    def cheapest(self, value: ir.Value) -> tuple[int, frozenset[ir.Value]]:
        """Bytes, and the values to keep so that `value` is not costly: itself, or less of what it is made from."""
        itself = self.sizes[value].bytes, frozenset({value})
        node = _producer(value)
        if node in self.products:
            return itself
        costly_sources = [source for source in self._sources(node) if self.costly(source)]
        sources = frozenset[ir.Value]().union(*(self.cheapest(source)[1] for source in costly_sources))
        below = sum(self.sizes[source].bytes for source in sources), sources
        return below if sources and below[0] < itself[0] else itself

    def _ancestors(self, value: ir.Value) -> set[ir.Node]:
        """The nodes that compute `value` from values that are not streamed."""
        ancestors: set[ir.Node] = set()
        waiting = [value]
        while waiting:
            node = _producer(waiting.pop())
            if node not in ancestors:
                ancestors.add(node)
                waiting += self._sources(node)
        return ancestors

    def _sources(self, node: ir.Node) -> list[ir.Value]:
        """What `node` reads and is not there for all images."""
        return [value for value in node.inputs if value in self.streamed and value not in self.kept]


def is_product(node: ir.Node, sizes: Mapping[ir.Value, TensorSize], cheap_macs: int) -> bool:
    """Whether the node multiplies matrices; a convolution that picks patches only copies (weight_gradients.py).

    A convolution of single pixels, in one group, with no more than `cheap_macs` multiplications for an element takes
    no longer than an elementwise operation, and does not count. A depthwise one, of 9, takes much longer.
    """
    if _macs_of_pixel(node, sizes) <= cheap_macs:
        return False
    if node.op_type == "Conv" and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        filters = node.inputs[1].const_value.numpy()
        return not np.array_equal(filters.reshape(len(filters), -1), np.eye(len(filters)))
    return row_of(node.op_type).product


def _macs_of_pixel(node: ir.Node, sizes: Mapping[ir.Value, TensorSize]) -> float:
    """Multiplications for an element of a convolution of single pixels; of anything else no number is small enough."""
    if node.op_type != "Conv" or node.inputs[1] is None or node.attributes.get_int("group", 1) > 1:
        return math.inf
    _, inputs, *kernel = sizes[node.inputs[1]].shape
    return inputs if math.prod(kernel) == 1 else math.inf


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None  # nothing that is fed is streamed
    return node
