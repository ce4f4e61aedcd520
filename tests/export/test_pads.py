"""Zeros around a convolution's input become its padding; other pads stay."""

import numpy as np
import onnx_ir as ir
import pytest

from gems_edge.device.runtime import Session
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.passes.pads import absorb_pads


def padded(pads, fill=None, twice=False):
    """images → Pad → a convolution that pads by 1 itself."""
    b = GraphBuilder("predict")
    x = b.input("images", ["images", 2, 6, 6])
    b.initializer("w", np.random.default_rng(0).random((3, 2, 3, 3), np.float32))
    y = b.op("Pad", x.name, b.constant(pads), *([] if fill is None else [b.constant(fill)]))
    z = b.op("Conv", y, "w", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    b.output("logits", b.op("ReduceMean", z, b.constant([2, 3]), keepdims=0), ["images", 3])
    if twice:
        b.output("map", y, ["images", 2, None, None])
    return b.model()


@pytest.mark.parametrize(
    "absorbed, options",
    [
        (True, {"pads": [0, 0, 0, 1, 0, 0, 2, 3]}),
        (True, {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "fill": 0.0}),
        (False, {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "fill": 1.0}),
        (False, {"pads": [0, 0, -1, 0, 0, 0, 1, 0]}),
        (False, {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "twice": True}),
    ],
)
def test_zeros_are_absorbed_and_nothing_else(absorbed, options):
    predict = padded(**options)
    model = ir.from_proto(predict)
    absorb_pads(model)
    kinds = [node.op_type for node in model.graph]
    assert ("Pad" not in kinds) == absorbed
    images = {"images": np.random.default_rng(1).random((2, 2, 6, 6), np.float32)}
    before, after = (
        Session(proto.SerializeToString(), "it", threads=1).run(["logits"], images)[0]
        for proto in (predict, ir.to_proto(model))
    )
    np.testing.assert_array_equal(after, before)
