"""MACs, bytes, fusions and shapes of graphs small enough to count by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import ones, small_model

from gems_edge.errors import UserError
from gems_edge.graphs.cost import adapt_peak, describe


def conv_net():
    """Conv 3→8 (pad 1), Mul, Add, Relu, MaxPool 2, depthwise conv, Relu, mean over the map, Gemm to 5."""
    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c1", "scale"], ["m1"]),
        helper.make_node("Add", ["m1", "shift"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], group=8),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2", "axes"], ["f"], keepdims=0),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    constants = {
        "w1": ones(8, 3, 3, 3), "scale": ones(8, 1, 1), "shift": ones(8, 1, 1), "w2": ones(8, 1, 3, 3),
        "axes": np.array([2, 3]), "head.weight": ones(1, 8), "head.bias": ones(1),
    }  # fmt: skip
    inputs = {"images": ["images", 3, 16, 16], "head.weight": ["classes", 8], "head.bias": ["classes"]}
    return small_model(nodes, inputs, ["logits"], constants)


def test_macs_by_hand():
    cost = describe(conv_net(), {"images": 2, "classes": 5})
    conv = 2 * 8 * 16 * 16 * 3 * 9
    depthwise = 2 * 8 * 6 * 6 * 9
    gemm = 2 * 8 * 5
    assert {op["kind"]: (op["count"], op["macs"]) for op in cost["ops"]} == {
        "Conv": (1, conv), "Conv.depthwise": (1, depthwise), "Gemm": (1, gemm), "MaxPool": (1, 0), "ReduceMean": (1, 0),
    }  # fmt: skip
    assert cost["macs"] == conv + depthwise + gemm
    assert cost["dims"] == {"images": 2, "classes": 5}


def test_convolutions_of_a_graph_that_is_not_laid_out_in_blocks_cost_what_fed_ones_do():
    cost = describe(conv_net(), {"images": 2, "classes": 5}, channel_blocks=False)
    assert {op["kind"] for op in cost["ops"] if op["macs"]} == {"Conv.fed", "Conv.depthwise", "Gemm"}
    assert cost["work"]["fed"] == 2 * 8 * 16 * 16 * 3 * 9 + 2 * 8 * 6 * 6 * 9
    assert cost["macs"] == describe(conv_net(), {"images": 2, "classes": 5})["macs"]


def test_bytes_after_fusion_by_hand():
    cost = describe(conv_net(), {"images": 1, "classes": 5})
    moved = {op["kind"]: op["bytes"] for op in cost["ops"]}
    # Mul, Add and Relu are part of the convolution: image + weight + the bias it gets + result
    assert moved["Conv"] == 4 * (3 * 256 + 216 + 8 + 8 * 256)
    assert moved["Conv.depthwise"] == 4 * (8 * 64 + 72 + 8 * 36)
    assert moved["MaxPool"] == 4 * (8 * 256 + 8 * 64)
    assert moved["Gemm"] == 4 * (8 + 40 + 5 + 5)
    # scale is folded into w1, shift becomes its bias; the stored head has one row
    assert cost["constant_bytes"] == 4 * (216 + 8 + 72 + 8 + 1) + 2 * 8


def test_ops_match_what_onnxruntime_keeps(tmp_path):
    import os

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(conv_net().SerializeToString(), options, providers=["CPUExecutionProvider"])
    kept = [
        node.op_type.replace("FusedConv", "Conv") for node in onnx.load(options.optimized_model_filepath).graph.node
    ]
    mine = [
        op["kind"].split(".")[0]
        for op in describe(conv_net(), {"images": 1, "classes": 5})["ops"]
        for _ in range(op["count"])
    ]
    assert sorted(mine) == sorted(kept)


def test_macs_agree_with_torch():
    """A small network with a strided, a grouped and a transposed convolution, counted by torch too."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 12, 3, groups=4, bias=False),
        nn.ConvTranspose2d(12, 6, 4, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(6 * 14 * 14, 5),
    )
    image = torch.rand(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    weights = {f"w{index}": net[index].weight.detach().numpy() for index in (0, 1, 2, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], group=4),
        helper.make_node("ConvTranspose", ["b", "w2"], ["c"], strides=[2, 2]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w4"], ["y"], transB=1),
    ]
    cost = describe(small_model(nodes, {"x": ["images", 3, 16, 16]}, ["y"], weights), {"images": 2})
    assert 2 * cost["macs"] == counter.get_total_flops()


def test_shapes_that_only_a_run_can_tell():
    """A Reshape to a shape computed from values: shape inference gives up, the run on onnxruntime does not."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"]),
        helper.make_node("Cast", ["at"], ["places"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "one"], ["y"]),
        helper.make_node("ReduceSum", ["places", "axis"], ["z"]),
    ]
    model = small_model(nodes, {"x": ["images", 4]}, ["y", "z"], {"one": ones(1), "axis": np.array([1])})
    cost = describe(model, {"images": 3})
    assert {op["kind"]: op["bytes"] for op in cost["ops"]}["Add"] == 4 * (12 + 1 + 12)


def test_a_model_that_keeps_tensors_in_other_files_is_not_run(tmp_path, monkeypatch):
    """Where shapes need a run, onnxruntime would read whatever file the model names."""
    (tmp_path / "secret").write_bytes(np.ones(1, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    elsewhere = TensorProto(name="one", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value="secret")
    nodes = [helper.make_node("NonZero", ["x"], ["at"]), helper.make_node("Add", ["x", "one"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in (("at", 7), ("y", 1))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [elsewhere])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(UserError, match="keeps tensor one in another file"):
        describe(model, {})


def test_peak_of_a_line_in_images():
    model = conv_net()
    line = adapt_peak(model, {"images": 5, "classes": 5})
    for images in (5, 7, 10):
        peak = describe(model, {"images": images, "classes": 5})["peak_bytes"]
        assert line["fixed_bytes"] + images * line["bytes_per_image"] == pytest.approx(peak, rel=1e-3)


def test_residual_add_is_not_folded():
    """Only constants fold into a convolution: the skip's Add stays, with its own reads and writes."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    cost = describe(small_model(nodes, {"x": ["images", 4, 8, 8]}, ["y"], {"w": ones(4, 4, 3, 3)}), {"images": 1})
    assert {op["kind"]: op["bytes"] for op in cost["ops"]} == {
        "Conv": 4 * (256 + 144 + 256), "Add": 4 * 3 * 256, "Relu": 4 * 2 * 256,
    }  # fmt: skip


@pytest.mark.parametrize(
    "model, dims, words",
    [
        (
            small_model([helper.make_node("Einsum", ["x"], ["y"], equation="ij->ij")], {"x": ["images", 2]}, ["y"]),
            {"images": 1},
            "Einsum",
        ),
        (small_model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", 2]}, ["y"]), {"images": 1}, "batch"),
    ],
)
def test_what_cannot_be_counted_is_refused(model, dims, words):
    with pytest.raises(UserError, match=words):
        describe(model, dims)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x08not a graph")
    for path in (tmp_path / "broken.onnx", tmp_path / "absent.onnx"):
        with pytest.raises(UserError, match=path.name):
            describe(path, {"images": 1})


def test_files_that_hold_nothing_to_count(tmp_path):
    """A file of no bytes is an empty model; a negative number of images counted negative work."""
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(UserError, match="empty.onnx holds no graph"):
        describe(tmp_path / "empty.onnx", {})
    given, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [-1, 4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [given], [made])
    with pytest.raises(UserError, match="'x' has a dimension of -1"):
        describe(onnx.helper.make_model(graph), {})
