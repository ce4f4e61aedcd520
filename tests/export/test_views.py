"""Views of views are one view; sums do not keep axes that are taken away."""

import numpy as np
import onnx_ir as ir
import pytest

from gems_edge.device.runtime import Session
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.passes.views import merge_views


def run(model, feeds):
    session = Session(model.SerializeToString(), "it", threads=1)
    return session.run(session.outputs, feeds)


def merged(builder, **feeds):
    """The kinds of nodes that are left; results must be those of before."""
    before = builder.model()
    model = ir.from_proto(before)
    merge_views(model)
    after = ir.to_proto(model)
    for one, other in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(one, other)
    return [node.op_type for node in model.graph]


def summed(read_kept):
    """[N, 3, 4, 4] → Σ over all but the channels, by way of [1, 3, 1, 1] and [3, 1, 1], as autograd writes it."""
    b = GraphBuilder("step")
    x = b.input("x", ["images", 3, 4, 4])
    kept = b.op("ReduceSum", x.name, b.constant([0, 2, 3]), keepdims=1)
    vector = b.op("Reshape", kept, b.constant([3, 1, 1]))
    for axis in (2, 1):
        vector = b.op("Squeeze", vector, b.constant([axis]))
    b.output("y", b.op("Exp", vector), [3])
    if read_kept:
        b.output("z", b.op("Exp", kept), [1, 3, 1, 1])
    return b


@pytest.mark.parametrize("read_kept, kinds", [(False, ["ReduceSum", "Exp"]), (True, ["ReduceSum", "Reshape", "Exp"])])
def test_a_sum_keeps_its_axes_only_for_those_who_read_them(read_kept, kinds):
    x = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    assert sorted(merged(summed(read_kept), x=x)) == sorted([*kinds, *(["Exp"] if read_kept else [])])


def test_axes_that_are_added_one_by_one_are_added_at_once_whatever_the_number_of_images():
    b = GraphBuilder("step")
    x, y = b.input("x", ["images", 3]), b.input("y", ["images", 3, 4, 4])
    wide = b.op("Unsqueeze", b.op("Unsqueeze", x.name, b.constant([2])), b.constant([3]))
    b.output("z", b.op("Mul", y.name, wide), ["images", 3, 4, 4])
    random = np.random.default_rng(0)
    for images in (1, 5):
        x, y = random.random((images, 3), np.float32), random.random((images, 3, 4, 4), np.float32)
        assert merged(b, x=x, y=y) == ["Reshape", "Mul"]


def test_what_is_added_and_taken_away_is_nothing_but_an_output_keeps_its_name():
    b = GraphBuilder("step")
    x = b.input("x", ["images", 3])
    there = b.op("Unsqueeze", b.op("Exp", x.name), b.constant([2]))
    back = b.op("Squeeze", there, b.constant([2]))
    b.output("y", back, ["images", 3])
    b.output("z", b.op("Neg", back), ["images", 3])
    assert sorted(merged(b, x=np.ones((2, 3), np.float32))) == ["Exp", "Neg"]


def test_shapes_that_are_computed_stay():
    b = GraphBuilder("step")
    x, like = b.input("x", ["images", 4]), b.input("like", ["rows", "columns", 2])
    shape = b.op("Shape", like.name)
    view = b.op("Reshape", b.op("Unsqueeze", b.op("Exp", x.name), b.constant([0])), shape)
    b.output("y", b.op("Exp", view), ["rows", "columns", 2])
    feeds = {"x": np.ones((2, 4), np.float32), "like": np.ones((4, 1, 2), np.float32)}
    assert merged(b, **feeds).count("Reshape") == 1
