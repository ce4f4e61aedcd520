"""ConstantFolding: what can be computed from constants alone is one."""

import onnx_ir as ir

from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import inputs_of, outputs_of


def _pattern(node: ir.Node) -> ir.Node | None:
    read = inputs_of(node)
    constant = node.op_type == "Constant" or (read and all(value.is_initializer() for value in read))
    return node if constant else None


def _check(node: ir.Node) -> str:
    return "a graph inside it reads more" if node.op_type == "Scan" else ""


def _rewrite(node: ir.Node) -> None:
    graph = node.graph
    assert graph is not None
    for value in outputs_of(node):
        assert value.dtype is not None and value.shape is not None
        tensor = ir.LazyTensor(_unknown, value.dtype, value.shape, name=value.name)
        constant = ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=tensor)
        graph.register_initializer(constant)
        value.replace_all_uses_with(constant, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _unknown() -> ir.TensorProtocol:
    raise ValueError("the values of a folded constant are not computed, as only its size matters")


RULE = Rule("ConstantFolding", _pattern, _check, _rewrite)
