"""QDQ: an operation between DequantizeLinear and QuantizeLinear runs on the bytes themselves.

Its inputs are then in the order of ONNX's own integer operations, and its domain is onnxruntime's.
"""

from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.ops import ROWS, row_or_unknown
from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import inputs_of, only_reader

# The domain of onnxruntime's integer operations; marks the nodes that this rule made.
DOMAIN = "com.microsoft"


class _Quantised(NamedTuple):
    node: ir.Node
    kind: str  # that it has on integers
    sources: list[ir.Node | None]  # the DequantizeLinear of each input; None where there is none
    followers: list[ir.Node]  # an activation perhaps, and the QuantizeLinear

    @property
    def quantise(self) -> ir.Node:
        return self.followers[-1]


def _pattern(node: ir.Node) -> _Quantised | None:
    kind = row_or_unknown(node.op_type).integer
    if kind is None or node.domain == DOMAIN:
        return None
    followers = []
    follower = only_reader(node.outputs[0])
    if follower is not None and row_or_unknown(follower.op_type).clamps:
        followers.append(follower)
        follower = only_reader(follower.outputs[0])
    sources = [_dequantised(value) for value in node.inputs]
    if not sources or sources[0] is None or follower is None or follower.op_type != "QuantizeLinear":
        return None
    return _Quantised(node, kind, sources, [*followers, follower])


def _dequantised(value: ir.Value | None) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _check(match: _Quantised) -> str:
    plain = [value for value, source in zip(match.node.inputs, match.sources) if source is None and value is not None]
    if plain and match.kind != match.node.op_type:
        return "not all that it multiplies or adds is quantised"
    if not all(value.is_initializer() for value in plain):
        return "what it reads beside the bytes is computed"
    return ""


def _rewrite(match: _Quantised) -> None:
    node, output = match.node, match.quantise.outputs[0]
    result = ir.Value(name=output.name, shape=output.shape, type=output.type)
    integer = ir.Node(DOMAIN, match.kind, _inputs(match), node.attributes.values(), outputs=[result], name=node.name)
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, integer)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove([node, *match.followers], safe=True)
    unused = {source for source in match.sources if source is not None and not source.outputs[0].uses()}
    graph.remove([source for source in unused if not source.outputs[0].is_graph_output()], safe=True)


def _inputs(match: _Quantised) -> list[ir.Value | None]:
    sources = [source for source in match.sources if source is not None]
    if match.kind != match.node.op_type and len(sources) > 1 and match.node.op_type != "Concat":
        first, second, *bias = sources
        return [*_triple(first), *_triple(second), *_triple(match.quantise)[1:], *(source.inputs[0] for source in bias)]
    return [value if source is None else source.inputs[0] for value, source in zip(match.node.inputs, match.sources)]


def _triple(node: ir.Node) -> list[ir.Value | None]:
    """What a (de)quantisation reads: tensor, scale and zero point (None where it has none)."""
    return [*node.inputs, None][:3]


def float_operands(node: ir.Node) -> list[ir.Value]:
    """The tensors that an integer operation multiplies or moves, without their scales and zero points."""
    read = inputs_of(node)
    if node.op_type != "QLinearConcat" and node.op_type in TWINS and len(node.inputs) > 3:
        return [value for value in (node.inputs[0], node.inputs[3]) if value is not None]
    return read


# The float operation that an integer one stands for.
TWINS = {row.integer: kind for kind, row in ROWS.items() if row.integer and row.integer != kind}

RULE = Rule("QDQ", _pattern, _check, _rewrite)
