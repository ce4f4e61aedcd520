"""Work by term: counted by hand, equal however a graph is built, and never larger after pruning."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gems_edge.cost.graph import describe
from gems_edge.cost.probes import Probe
from gems_edge.cost.work import TERMS, add_up, work_of_ops

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from published_networks import COUNTED, NETWORKS, Net, build  # noqa: E402

PIXELS = {"SqueezeNet-1.1": 227, "CaffeNet(AlexNet)": 227, "BlazeFace": 128, "YOLO11n": 640, "YOLO11s": 640}


def work(net, end):
    return describe(net.model(end), {})["work"]


def test_terms_by_hand():
    net = Net(8, 4)
    x = net.conv("images", 16, 3, act="Relu")  # 16·64·36 MACs
    x = net.conv(x, 32, 1)  # 32·64·16
    x = net.depthwise(x, 3, 2)  # 32·16·9
    x = net.conv(x, 8, 5)  # 8·16·800
    found = work(net, net.linear(net.mean(x), 10))
    assert found == {
        "conv1x1": 32 * 64 * 16,
        "conv3x3": 16 * 64 * 36,
        "conv": 8 * 16 * 800,
        "depthwise": 32 * 16 * 9,
        "conv_maps": (16 + 32) * 64 + (32 + 8) * 16,
        "conv_weights": 32 * 16 + 8 * 32 * 25,
        "conv3x3_maps": (4 + 16) * 64,
        "conv3x3_weights": 16 * 4 * 9,
        "gemm_weights": 80,
        "elementwise": 8 * 16 + 8,
        "ops": 6,
    }


def test_ops_of_gradient_steps_have_terms_of_their_own():
    names = {"x": [2, 4, 8, 8], "w": [4, 4, 3, 3], "a": [4, 6], "b": [6, 5]}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["a", "b"], ["m"]),
        helper.make_node("ReduceMean", ["c"], ["r"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("m", "r")]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    found = describe(model, {})["work"]
    assert found["fed"] == 2 * 4 * 64 * 36 and found["matmul"] == 4 * 6 * 5 and found["moved"] == 2 * 4 * 64 + 1
    assert "conv3x3" not in found


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_published_networks_are_the_ones_that_were_measured(name):
    """MACs and weights of ncnn's own files."""
    model = build(name, PIXELS.get(name, 224))
    macs, weights = COUNTED[name]
    stored = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    assert describe(model, {})["macs"] / 1e6 == pytest.approx(macs, rel=1e-3)
    assert stored / 1e6 == pytest.approx(weights, rel=5e-3)


@pytest.mark.parametrize("name", ["MobileNetV3-Small-1.0", "YOLO11n", "ResNeXt-101-32x8d"])
def test_every_network_is_counted_whole(name):
    assert name in NETWORKS and not describe(build(name, 64), {}).get("unknown")


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    side=st.integers(2, 24),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    less=st.integers(0, 39),
)
def test_fewer_channels_are_never_more_work(channels, outputs, side, kernel, stride, less):
    """In no term: so no board, whatever its rates, is predicted to be slower after pruning."""

    def of(inputs, made):
        probe = Probe("pruned", (1, inputs, side, side))
        probe.pool(probe.conv("x", made, kernel, stride)) if side > 3 else probe.conv("x", made, kernel, stride)
        return probe.work

    whole = of(channels, outputs)
    for pruned in (of(max(1, channels - less), outputs), of(channels, max(1, outputs - less))):
        assert all(pruned.get(term, 0) <= whole.get(term, 0) for term in TERMS)


def test_probes_are_counted_as_their_graphs_are():
    """Probes write their own bytes and count their own work; onnx and describe must find the same in them."""
    from gems_edge.cost.calibrate import one_op_probes, whole_networks

    for probe, end in one_op_probes() + whole_networks():
        model = onnx.load_from_string(probe.model(end))
        onnx.checker.check_model(model, full_check=True)
        counted = describe(model, {})["work"]
        assert {t: pytest.approx(v, rel=0.01) for t, v in probe.work.items()} == counted, probe.name


def test_older_bundles_tell_work_by_ops():
    net = Net(16, 3)
    cost = describe(net.model(net.linear(net.pool(net.conv("images", 8, 3, act="Relu"), 2, 2), 5)), {})
    guessed = work_of_ops(cost["ops"])
    assert guessed["ops"] == cost["work"]["ops"]
    assert guessed["conv"] + guessed["conv1x1"] == cost["macs"]


def test_add_up_leaves_out_what_is_not_there():
    assert add_up([{"conv": 2, "ops": 1}, {"conv": 3, "ops": 1, "fed": 0}]) == {"conv": 5, "ops": 2}
