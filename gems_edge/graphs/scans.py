"""The body of an ONNX Scan (an adaptation step image by image, export/passes/stream.py) as a graph of its own."""

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from gems_edge.graphs.liveness import TensorSize
from gems_edge.graphs.nodes import attributes

# What a captured tensor is taken to be: shape inference needs a type, and these have the right size.
_TYPE_OF_BYTES = {1: TensorProto.UINT8, 2: TensorProto.FLOAT16, 4: TensorProto.FLOAT, 8: TensorProto.INT64}


def scan_body(
    node: onnx.NodeProto, sizes: Mapping[str, TensorSize], graph: onnx.GraphProto
) -> tuple[onnx.ModelProto, tuple[str, ...], int]:
    """The body of the Scan `node` of `graph`, the names that it captures from there, and how often it runs.

    The model's inputs are those of the body and what it captures; initialisers that it captures are its own.
    """
    body, count = attributes(node)["body"], attributes(node)["num_scan_inputs"]
    inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    inside |= {name for inner in body.node for name in inner.output}
    captured = tuple(dict.fromkeys(n for inner in body.node for n in inner.input if n and n not in inside))
    stored = {tensor.name: tensor for tensor in graph.initializer}
    fed = [
        helper.make_tensor_value_info(name, _TYPE_OF_BYTES[sizes[name].item_bytes], sizes[name].shape)
        for name in captured
        if name not in stored
    ]
    alone = helper.make_graph(
        body.node,
        body.name,
        [*body.input, *fed],
        body.output,
        [*body.initializer, *(stored[name] for name in captured if name in stored)],
    )
    model = helper.make_model(alone, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return model, captured, sizes[node.input[-count]].shape[0]
