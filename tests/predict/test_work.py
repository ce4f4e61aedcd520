"""Work by term: counted by hand, equal however a graph is built, and never larger after pruning."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from published_layers import Net
from published_networks import COUNTED, NETWORKS, build

from gems_edge.calibrate.counting import graph_work
from gems_edge.calibrate.graph import Builder
from gems_edge.calibrate.onnx_bytes import model_bytes
from gems_edge.calibrate.probe_sets import small_ops
from gems_edge.graphs.cost import describe
from gems_edge.predict.work import CLOSE_OPS, add_up

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
        "views": 1,
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
    assert found["fed"] == 2 * 4 * 64 * 36 and found["matmul"] == 4 * 6 * 16 and found["sums"] == 1  # a strip of 16
    assert found["matrices"] == 1
    assert found["columns"] == 2 * 4 * 9 * 64 and found["matmul_maps"] == 24 + 30 + 20
    assert found["elementwise"] == 2 * 4 * 64 + 1 and "conv3x3" not in found


def test_grouped_convolutions_copy_rows():
    """For each place of the kernel and each map its rows; a dense one, and one that strides, lay out columns."""
    depthwise = counted((5, 64, 12, 12), lambda b, x="x": b.conv(x, 64, 3, groups=64, fed=True, relu=False))
    assert depthwise["rows"] == 5 * 64 * 9 * 12 and "columns" not in depthwise
    assert depthwise["fed"] == depthwise["elementwise"] == 5 * 64 * 9 * 144
    strided = counted((5, 64, 12, 12), lambda b, x="x": b.conv(x, 64, 3, 2, groups=64, fed=True, relu=False))
    assert strided["rows"] == 5 * 64 * 9 * 6 and strided["columns"] == 5 * 64 * 9 * 36
    dense = counted((5, 64, 12, 12), lambda b, x="x": b.conv(x, 32, 3, fed=True, relu=False))
    assert dense["columns"] == 5 * 64 * 9 * 144 and "rows" not in dense


def test_transposed_convolutions_put_columns_back():
    dense = counted((5, 64, 6, 6), lambda b, x="x": b.transposed(x, 32, 3, 2))
    assert dense["transposed"] == 5 * 64 * 32 * 9 * 36 and dense["columns"] == 5 * 32 * 9 * 36 and "rows" not in dense
    depthwise = counted((5, 64, 6, 6), lambda b, x="x": b.transposed(x, 64, 3, 2, 64))
    assert depthwise["transposed"] == depthwise["columns"] == 5 * 64 * 9 * 36 and depthwise["rows"] == 5 * 64 * 9 * 6
    groups = counted((5, 64, 6, 6), lambda b, x="x": b.transposed(x, 32, 3, 1, 4))
    assert groups["transposed"] == 5 * 64 * 8 * 9 * 36 and groups["rows"] == 5 * 32 * 9 * 6


def test_products_count_their_matrices_and_whole_strips():
    many = counted((144, 5, 36), lambda b: b.product("x", b.feed("y", (144, 36, 36)), (False, False)))
    assert many["matrices"] == 144 and many["matmul"] == 144 * 5 * 36 * 48 and "columns" not in many
    turned = counted((48, 120, 96), lambda b: b.product("x", b.feed("y", (48, 120, 24)), (True, False)))
    assert turned["columns"] == 48 * 120 * 96 and turned["matmul"] == 48 * 96 * 120 * 32


def test_what_is_spread_over_maps_goes_span_by_span():
    shape = (5, 8, 6, 6)

    def spans(*other):
        return counted(shape, lambda b: b.op("Mul", ["x", b.feed("y", other)], shape)).get("spans", 0)

    assert spans(8, 1, 1) == spans(5, 8, 1, 1) == 40  # a number for each map
    assert spans(5, 1, 1, 1) == 5 and spans(1) == 1
    assert spans(6, 6) == 40 and spans(8, 6, 6) == 5  # as often as it comes again
    assert spans(*shape) == 0
    assert counted(shape, lambda b: b.normalized("x"))["spans"] == 40


def test_ops_beyond_a_hundred_find_the_caches_full():
    def late(count):
        return counted((4,), lambda b: small_ops(b, "x", count)).get("late_ops", 0)

    assert late(CLOSE_OPS) == 0 and late(CLOSE_OPS + 7) == 7


def counted(shape, build):
    builder = Builder("one", shape)
    return graph_work(builder.graph(build(builder)))


def test_copies_count_the_stretches_they_make():
    """A Pad copies rows, a Concat whole blocks of channels, a Transpose that moves the last axis single elements."""
    rows = counted((2, 3, 8, 8), lambda p: p.padded("x"))["rows"]
    assert rows == 2 * 3 * 10 * 10 / 8
    assert counted((2, 3, 8, 8), lambda p: p.op("Concat", ["x", "x"], (2, 6, 8, 8), axis=1))["rows"] == 2 * 2
    turned = counted((3, 3, 4, 5), lambda p: p.op("Transpose", ["x"], (5, 4, 3, 3), perm=[3, 2, 0, 1]))
    assert turned["rows"] == 180 and counted((4, 5, 3, 3), lambda p: p.flipped("x"))["rows"] == 180
    kept = counted((2, 3, 8, 8), lambda p: p.op("Transpose", ["x"], (3, 2, 8, 8), perm=[1, 0, 2, 3]))
    assert kept["rows"] == 6
    for shape, perm in (((3, 3, 4, 5), [2, 3, 0, 1]), ((9, 4, 5), [0, 2, 1]), ((36, 5), [1, 0])):  # matrices
        turned = counted(
            shape, lambda p, to=tuple(shape[i] for i in perm), perm=perm: p.op("Transpose", ["x"], to, perm=perm)
        )
        assert turned["rows"] == 180 / 6
    window = counted((2, 3, 8, 8), lambda p: p.corner(p.same("Relu", "x")))
    assert "rows" not in window  # too small to be cut
    columns = counted((1, 2, 8, 8), lambda p: p.columns("x"))["rows"]
    assert columns == 2 * 100 / 8 + 9 * 2 * 8 + 9


def test_pools_of_bytes_and_of_floats_are_told_apart():
    found = counted((1, 2, 8, 8), lambda p: p.unpooled(p.feed("g", (1, 2, 4, 4)), "x"))
    assert found["windows"] == found["byte_windows"] == 2 * 64
    assert found["resized"] == 3 * 2 * 64  # maxima, priorities, gradient


def test_what_no_cache_holds_is_far():
    large = counted((8, 64, 32, 32), lambda p: p.same("Relu", "x"))  # 2 MiB in, 2 MiB out
    assert large["far"] == (4 * 2**20 - 2**20) / 4
    assert "far" not in counted((1, 64, 32, 32), lambda p: p.same("Relu", "x"))


def test_a_product_reads_a_turned_matrix_as_it_lies():
    """MatmulTransposeFusion: no copy, no op of its own."""
    builder = Builder("product", (2, 6, 4))
    graph = builder.graph(builder.product("x", builder.feed("y", (2, 5, 4))))
    cost = describe(onnx.load_from_string(model_bytes(graph)), {})
    assert [op["kind"] for op in cost["ops"]] == ["MatMul"] and cost["work"]["matmul"] == 2 * 6 * 16 * 4


def test_every_trip_of_a_scan_counts():
    alone = counted((1, 3, 16, 16), lambda p: p.conv("x", 4, 3, fed=True))
    each = counted((7, 3, 16, 16), lambda p: p.each_image("x", lambda body, x: body.conv(x, 4, 3, fed=True)))
    assert each == {t: 7 * amount for t, amount in alone.items()} | {"ops": 7 * (alone["ops"] + 1), "views": 1}


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


def test_add_up_leaves_out_what_is_not_there():
    assert add_up([{"conv": 2, "ops": 1}, {"conv": 3, "ops": 1, "fed": 0}]) == {"conv": 5, "ops": 2}
