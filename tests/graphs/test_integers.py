"""Cost of quantised graphs: those of onnxruntime's own quantiser, and integer operations written directly."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gems_edge.graphs.cost import describe
from gems_edge.graphs.passes.optimised import optimise
from gems_edge.graphs.shapes import fix_dims, sized

DIMS = {"images": 1}


def network(residual: bool) -> onnx.ModelProto:
    """Conv, ReLU, pool, Conv (added to its input where `residual`), mean, Gemm."""
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "b1": (8,), "h": (5, 8), "hb": (5,)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("MaxPool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "p0"], ["a1"]) if residual else helper.make_node("Relu", ["c1"], ["a1"]),
        helper.make_node("GlobalAveragePool", ["a1"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "h", "hb"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["images", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["images", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture(params=[False, True])
def quantised_pair(request, tmp_path):
    """A float32 network and what onnxruntime's quantiser makes of it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": np.random.default_rng(n).random((1, 3, 16, 16), dtype=np.float32)} for n in range(3)]

        def get_next(self):
            return self.left.pop() if self.left else None

    plain = network(request.param)
    onnx.save(plain, tmp_path / "f.onnx")
    files = str(tmp_path / "f.onnx"), str(tmp_path / "q.onnx")
    quantize_static(*files, Reader(), per_channel=True, activation_type=QuantType.QUInt8)
    return plain, onnx.load(tmp_path / "q.onnx")


def test_a_users_quantised_network_multiplies_as_much_and_moves_less(quantised_pair):
    plain, quantised = quantised_pair
    before, after = describe(plain, DIMS), describe(quantised, DIMS)
    assert after["macs"] == before["macs"] > 0
    assert after["bytes"] < before["bytes"] / 2 and after["peak_bytes"] < before["peak_bytes"]
    assert after["constant_bytes"] < before["constant_bytes"] / 2
    kinds = {row["kind"]: row["count"] for row in after["ops"]}
    assert kinds["QLinearConv"] == 2 and "Conv" not in kinds and "Relu" not in kinds


def test_onnxruntime_makes_the_same_groups(quantised_pair, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    quantised = quantised_pair[1]
    onnxruntime.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    model = sized(fix_dims(quantised, DIMS))
    optimise(model)
    counted = [node.op_type for node in model.graph]
    run = [node.op_type.replace("Nhwc", "") for node in onnx.load(tmp_path / "run.onnx").graph.node]
    for kind in ("QLinearConv", "QLinearAdd", "MaxPool", "QLinearGlobalAveragePool", "QGemm", "Relu"):
        assert counted.count(kind) == run.count(kind), kind


def test_integer_operations_written_directly():
    def constant(name, value):
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "wz", "s", "z", "b"], ["c"]),
        helper.make_node("ConvInteger", ["c", "w2", "z", "wz"], ["d"]),
        helper.make_node("MatMulInteger", ["x", "m"], ["e"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["images", 4, 6, 6])
    outputs = [helper.make_tensor_value_info(n, TensorProto.INT32, None) for n in ("d", "e")]
    tensors = [constant("s", np.float32(0.1)), constant("z", np.uint8(3)), constant("wz", np.int8(0))]
    tensors += [constant("w", np.ones((8, 4, 3, 3), np.int8)), constant("b", np.ones(8, np.int32))]
    tensors += [constant("w2", np.ones((2, 8, 1, 1), np.int8)), constant("m", np.ones((6, 5), np.uint8))]
    graph = helper.make_graph(nodes, "g", [x], outputs, tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    macs = {row["kind"]: row["macs"] for row in describe(model, {"images": 2})["ops"]}
    assert macs == {
        "QLinearConv": 2 * 8 * 4 * 4 * 36, "ConvInteger": 2 * 2 * 4 * 4 * 8, "MatMulInteger": 2 * 4 * 6 * 5 * 6,
    }  # fmt: skip


def test_a_group_that_leaves_the_integers_stays_float():
    """Without a QuantizeLinear behind it the convolution runs on what was dequantised."""
    pair = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["images", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["images", 2, 4, 4])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [*pair, weight]), ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )  # fmt: skip
    found = describe(model, DIMS)
    assert {row["kind"]: row["macs"] for row in found["ops"]} == {
        "QuantizeLinear": 0, "DequantizeLinear": 0, "Conv": 2 * 16 * 3,
    }  # fmt: skip
