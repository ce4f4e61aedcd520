"""Ops of a user's graph that the cost model does not know: counted, and stood in for where shapes need it."""

from collections import Counter

import onnx

from gems_edge.graphs.ops import ROWS


def unknown_ops(model: onnx.ModelProto) -> dict[str, int]:
    """Count by kind of the nodes whose work is not known: standard ops without a row, and ops of other domains."""
    nodes = [node for node in model.graph.node if node.op_type not in ROWS or _foreign(node)]
    return dict(Counter(f"{node.domain}.{node.op_type}" if _foreign(node) else node.op_type for node in nodes))


def with_stand_ins(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every op of another domain as Identities of its first input, so that shapes can be inferred.

    What lies behind such an op is thus counted as if the op kept its input's shape.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        if not (_foreign(node) and node.input):
            changed.graph.node.append(node)
            continue
        for output in filter(None, node.output):
            changed.graph.node.append(onnx.helper.make_node("Identity", [node.input[0]], [output], node.name))
    return changed


def _foreign(node: onnx.NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx")
