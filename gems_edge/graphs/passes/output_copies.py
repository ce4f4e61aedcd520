"""EliminateIdentity: what makes a graph output writes it itself."""

from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import absorb, only_reader, outputs_of


class _Copied(NamedTuple):
    node: ir.Node
    copy: ir.Node


def _pattern(node: ir.Node) -> _Copied | None:
    if node.op_type == "Scan" or len(outputs_of(node)) != 1:
        return None
    reader = only_reader(node.outputs[0])
    if reader is None or reader.op_type != "Identity" or reader.graph is not node.graph:
        return None
    return _Copied(node, reader)


def _check(match: _Copied) -> str:
    return "" if match.copy.outputs[0].is_graph_output() else "it is no graph output"


def _rewrite(match: _Copied) -> None:
    absorb(match.node, match.copy)


RULE = Rule("EliminateIdentity", _pattern, _check, _rewrite)
