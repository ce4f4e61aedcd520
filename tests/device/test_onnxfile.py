"""The board's own reader of ONNX bytes, against the onnx package."""

import handmade as hm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gems_edge.device.onnxfile import initializers, with_values
from gems_edge.device.operators import OPERATORS
from gems_edge.device.runtime import Session
from gems_edge.errors import UserError
from gems_edge.graphs.ops import ROWS


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


def test_external_data_is_found_wherever_it_may_stand():
    inner = helper.make_graph([helper.make_node("Identity", ["deep"], ["y"])], "inner", [], [], [_external("deep")])
    scan = helper.make_node("Scan", ["x"], ["y"], body=inner, num_scan_inputs=1)
    for graph in (helper.make_graph([], "g", [], [], [_external("here")]), helper.make_graph([scan], "g", [], [])):
        with pytest.raises(UserError, match="keeps tensor (here|deep) in another file"):
            initializers(helper.make_model(graph).SerializeToString(), "m")


FOREIGN = [("If", ""), ("Loop", ""), ("RandomNormal", ""), ("Conv", "com.microsoft"), ("", "")]


@pytest.mark.parametrize("kind, domain", FOREIGN)
def test_operators_that_no_export_writes(kind, domain):
    inner = helper.make_graph([helper.make_node(kind, ["x"], ["y"], domain=domain)], "inner", [], [])
    scan = helper.make_node("Scan", ["x"], ["y"], body=inner, num_scan_inputs=1)
    for graph in (inner, helper.make_graph([scan], "g", [], [])):
        refused(helper.make_model(graph).SerializeToString(), "m.onnx holds the operator .*, which no export writes")


def test_every_operator_of_a_bundle_has_its_row():
    assert OPERATORS < ROWS.keys()


def _varint(value):
    content = b""
    while value > 127:
        content, value = content + bytes([value & 127 | 128]), value >> 7
    return content + bytes([value])


def _field(number, wire, value, wide=False):
    tag = _varint((number << 3 | wire) + (wide << 32))
    return tag + (_varint(len(value)) + value if wire == 2 else _varint(value))


# Paths of messages from the model to a tensor, by field numbers.
_GRAPH, _FUNCTION = (7,), (25,)
_ATTRIBUTES = (_GRAPH + (1, 5), _FUNCTION + (7, 5), _FUNCTION + (11,))
ELSEWHERE_OR_NO_EXPORT = "tensor secret in another file|is none that an export writes"
_PATHS = [
    *(graph + rest for graph in (_GRAPH, (20, 1), (20, 2)) for rest in ((5,), (15, 1), (15, 2))),
    *(attribute + rest for attribute in _ATTRIBUTES for rest in ((5,), (10,), (6, 5), (11, 5), (22, 1), (23, 2))),
]
_NAMED = _field(8, 2, b"secret")
_ELSEWHERE = _field(13, 2, _field(1, 2, b"location") + _field(2, 2, b"secret.bin")) + _field(14, 0, 1)


def _inside(path, content, wide=None):
    """`content` as the message at `path`; with the 33rd bit set in the tag at depth `wide`."""
    for depth in reversed(range(len(path))):
        content = _field(path[depth], 2, content, wide=depth == wide)
    return content


def refused(content, match):
    with pytest.raises(UserError, match=match) as caught:
        initializers(content, "m.onnx")
    assert str(caught.value).startswith("m.onnx ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", _PATHS)
def test_tags_that_the_runtime_cuts_hide_nothing(path):
    """protobuf reads tag 2^32 + t as t."""
    refused(_inside(path, _NAMED + _ELSEWHERE), ELSEWHERE_OR_NO_EXPORT)
    for depth in range(len(path)):
        refused(_inside(path, _NAMED + _ELSEWHERE, wide=depth), "is damaged or not an ONNX model")
    refused(_inside(path, _NAMED + _field(13, 2, b"", wide=True)), "is damaged or not an ONNX model")
    refused(_inside(path, _NAMED + _field(14, 0, 1, wide=True)), "is damaged or not an ONNX model")


def test_every_path_of_onnx_to_a_tensor_is_walked():
    def below(message, outer):
        """Paths from `message` to a tensor that enter each kind of message once."""
        for field in message.fields:
            if field.message_type is TensorProto.DESCRIPTOR:
                yield (field.number,)
            elif field.message_type and field.message_type not in outer:
                for rest in below(field.message_type, (*outer, field.message_type)):
                    yield (field.number, *rest)

    found = set(below(onnx.ModelProto.DESCRIPTOR, (onnx.ModelProto.DESCRIPTOR,)))
    assert len(found) > 20
    for path in found:
        refused(_inside(path, _NAMED + _ELSEWHERE), ELSEWHERE_OR_NO_EXPORT)


@pytest.mark.parametrize("location", [1 + (1 << 32), 1 + (1 << 63), 1 + (1 << 64), 1 + (1 << 69), (1 << 32) - 1])
def test_enums_that_the_runtime_cuts_hide_nothing(location):
    """protobuf reads an enum of 2^32 + 1 as 1, which is EXTERNAL."""
    refused(_inside((7, 5), _NAMED + _field(14, 0, location)), "is damaged or not an ONNX model")
    refused(_inside((7, 5), _NAMED + _field(2, 0, location)), "is damaged or not an ONNX model")


@pytest.mark.parametrize(
    "content",
    [
        _field(0, 2, b"x"),
        _field(0, 0, 1),
        _varint(13 << 3 | 3) + _varint(13 << 3 | 4),  # a group
        _varint(13 << 3 | 4),
        _varint(14 << 3) + b"\x81" + b"\x80" * 9 + b"\x00",  # 1 in 11 bytes
        _varint(14 << 3 | 6),
        _field(1, 2, b"\x81"),  # packed dims that go on behind their end
        _field(9, 2, bytes(4)) + _field(4, 2, bytes(4)),  # the runtime takes the first, whichever comes last
    ],
)
def test_what_protobuf_has_not(content):
    refused(_inside((7, 5), _NAMED + content + _field(8, 2, b"secret")), "is damaged or not an ONNX model")


def test_a_single_field_stands_once():
    """Of two messages protobuf makes one, and of two scalars the last counts."""
    here, there = _NAMED + _field(9, 2, bytes(4)), _NAMED + _ELSEWHERE
    for first, second in ((here, there), (there, here), (here, here)):
        refused(_inside((7,), _inside((5,), first)) + _inside((7,), _inside((5,), second)), "stands twice|another file")
    for number, value in ((2, 1), (8, b"a"), (9, bytes(4)), (12, b"")):
        tensor = _field(number, 0 if number == 2 else 2, value)
        refused(_inside((7, 5), tensor + tensor), f"field {number} of a tensor stands twice")
    refused(_inside((7, 1), _field(4, 2, b"Add") + _field(4, 2, b"Loop")), "field 4 of a node stands twice")
    refused(_inside((7, 5), here) + _inside((7,), _field(2, 2, b"g")), "field 7 of a model stands twice")
    graph = _inside((5,), here)
    refused(_inside((7,), graph + graph), "two tensors are named secret")


@pytest.mark.parametrize("content", [_field(8, 0, 7), _field(2, 2, bytes(3)), _field(9, 0, 5), _field(14, 2, b"")])
def test_fields_of_another_wire_type(content):
    """To protobuf they are fields it does not know, which say nothing; no export writes them."""
    refused(_inside((7, 5), content), "is none that an export writes")


@pytest.mark.parametrize("value", [b"\x81\x00", b"\x80\x80\x00", b"\x81" + b"\x80" * 8 + b"\x00"])
def test_numbers_in_more_bytes_than_they_need(value):
    refused(_inside((7, 5), _varint(2 << 3) + value), "a number is too long")
    refused(b"\xba\x00" + _varint(0), "a number is too long")  # the tag of the graph


def test_onnxruntimes_own_format_is_no_onnx():
    """The first field, unknown to ONNX, holds the mark by which the runtime takes the bytes for its own format."""
    content = _field(1, 2, bytes(4) + bytes(123)).replace(b"\x0a\x7f" + bytes(6), b"\x0a\x7f" + bytes(2) + b"ORTM")
    refused(content + hm.predict_model(weights(), (hm.MEAN, hm.VAR)).SerializeToString(), "is damaged or not")
