"""The body of an ONNX Scan (a step image by image, export/passes/stream.py): its shapes, and how often it runs.

onnx infers no shapes behind constants that a body captures, so a body is inferred as a graph of its own.
"""

import onnx
import onnx_ir as ir

from gems_edge.graphs.values import attributes, body_of, captured_by, shape_of


def trips_of(scan: ir.Node) -> int:
    """How often a Scan runs its body."""
    first = scan.inputs[-attributes(scan)["num_scan_inputs"]]
    assert first is not None
    return shape_of(first)[0]


def states_of(scan: ir.Node) -> list[ir.Value]:
    """What a Scan begins its states with."""
    return [value for value in scan.inputs[: -attributes(scan)["num_scan_inputs"]] if value is not None]


def body_model(scan: ir.Node) -> onnx.ModelProto:
    """The body of a Scan as a model that is also fed what the body captures; captured constants are its own."""
    body = body_of(scan)
    assert body is not None
    graph = ir.serde.serialize_graph(body)
    for value in captured_by(body):
        if value.is_initializer() and value.const_value is not None:
            graph.initializer.append(ir.serde.serialize_tensor(value.const_value))
        else:
            graph.input.append(ir.serde.serialize_value(value))
    del graph.value_info[:]
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
