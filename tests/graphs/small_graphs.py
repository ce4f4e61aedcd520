"""Small ONNX graphs, what the passes make of them, and what onnxruntime does."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gems_edge.device.runtime import TRANSPOSE_OPTIMIZERS, onnxruntime
from gems_edge.graphs.passes.optimised import optimise
from gems_edge.graphs.shapes import fix_dims, sized

# onnxruntime's names of what it has fused; the cost model keeps the op's own.
_OWN_NAME = {"FusedConv": "Conv", "FusedMatMul": "MatMul"}


def small_model(nodes, inputs, outputs, constants=()):
    """A float model; inputs as {name: shape}, constants as {name: array}."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def ones(*shape):
    return np.ones(shape, np.float32)


def shaped(model, dims=None):
    """The graph with the shapes of its tensors, as a pass gets it."""
    return sized(fix_dims(model, dims or {"images": 2})).graph


def run_by_the_passes(model, dims=None):
    """The ops that are left, and their tensors' names."""
    rewritten = sized(fix_dims(model, dims or {"images": 2}))
    optimise(rewritten)
    return sorted((node.op_type, node.outputs[0].name) for node in rewritten.graph)


def run_by_onnxruntime(model):
    """The ops of onnxruntime's own optimised graph, before it lays maps out in blocks."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as directory:
        options.optimized_model_filepath = str(Path(directory) / "optimised.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=TRANSPOSE_OPTIMIZERS,
        )
        optimised = onnx.load(options.optimized_model_filepath)
    return sorted((_OWN_NAME.get(node.op_type, node.op_type), node.output[0]) for node in optimised.graph.node)
