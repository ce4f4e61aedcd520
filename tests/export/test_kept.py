"""What is computed again, and what is kept for all images instead."""

import numpy as np
import onnx_ir as ir
import pytest

from gems_edge.device.runtime import Session
from gems_edge.export.passes.kept import is_product
from gems_edge.export.passes.stream import Memory, stream
from gems_edge.graphs.cost import describe
from gems_edge.graphs.liveness import TensorSize


def test_only_a_convolution_that_picks_is_no_product():
    """A frozen 1×1 convolution of as many filters as channels has a picking one's shape."""

    def counts(weight):
        value = ir.val("weight", const_value=ir.tensor(weight.astype(np.float32)))
        return is_product(ir.node("Conv", [ir.val("x"), value]), {value: TensorSize(weight.shape, 4)}, 0)

    assert counts(np.full((8, 8, 1, 1), 0.5)) and not counts(np.eye(27).reshape(27, 3, 3, 3))


# A narrow map is widened, and the wide one is needed twice: before its mean over all images is known, and after.
WIDENED = """
    <ir_version: 10, opset_import: ["": 20]>
    step (float[images, 8, 16, 16] narrow, float[48, CHANNELS, 1, 1] weight) => (float[48] spread)
    <int64[1] images_axis = {0}, int64[2] sides = {2, 3}, int64[3] map = {48, 1, 1}>
    {
        wide = Conv<group = GROUPS>(narrow, weight)
        each = ReduceMean<keepdims = 0>(wide, sides)
        mean = ReduceMean<keepdims = 0>(each, images_axis)
        middle = Reshape(mean, map)
        centred = Sub(wide, middle)
        square = Mul(centred, centred)
        of_each = ReduceMean<keepdims = 0>(square, sides)
        spread = ReduceMean<keepdims = 0>(of_each, images_axis)
    }
"""
PLANNED = {"images": 6}


@pytest.mark.parametrize(("groups", "cheap_macs", "again"), [(1, 8, True), (1, 7, False), (1, 0, False), (8, 8, False)])
def test_a_wide_map_comes_again_from_a_narrow_one_where_that_takes_little(groups, cheap_macs, again):
    text = WIDENED.replace("CHANNELS", str(8 // groups)).replace("GROUPS", str(groups))
    whole = ir.to_proto(ir.from_onnx_text(text))
    streamed = stream(whole, Memory(1 << 16, 0, cheap_macs), PLANNED)
    convolutions = [node for node in ir.from_proto(streamed).graph.all_nodes() if node.op_type == "Conv"]
    assert len(convolutions) == (2 if again else 1)
    peaks = [describe(graph, PLANNED)["peak_bytes"] for graph in (whole, streamed)]
    assert peaks[1] < (0.5 if again else 0.8) * peaks[0]
    random = np.random.default_rng(0)
    feeds = {
        "narrow": random.standard_normal((7, 8, 16, 16)).astype(np.float32),
        "weight": random.standard_normal((48, 8 // groups, 1, 1)).astype(np.float32),
    }
    expected, result = (
        Session(graph.SerializeToString(), "graph", threads=1).run(["spread"], feeds)[0] for graph in (whole, streamed)
    )
    assert np.allclose(expected, result, rtol=1e-5)
