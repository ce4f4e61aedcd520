"""MatmulTransposeFusion: a product reads a transposed matrix as it lies (FusedMatMul)."""

from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import attributes, only_reader


class _Turned(NamedTuple):
    transpose: ir.Node
    product: ir.Node

    @property
    def slot(self) -> int:
        return list(self.product.inputs).index(self.transpose.outputs[0])


def _pattern(node: ir.Node) -> _Turned | None:
    if node.op_type != "Transpose":
        return None
    reader = only_reader(node.outputs[0])
    return None if reader is None or reader.op_type != "MatMul" else _Turned(node, reader)


def _check(match: _Turned) -> str:
    if match.product.graph is not match.transpose.graph:
        return "the product is in a graph inside"
    order = list(attributes(match.transpose).get("perm", ()))
    rank = len(order)
    if rank < 2 or order != [*range(rank - 2), rank - 1, rank - 2]:
        return "it exchanges other axes than the last two"
    return ""


def _rewrite(match: _Turned) -> None:
    product, slot = match.product, match.slot
    product.replace_input_with(slot, match.transpose.inputs[0])
    product.attributes.add(ir.AttrInt64(("transA", "transB")[slot], 1))
    graph = match.transpose.graph
    assert graph is not None
    graph.remove(match.transpose, safe=True)


RULE = Rule("MatmulTransposeFusion", _pattern, _check, _rewrite)
