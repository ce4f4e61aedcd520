"""What onnxruntime makes of a graph with QuantizeLinear and DequantizeLinear: integer operations on bytes."""

from collections import defaultdict

import onnx

# An operation between DequantizeLinear and QuantizeLinear runs on the integers themselves: some as another operation …
INTEGER = {
    **{
        kind: f"QLinear{kind}"
        for kind in ("Conv", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat")
    },
    "Gemm": "QGemm",
}
# … some as they are.
AS_THEY_ARE = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize"})
# What may stand between the operation and its QuantizeLinear: the range of the bytes does the same.
ABSORBED = frozenset({"Relu", "Clip"})
# Where onnxruntime's integer operations are at home; marks the nodes that integer_nodes made.
DOMAIN = "com.microsoft"
_FLOAT = {integer: kind for kind, integer in INTEGER.items()}


def integer_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of `graph` with every such group as one node; inputs in the order of ONNX's own integer operations."""
    producer = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    outputs = {value.name for value in graph.output}
    constants = {tensor.name for tensor in graph.initializer}

    def made_by(name: str, kind: str) -> onnx.NodeProto | None:
        node = producer.get(name)
        return node if node is not None and node.op_type == kind else None

    def only_consumer(name: str) -> onnx.NodeProto | None:
        return consumers[name][0] if len(consumers[name]) == 1 and name not in outputs else None

    made: dict[int, onnx.NodeProto] = {}
    gone: set[int] = set()
    for node in graph.node:
        if node.op_type not in INTEGER and node.op_type not in AS_THEY_ARE:
            continue
        given = [made_by(name, "DequantizeLinear") for name in node.input]
        plain = [name for name, source in zip(node.input, given) if source is None and name]
        after = only_consumer(node.output[0])
        absorbed = after if after is not None and after.op_type in ABSORBED else None
        quantise = only_consumer(absorbed.output[0]) if absorbed is not None else after
        if given[0] is None or quantise is None or quantise.op_type != "QuantizeLinear":
            continue
        if node.op_type in INTEGER and plain or not constants.issuperset(plain):
            continue
        fused = onnx.NodeProto()
        fused.CopyFrom(node)
        fused.op_type, fused.domain = INTEGER.get(node.op_type, node.op_type), DOMAIN
        del fused.input[:], fused.output[:]
        fused.input.extend(_inputs(node, given, quantise))
        fused.output.extend(quantise.output)
        made[id(node)] = fused
        gone |= {id(quantise), *([id(absorbed)] if absorbed is not None else [])}
    nodes = [made.get(id(node), node) for node in graph.node if id(node) not in gone]
    used = {name for node in nodes for name in node.input} | outputs
    return [node for node in nodes if node.op_type != "DequantizeLinear" or used.intersection(node.output)]


def float_twin(node: onnx.NodeProto) -> tuple[str, list[str]]:
    """The float operation that one of these nodes stands for, and the tensors that it multiplies or moves."""
    tensors = [name for name in node.input if name]
    if node.op_type in _FLOAT and len(node.input) > 3 and node.op_type != INTEGER["Concat"]:
        tensors = [node.input[0], node.input[3]]
    return _FLOAT.get(node.op_type, node.op_type), tensors


def _inputs(node: onnx.NodeProto, given: list[onnx.NodeProto | None], quantise: onnx.NodeProto) -> list[str]:
    if node.op_type in INTEGER and len(given) > 1 and node.op_type != "Concat":
        first, second, *bias = given
        names = [*_triple(first), *_triple(second), *_triple(quantise)[1:]]
        return names + [source.input[0] for source in bias if source is not None]
    return [source.input[0] if source is not None else name for name, source in zip(node.input, given)]


def _triple(node: onnx.NodeProto) -> list[str]:
    return [*node.input, ""][:3]
