"""Which tensors a convolution is made of, and that it is made of one weight and one bias after the pass."""

import numpy as np
import onnx_ir as ir
import pytest

from gems_edge.device.int8 import Layer
from gems_edge.device.runtime import Session
from gems_edge.errors import UserError
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.passes.fold import fold

NORM = ("n.weight", "n.bias", "n.mean", "n.var")


def tensors(*names):
    random = np.random.default_rng(0)
    shapes = {"c.weight": (4, 2, 3, 3), "d.weight": (4, 2, 3, 3)}
    return {name: random.uniform(0.5, 1, shapes.get(name, 4)).astype(np.float32) for name in names}


def written(weights, epsilon, operands):
    """images → logits through one convolution; `operands(builder, scale)` gives its weight and bias."""
    b = GraphBuilder("predict")
    x = b.input("images", ["images", 2, 6, 6])
    for name, array in weights.items():
        b.initializer(name, array)
    scale = None
    if "n.var" in weights:
        root = b.op("Reciprocal", b.op("Sqrt", b.op("Add", "n.var", b.constant(epsilon))))
        scale = b.op("Mul", "n.weight", root)
    y = b.op("Conv", x.name, *operands(b, scale), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
    b.output("logits", b.op("ReduceMean", y, b.constant([2, 3]), keepdims=0), ["images", 4])
    return b.model()


def scaled(b, scale):
    return b.op("Mul", "c.weight", b.op("Reshape", scale, b.constant([-1, 1, 1, 1])))


def shifted(b, scale):
    return b.op("Sub", "n.bias", b.op("Mul", "n.mean", scale))


FORMS = {
    "neither": (("c.weight",), lambda b, s: ("c.weight",), Layer("c.weight", None, None, None, None)),
    "a bias": (
        ("c.weight", "c.bias"), lambda b, s: ("c.weight", "c.bias"), Layer("c.weight", "c.bias", None, None, None)
    ),
    "a norm": (
        ("c.weight", *NORM), lambda b, s: (scaled(b, s), shifted(b, s)), Layer("c.weight", None, "n", 1e-3, None)
    ),
    "both": (
        ("c.weight", "c.bias", *NORM),
        lambda b, s: (scaled(b, s), b.op("Add", b.op("Mul", "c.bias", s), shifted(b, s))),
        Layer("c.weight", "c.bias", "n", 1e-3, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_convolution_is_found_with_its_tensors_and_computes_the_same(form):
    names, operands, layer = FORMS[form]
    weights = tensors(*names)
    predict = written(weights, 1e-3, operands)
    model = ir.from_proto(predict)
    assert list(fold(model, weights).values()) == [layer]
    (conv,) = [node for node in model.graph if node.op_type == "Conv"]
    assert [value.name for value in conv.inputs[1:]] == ["c.weight.folded", "c.weight.bias"]
    images = {"images": np.random.default_rng(1).random((3, 2, 6, 6), np.float32)}
    before, after = (
        Session(proto.SerializeToString(), "it", threads=1).run(["logits"], images)[0]
        for proto in (predict, ir.to_proto(model))
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "names, operands",
    [
        (("c.weight", "d.weight"), lambda b, s: (b.op("Add", "c.weight", "d.weight"),)),
        (("c.weight", "c.bias", "e.bias"), lambda b, s: ("c.weight", b.op("Add", "c.bias", "e.bias"))),
        (("c.weight", "n.weight", "n.var"), lambda b, s: (scaled(b, s),)),
        ((), lambda b, s: (b.constant(np.ones((4, 2, 3, 3))),)),
    ],
)
def test_other_convolutions_are_refused_by_name(names, operands):
    weights = tensors(*names)
    with pytest.raises(UserError, match="--int8 does not know the convolution conv") as caught:
        fold(ir.from_proto(written(weights, 1e-5, operands)), weights)
    assert "\n" not in str(caught.value)
