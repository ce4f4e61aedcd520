"""Which values exist for one image at a time, and why others do not."""

import onnx_ir as ir

from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.streamed import streamed_values, why_whole

# What a weight gradient of a depthwise convolution reads: pieces of a map, and the gradient, which is there later.
PIECES = """
    <ir_version: 10, opset_import: ["": 20]>
    step (float[images, 4, 9, 9] x, float[images, 4, 4, 4] gradient) => (float[4] total, float[images, 4, 4, 4] pooled)
    <int64[1] images_axis = {0}, int64[2] sides = {2, 3}, int64[2] from = {0, 0}, int64[2] to = {4, 4}>
    {
        map = Relu(x)
        pooled = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(map)
        piece = Slice(map, from, to, sides)
        product = Mul(piece, gradient)
        each = ReduceSum<keepdims = 0>(product, sides)
        total = ReduceSum<keepdims = 0>(each, images_axis)
    }
"""


def test_pieces_of_a_large_map_are_streamed_with_it():
    model = ir.from_onnx_text(PIECES)
    batches = Batches.of(model, {"images": 5})
    values = ir.convenience.create_value_mapping(model.graph)
    least = 5000
    assert {value.name for value in streamed_values(batches, least)} == {"map", "piece", "product"}
    reasons = {name: why_whole(batches, values[name], least) for name in ("map", "piece", "pooled", "x", "total")}
    assert reasons["map"] is None
    assert "fewer than 5000" in reasons["piece"]
    assert all("none of the maps" in reasons[name] for name in ("pooled", "x", "total"))


def test_the_result_of_a_pool_is_there_for_all_images():
    model = ir.from_onnx_text(
        PIECES.replace(", float[images, 4, 4, 4] pooled)", ", float[images, 4, 4, 4] copy)").replace(
            "piece = Slice", "copy = Relu(pooled)\n        piece = Slice"
        )
    )
    batches = Batches.of(model, {"images": 5})
    reason = why_whole(batches, ir.convenience.create_value_mapping(model.graph)["pooled"], 1)
    assert reason == "it is a pool's result"
