"""Which nodes compute each image apart."""

import onnx_ir as ir
import pytest

from gems_edge.export.passes.batches import Batches

PLANNED = {"images": 6, "classes": 5}


def batches_of(body, shapes="float[images, 4, 3, 6] x, float[4, 1, 1] w", constants="int64[1] zero = {0}"):
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["": 20]>
        step ({shapes}) => (float[a] y)
        <{constants}>
        {{ y = {body} }}
    """)
    model.graph.outputs[0].shape = None
    return Batches.of(model, PLANNED), list(model.graph)[-1]


@pytest.mark.parametrize(
    ("body", "apart", "crosses"),
    [
        ("Relu(x)", True, False),
        ("Mul(x, w)", True, False),
        ("Transpose<perm = [0, 2, 1, 3]>(x)", True, False),
        ("Transpose<perm = [3, 1, 2, 0]>(x)", False, False),  # six sides too, and they are not images
        ("ReduceSum<keepdims = 0>(x, zero)", False, True),
        ("ReduceMean(x)", False, True),
        ("ReduceMax(x, zero)", False, None),
        ("Softmax<axis = 0>(x)", False, False),
    ],
)
def test_of_each_image_or_over_all(body, apart, crosses):
    batches, node = batches_of(body)
    assert (node in batches.apart) is apart
    assert crosses is None or (node in batches.crossing) is crosses


def test_what_is_read_whole_must_not_be_of_the_images():
    for shapes in (
        "float[images, 4] x, float[images, 1] b",
        "float[images, 6] x, float[6] b",
        "float[images, 4] x, float[1, 4] b",
    ):
        batches, node = batches_of("Add(x, b)", shapes)
        assert node in batches.apart
    batches, node = batches_of("MatMul(b, x)", "float[images, 4] x, float[5, images] b")
    assert node not in batches.apart and batches.sizes[node.outputs[0]].shape == (5, 4)
