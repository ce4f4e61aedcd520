"""ConvActivationFusion: a convolution applies the activation behind it to what it has at hand (FusedConv)."""

from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.ops import row_or_unknown
from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import absorb, inputs_of, only_reader


class _Activated(NamedTuple):
    convolution: ir.Node
    activation: ir.Node


def _pattern(node: ir.Node) -> _Activated | None:
    if node.op_type != "Conv" or "activation" in node.attributes:
        return None
    follower = only_reader(node.outputs[0])
    if follower is None or not row_or_unknown(follower.op_type).activation:
        return None
    return _Activated(node, follower)


def _check(match: _Activated) -> str:
    limits = inputs_of(match.activation)[1:]
    return "" if all(value.is_initializer() for value in limits) else "its limits are computed"


def _rewrite(match: _Activated) -> None:
    match.convolution.attributes.add(ir.AttrString("activation", match.activation.op_type))
    absorb(match.convolution, match.activation)


RULE = Rule("ConvActivationFusion", _pattern, _check, _rewrite)
