"""The steps of weights that are vectors, several as one: θ − rate · gradient of all of them behind each other.

Pattern: Sub of a fed vector and the product of its gradient and a number, which is an output of the graph. Of a mobile
network there are a hundred such vectors, two for each normalisation, and two nodes for each take onnxruntime 10 µs,
however short it is. Only vectors that lie near each other go together: their gradients are sums over maps and over
gradients of matrices, which all would wait for the last of them. The graph's inputs and outputs stay what they are.
"""

from collections import defaultdict
from dataclasses import dataclass

import onnx_ir as ir

from gems_edge.export.passes.rewriting import constant, replace, tidy

LEAST = 3  # vectors, from which on two Concats and a Split take less than what they save
# Vectors that wait for each other. A step of EfficientNet-Lite0 from block 11 on 25 images of 128 pixels, "balanced":
# the arena takes 54 MB where all do, 41 in twelves, 38 in sixes and in fours; "low": 37, 30, 30 and 30.
MOST = 6


@dataclass(frozen=True)
class Update:
    """moved = weight − rate · gradient, each [C]."""

    moved: ir.Value
    weight: ir.Value
    gradient: ir.Value
    rate: ir.Value  # a number

    @property
    def length(self) -> int:
        assert self.weight.shape is not None
        return int(self.weight.shape.numpy()[0])


def pack_updates(model: ir.Model) -> None:
    by_rate: dict[ir.Value, list[Update]] = defaultdict(list)
    for node in model.graph:
        if (update := update_of(node)) is not None:
            by_rate[update.rate].append(update)
    for rate, updates in by_rate.items():
        for start in range(0, len(updates), MOST):
            if len(near := updates[start : start + MOST]) >= LEAST:
                _pack(model.graph, rate, near)
    tidy(model)


def update_of(node: ir.Node) -> Update | None:
    """The pattern: what `node` moves, or None."""
    if node.op_type != "Sub" or not node.outputs[0].is_graph_output():
        return None
    weight, step = node.inputs
    product = None if step is None else step.producer()
    if weight is None or not weight.is_graph_input() or product is None or product.op_type != "Mul":
        return None
    if weight.shape is None or len(weight.shape) != 1 or not weight.shape.is_static():
        return None
    gradient, rate = product.inputs
    if gradient is None or rate is None or rate.const_value is None or rate.const_value.size != 1:
        return None
    return Update(node.outputs[0], weight, gradient, rate)


def _pack(graph: ir.Graph, rate: ir.Value, updates: list[Update]) -> None:
    tape = ir.tape.Tape(graph)
    weights, gradients = (
        tape.op("Concat", [getattr(update, part) for update in updates], {"axis": 0}) for part in ("weight", "gradient")
    )
    moved = tape.op("Sub", [weights, tape.op("Mul", [gradients, rate])])
    lengths = constant(graph, [update.length for update in updates])
    parts = tape.op_multi_out("Split", [moved, lengths], {"axis": 0}, num_outputs=len(updates))
    for update, part in zip(updates, parts):
        replace(update.moved, part)
