"""Function inlining: HardSwish, for which onnxruntime has no kernel, runs as x·HardSigmoid(x)."""

import onnx_ir as ir

from gems_edge.graphs.passes.rule import Rule


def _pattern(node: ir.Node) -> ir.Node | None:
    return node if node.op_type == "HardSwish" else None


def _check(node: ir.Node) -> str:
    return ""


def _rewrite(node: ir.Node) -> None:
    (x,), output, graph = node.inputs, node.outputs[0], node.graph
    assert graph is not None
    gate = ir.Value(name=f"{output.name}/gate", shape=output.shape, type=output.type)
    slope = [ir.AttrFloat32("alpha", 1 / 6), ir.AttrFloat32("beta", 0.5)]
    result = ir.Value(name=output.name, shape=output.shape, type=output.type)
    gated = ir.Node("", "HardSigmoid", [x], slope, outputs=[gate], name=f"{node.name}/gate")
    graph.insert_before(node, [gated, ir.Node("", "Mul", [x, gate], outputs=[result], name=node.name)])
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)


RULE = Rule("function inlining", _pattern, _check, _rewrite)
