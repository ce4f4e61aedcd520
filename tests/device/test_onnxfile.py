"""The board's own reader of ONNX bytes, against the onnx package."""

import handmade as hm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gems_edge.device.onnxfile import initializers, with_values
from gems_edge.device.runtime import Session
from gems_edge.errors import UserError


def weights(seed=0):
    generator = np.random.default_rng(seed)
    shapes = {hm.CONV: (8, 1, 4, 4), "head.weight": (3, 8), "head.bias": (3,), hm.MEAN: (8,), hm.VAR: (8,)}
    return {name: generator.uniform(0.5, 2, shape).astype(np.float32) for name, shape in shapes.items()}


def test_finds_what_onnx_finds():
    model = hm.predict_model(weights(), (hm.MEAN, hm.VAR))
    found = initializers(model.SerializeToString(), "m")
    assert {name: place.shape for name, place in found.items()} == {
        t.name: tuple(t.dims) for t in model.graph.initializer
    }


@pytest.mark.parametrize("raw", [True, False])
def test_replaced_values_are_the_same_model(raw):
    old, new = weights(0), weights(1)
    model, expected = (hm.predict_model(w, (hm.MEAN, hm.VAR)) for w in (old, new))
    if not raw:  # the other place in which a file may keep float32
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(tensor)
                tensor.ClearField("raw_data")
                tensor.float_data.extend(values.ravel())
    changed = onnx.load_from_string(with_values(model.SerializeToString(), new, "m"))
    onnx.checker.check_model(changed)
    for tensor, other in zip(changed.graph.initializer, expected.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(other))


def test_replaced_values_are_folded_into_the_convolution():
    """What onnxruntime's add_initializer does not do: see the module."""
    new = weights(1)
    images = np.random.default_rng(0).random((4, 1, 16, 16), dtype=np.float32)
    content = with_values(hm.predict_model(weights(0), (hm.MEAN, hm.VAR)).SerializeToString(), new, "m")
    logits = Session(content, "m").run(["logits"], {"images": images})[0]
    expected = hm.reference_probabilities(new, np.rint(images * 255).transpose(0, 2, 3, 1))
    exact = Session(hm.predict_model(new, (hm.MEAN, hm.VAR)).SerializeToString(), "m").run(
        ["logits"], {"images": images}
    )[0]
    np.testing.assert_allclose(logits, exact, atol=1e-6)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), expected, atol=1e-2)


def test_values_that_do_not_fit():
    content = hm.predict_model(weights(), (hm.MEAN, hm.VAR)).SerializeToString()
    with pytest.raises(UserError, match="nothing.here is missing"):
        with_values(content, {"nothing.here": np.zeros(3, np.float32)}, "m")
    with pytest.raises(UserError, match=r"shape \[8\], expected float32 \[9\]"):
        with_values(content, {hm.MEAN: np.zeros(9, np.float32)}, "m")


def test_truncated_anywhere_is_a_user_error_or_a_model():
    content = hm.predict_model(weights(), (hm.MEAN, hm.VAR)).SerializeToString()
    refused = 0
    for length in range(len(content)):
        try:
            initializers(content[:length], "m")
        except UserError:
            refused += 1
    assert refused > 0.95 * len(content)


def test_damaged_anywhere_is_a_user_error_or_a_model():
    content = bytearray(hm.adapt_model(weights(), hm.PARTS["anil"], (hm.MEAN, hm.VAR)).SerializeToString())
    for position in range(0, len(content), 3):
        for flip in (0x01, 0x80, 0xFF):
            damaged = content.copy()
            damaged[position] ^= flip
            try:
                initializers(bytes(damaged), "m")
            except UserError:
                pass


def _external(name):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def test_external_data_is_found_wherever_it_hides():
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=_external("deep"))], "inner", [], [])
    hiding = [
        helper.make_node("Constant", [], ["c"], value=_external("here")),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
    ]
    for node in hiding:
        with pytest.raises(UserError, match="in another file"):
            initializers(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString(), "m")
    function = helper.make_function("d", "f", [], ["c"], [hiding[0]], [])
    model = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    with pytest.raises(UserError, match="in another file"):
        initializers(model.SerializeToString(), "m")
