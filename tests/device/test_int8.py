"""The int8 graph on the board: its tensors from float weights, made anew after teaching, and what does not fit."""

from dataclasses import asdict

import handmade as hm
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gems_edge.device import Learner
from gems_edge.device.bundle import bundle_bytes, read_bundle
from gems_edge.device.int8 import INT8_FILE, Layer, layer_tensors, map_scale
from gems_edge.errors import UserError
from gems_edge.images import to_input

EPSILON = 1e-5
LAYER = Layer(hm.CONV, None, None, None, "images")
SCALES = {"images": map_scale(0.0, 1.0), "relu": map_scale(0.0, 6.0)}


def int8_model(weights) -> onnx.ModelProto:
    """handmade.predict_model without normalisation, its convolution in int8."""
    stored = layer_tensors(LAYER, weights, float(SCALES["images"][0]))
    for name, (scale, zero) in SCALES.items():
        stored |= {f"{name}.scale": np.asarray(scale), f"{name}.zero": np.asarray(zero)}
    n = helper.make_node
    nodes = []
    for name, source in (("images", "images"), ("relu", "r")):
        pair = [f"{name}.scale", f"{name}.zero"]
        nodes += [n("QuantizeLinear", [source, *pair], [f"{name}.q"])]
        nodes += [n("DequantizeLinear", [f"{name}.q", *pair], [f"{name}.d"])]
    nodes[2:2] = [
        n("DequantizeLinear", [f"{hm.CONV}.int8", f"{hm.CONV}.scale"], ["w"], axis=0),
        n("DequantizeLinear", [f"{hm.CONV}.bias", f"{hm.CONV}.bias_scale"], ["b"], axis=0),
        n("Conv", ["images.d", "w", "b"], ["y"], strides=[hm.PATCH, hm.PATCH]),
        n("Relu", ["y"], ["r"]),
    ]
    nodes += [
        n("GlobalAveragePool", ["relu.d"], ["p"]),
        n("Reshape", ["p", "flat"], ["f"]),
        *hm.linear("f"),
    ]
    channels = weights[hm.CONV].shape[1]
    shapes = {"images": ["images", channels, hm.SIZE, hm.SIZE], hm.HEAD[0]: ["classes", hm.FEATURES]}
    shapes |= {hm.HEAD[1]: ["classes"]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", "classes"])
    stored |= {name: weights[name] for name in hm.HEAD} | {"flat": np.array([0, -1])}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "predict", inputs, [output], tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def path(tmp_path):
    path = hm.write_bundle(tmp_path / "h.gems", normalization="group", head="per-class", channels=3)
    about = {"layers": [asdict(LAYER)], "tensors": []}
    hm.edit_manifest(path, lambda manifest: manifest.update(int8=about))
    hm.replace_file(path, INT8_FILE, int8_model(read_bundle_weights(path)).SerializeToString())
    return path


def read_bundle_weights(path):
    import safetensors.numpy

    return safetensors.numpy.load((path / "weights.safetensors").read_bytes())


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3]),
    st.sampled_from([1e-6, 1 / 255, 0.5]), st.sampled_from([0.0, 1e-30, 1.0]), st.sampled_from([0.0, 1.0, 1e6]),
    st.booleans(), st.sampled_from([1e-5, 1e-3]),
)  # fmt: skip
def test_quantised_tensors_are_the_folded_ones_to_half_a_step(
    seed, outputs, inputs, kernel, step, size, shift, biased, epsilon
):
    random = np.random.default_rng(seed)
    weights = {"c.weight": size * random.normal(size=(outputs, inputs, kernel, kernel))}
    weights |= {"n.weight": random.normal(size=outputs), "n.bias": shift * random.normal(size=outputs)}
    weights |= {"n.mean": random.normal(size=outputs), "n.var": random.random(outputs)}
    weights |= {"c.bias": random.normal(size=outputs) * biased}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    w64 = {name: value.astype(np.float64) for name, value in weights.items()}
    gain = w64["n.weight"] / np.sqrt(w64["n.var"] + epsilon)
    folded = w64["c.weight"] * gain[:, None, None, None]
    bias = w64["n.bias"] + (w64["c.bias"] - w64["n.mean"]) * gain
    layer = Layer("c.weight", "c.bias" if biased else None, "n", epsilon, "x")
    made = layer_tensors(layer, weights, step)
    whole, scale = made["c.weight.int8"], made["c.weight.scale"].astype(np.float64)
    assert whole.dtype == np.int8 and whole.min() >= -127
    assert np.isfinite(scale).all() and (scale > 0).all()
    wide = scale[:, None, None, None]
    assert (np.abs(whole * wide - folded) <= wide * 0.5001 + 1e-5 * np.abs(folded)).all()
    bias_scale = made["c.weight.bias_scale"].astype(np.float64)
    np.testing.assert_allclose(bias_scale, scale * step, rtol=1e-6)
    rounding = 1e-6 * sum(np.abs(w64[f"n.{part}"] * by) for part, by in (("bias", 1), ("mean", gain)))
    rounding += 1e-6 * np.abs(w64["c.bias"] * gain)
    assert (np.abs(made["c.weight.bias"] * bias_scale - bias) <= 0.5001 * bias_scale + rounding).all()
    # Room in int32 for the products of the largest convolution here: 5760 inputs.
    assert np.abs(made["c.weight.bias"].astype(np.int64)).max() + 255 * 127 * 9 * 640 < 2**31


def test_a_convolution_without_normalisation_keeps_its_bias():
    weights = {"c.weight": np.ones((2, 1, 1, 1), np.float32), "c.bias": np.array([3, -1], np.float32)}
    made = layer_tensors(Layer("c.weight", "c.bias", None, None, None), weights, None)
    np.testing.assert_array_equal(made["c.weight.folded"], weights["c.weight"])
    np.testing.assert_array_equal(made["c.weight.bias"], weights["c.bias"])


def test_a_float_layer_is_only_folded():
    weights = {"c.weight": np.ones((2, 1, 1, 1)), "n.weight": np.array([2, -1]), "n.bias": np.array([1, 0])}
    weights |= {"n.mean": np.array([1, 1]), "n.var": np.array([4, 1]) - EPSILON}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    made = layer_tensors(Layer("c.weight", None, "n", EPSILON, None), weights, None)
    assert made.keys() == {"c.weight.folded", "c.weight.bias"}
    np.testing.assert_allclose(made["c.weight.folded"].ravel(), [1, -1], rtol=1e-6)
    np.testing.assert_allclose(made["c.weight.bias"], [0, 1], atol=1e-6)


@given(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32))
def test_a_scale_holds_its_range_and_zero(low, high):
    low, high = min(low, high), max(low, high)
    scale, zero = map_scale(low, high)
    steps = np.rint(np.array([low, 0.0, high]) / float(scale)) + zero
    assert steps[1] == zero
    assert (np.abs((steps.clip(0, 255) - zero) * float(scale) - [low, 0.0, high]) <= 1.01 * scale).all()


def test_pixels_stay_what_they_are():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scale, zero = map_scale(0.0, 1.0)
    np.testing.assert_array_equal(np.rint(to_input(pixels) / scale) + zero, pixels.transpose(0, 3, 1, 2))


def test_int8_answers_follow_what_was_learned(path):
    learner = Learner.load(path, threads=1, precision="int8")
    queries, labels = hm.pictures(3, 20, channels=3, seed=4)
    untaught = learner.predict(queries)
    np.testing.assert_allclose(untaught, learner.in_precision("fp32").predict(queries), atol=0.02)
    learner.adapt(*hm.pictures(3, 4, channels=3), steps=20)
    taught = learner.predict(queries)
    exact = learner.in_precision("fp32").predict(queries)
    assert np.abs(exact - untaught).max() > 0.2  # it learned something
    np.testing.assert_allclose(taught, exact, atol=0.02)
    assert learner.in_precision("fp32").in_precision("int8").predict(queries).tobytes() == taught.tobytes()


def test_int8_answers_from_a_state(path, tmp_path):
    learner = Learner.load(path, threads=1)
    learner.adapt(*hm.pictures(2, 3, channels=3))
    learner.save(tmp_path / "s.state")
    other = Learner.load(path, threads=1, precision="int8")
    other.load_state(tmp_path / "s.state")
    queries, _ = hm.pictures(2, 9, channels=3, seed=1)
    np.testing.assert_array_equal(other.predict(queries), learner.in_precision("int8").predict(queries))


def test_the_graph_counts_among_the_files(path):
    assert INT8_FILE in bundle_bytes(read_bundle(path))
    (path / INT8_FILE).unlink()
    with pytest.raises(UserError, match="incomplete: predict.int8.onnx is missing"):
        read_bundle(path)


def test_precisions_that_are_not_there(tmp_path, path):
    plain = hm.write_bundle(tmp_path / "plain.gems")
    for wrong, message in (
        ("int8", "no quantised graph; export it again with gems-edge export --int8"),
        ("int4", "fp32, int8"),
    ):
        with pytest.raises(UserError, match=message):
            Learner.load(plain, precision=wrong)
    with pytest.raises(UserError, match="no quantised graph"):
        Learner.load(plain).in_precision("int8")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.pop("int8"), "'int8.layers' must be"),
        (lambda m: m["int8"].pop("tensors"), "'int8.tensors' must be"),
        (lambda m: m["int8"].update(tensors=["backbone.other"]), "'int8.tensors' must be"),
        (lambda m: m["int8"]["layers"][0].update(norm="backbone.norm"), "'int8.layers' must be"),
        (lambda m: m["int8"]["layers"][0].update(epsilon=1e-5), "'int8.layers' must be"),
        (lambda m: m["int8"]["layers"][0].update(norm="backbone.norm", epsilon=0.0), "'int8.layers' must be"),
        (lambda m: m["int8"].update(layers="all"), "'int8.layers' must be"),
        (lambda m: m["int8"]["layers"].append({"weight": hm.CONV}), "'int8.layers' must be"),
        (lambda m: m["int8"]["layers"][0].update(weight=None), "'int8.layers' must be"),
        (lambda m: m["int8"]["layers"][0].update(weight="backbone.other.weight"), "own convolutions"),
        (lambda m: m["int8"]["layers"][0].update(weight="head.weight"), "own convolutions"),
        (lambda m: m["int8"]["layers"][0].update(norm="backbone.norm", epsilon=1e-5), "own convolutions"),
        (lambda m: m["int8"]["layers"][0].update(bias="backbone.conv.bias"), "own convolutions"),
    ],
)
def test_manifests_that_do_not_fit(path, change, message):
    hm.edit_manifest(path, change)
    with pytest.raises(UserError, match=message) as caught:
        read_bundle(path)
    assert "\n" not in str(caught.value)


def test_graphs_that_do_not_fit(path):
    model = onnx.load_from_string((path / INT8_FILE).read_bytes())
    for name, message in (
        ("images.scale", "no initialiser images.scale"),
        (f"{hm.CONV}.int8", f"initialiser {hm.CONV}.int8 is missing"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.initializer.remove(next(t for t in changed.graph.initializer if t.name == name))
        hm.replace_file(path, INT8_FILE, changed.SerializeToString())
        learner = Learner.load(path, precision="int8")
        learner.adapt(*hm.pictures(2, 3, channels=3))
        with pytest.raises(UserError, match=message) as caught:
            learner.predict(hm.pictures(2, 1, channels=3)[0])
        assert "\n" not in str(caught.value)
