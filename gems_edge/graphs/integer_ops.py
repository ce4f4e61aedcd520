"""What onnxruntime makes of a graph with QuantizeLinear and DequantizeLinear: integer operations on bytes."""

from dataclasses import dataclass

import onnx

from gems_edge.graphs.nodes import Links
from gems_edge.graphs.ops import ROWS, UNKNOWN

# The domain of onnxruntime's integer operations; marks the nodes that integer_nodes made.
INTEGER_DOMAIN = "com.microsoft"
_TWINS = {kind: row.integer for kind, row in ROWS.items() if row.integer and row.integer != kind}
_FLOAT = {integer: kind for kind, integer in _TWINS.items()}


def integer_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of `graph` with every such group as one, its inputs in the order of ONNX's own integer operations."""
    outputs = {value.name for value in graph.output}
    links = Links.of(graph.node, outputs)
    constants = {tensor.name for tensor in graph.initializer}
    integer: dict[int, onnx.NodeProto] = {}
    absorbed: set[int] = set()
    for node in graph.node:
        group = _group(node, links, constants)
        if group is not None:
            integer[id(node)] = _integer_node(group)
            absorbed |= {id(follower) for follower in group.followers}
    nodes = [integer.get(id(node), node) for node in graph.node if id(node) not in absorbed]
    used = {name for node in nodes for name in node.input} | outputs
    return [node for node in nodes if node.op_type != "DequantizeLinear" or used.intersection(node.output)]


@dataclass(frozen=True)
class _Group:
    """An operation between DequantizeLinear and QuantizeLinear."""

    node: onnx.NodeProto
    sources: list[onnx.NodeProto | None]  # the DequantizeLinear of each input; None where there is none
    followers: list[onnx.NodeProto]  # an activation perhaps, and the QuantizeLinear

    @property
    def quantise(self) -> onnx.NodeProto:
        return self.followers[-1]


def _group(node: onnx.NodeProto, links: Links, constants: set[str]) -> _Group | None:
    row = ROWS.get(node.op_type)
    if row is None or row.integer is None:
        return None
    makers = [links.producer.get(name) for name in node.input]
    sources = [maker if maker is not None and maker.op_type == "DequantizeLinear" else None for maker in makers]
    followers = []
    follower = links.only_consumer(node.output[0])
    if follower is not None and ROWS.get(follower.op_type, UNKNOWN).clamps:
        followers.append(follower)
        follower = links.only_consumer(follower.output[0])
    if sources[0] is None or follower is None or follower.op_type != "QuantizeLinear":
        return None
    plain = [name for name, source in zip(node.input, sources) if source is None and name]
    if plain and (node.op_type in _TWINS or not constants.issuperset(plain)):
        return None
    return _Group(node, sources, [*followers, follower])


def _integer_node(group: _Group) -> onnx.NodeProto:
    node = onnx.NodeProto()
    node.CopyFrom(group.node)
    node.op_type, node.domain = _TWINS.get(group.node.op_type, group.node.op_type), INTEGER_DOMAIN
    del node.input[:], node.output[:]
    node.input.extend(_inputs(group))
    node.output.extend(group.quantise.output)
    return node


def float_twin(node: onnx.NodeProto) -> tuple[str, list[str]]:
    """The float operation that one of these nodes stands for, and the tensors that it multiplies or moves."""
    tensors = [name for name in node.input if name]
    if node.op_type in _FLOAT and len(node.input) > 3 and node.op_type != _TWINS["Concat"]:
        tensors = [node.input[0], node.input[3]]
    return _FLOAT.get(node.op_type, node.op_type), tensors


def _inputs(group: _Group) -> list[str]:
    kind, sources = group.node.op_type, [source for source in group.sources if source is not None]
    if kind in _TWINS and len(sources) > 1 and kind != "Concat":
        first, second, *bias = sources
        names = [*_triple(first), *_triple(second), *_triple(group.quantise)[1:]]
        return names + [source.input[0] for source in bias]
    return [name if source is None else source.input[0] for name, source in zip(group.node.input, group.sources)]


def _triple(node: onnx.NodeProto) -> list[str]:
    """What a (de)quantisation reads: tensor, scale and zero point ("" where it has none)."""
    return [*node.input, ""][:3]
