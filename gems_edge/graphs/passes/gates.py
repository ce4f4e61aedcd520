"""QuickGeluFusion: x·sigmoid(x) as one op."""

from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import absorb, only_reader


class _Gate(NamedTuple):
    sigmoid: ir.Node
    product: ir.Node


def _pattern(node: ir.Node) -> _Gate | None:
    if node.op_type != "Sigmoid":
        return None
    reader = only_reader(node.outputs[0])
    return None if reader is None or reader.op_type != "Mul" else _Gate(node, reader)


def _check(match: _Gate) -> str:
    return "" if match.sigmoid.inputs[0] in match.product.inputs else "it gates another tensor than its own input"


def _rewrite(match: _Gate) -> None:
    absorb(match.sigmoid, match.product)
    match.sigmoid.op_type = "QuickGelu"


RULE = Rule("QuickGeluFusion", _pattern, _check, _rewrite)
