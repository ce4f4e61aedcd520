"""Adaptation and prediction on onnxruntime against the float64 numpy reference of handmade.py."""

import handmade as hm
import numpy as np
import onnx
import pytest
import safetensors.numpy

from gems_edge.device import Learner
from gems_edge.errors import UserError


@pytest.mark.parametrize(
    "head, method", [(h, m) for h in ("shared", "per-class") for m in hm.PARTS if (h, m) != ("shared", "boil")]
)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_adaptation_and_probabilities_equal_the_reference(tmp_path, head, method, classes):
    ways = 7 if head == "per-class" else 3  # of a per-class head the first rows are taken
    learner, adaptation, images, _ = hm.taught(tmp_path / "h.gems", classes, head=head, method=method, ways=ways)
    start = learner.bundle.all_tensors() | learner.bundle.start_weights(classes)
    expected, losses = hm.reference(start, images, np.repeat(np.arange(classes), 2), 5, learner.bundle.adapted)
    np.testing.assert_allclose(adaptation.losses, losses, atol=1e-5)
    for name, value in learner.taught.tensors.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4)
    queries, _ = hm.pictures(classes, 5, seed=3)
    np.testing.assert_allclose(learner.predict(queries), hm.reference_probabilities(expected, queries), atol=1e-5)


@pytest.mark.parametrize("method", hm.PARTS)
def test_a_carried_tensor_goes_from_step_to_step(tmp_path, method):
    learner, first, images, labels = hm.taught(tmp_path / "h.gems", 3, head="per-class", method=method, decay=0.25)
    start = learner.bundle.all_tensors() | learner.bundle.start_weights(3)
    expected, losses = hm.reference(start, images, np.repeat(np.arange(3), 2), 5, learner.bundle.adapted, decay=0.25)
    np.testing.assert_allclose(first.losses, losses, atol=1e-5)
    assert learner.taught.tensors.keys() == {*hm.PARTS[method], hm.MEAN, hm.VAR}
    for name, value in learner.taught.tensors.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4)
    queries, _ = hm.pictures(3, 5, seed=3)
    np.testing.assert_allclose(learner.predict(queries), hm.reference_probabilities(expected, queries), atol=1e-5)
    assert learner.adapt(images, labels).losses == first.losses  # from the start value again


def manifest_without(path):
    hm.edit_manifest(path, lambda m: m["tensors"].pop("carried"))


def manifest_with_another(path):
    hm.edit_manifest(path, lambda m: m["tensors"]["carried"].append(hm.CONV))


def weights_without(path):
    weights = safetensors.numpy.load((path / "weights.safetensors").read_bytes())
    del weights[hm.CARRIED]
    hm.replace_file(path, "weights.safetensors", safetensors.numpy.save(weights))


def weights_of_another_shape(path):
    weights = safetensors.numpy.load((path / "weights.safetensors").read_bytes())
    weights[hm.CARRIED] = np.ones((1, 7), np.float32)
    hm.replace_file(path, "weights.safetensors", safetensors.numpy.save(weights))


def graph_without_output(path):
    model = onnx.load_from_string((path / "adapt.onnx").read_bytes())
    model.graph.output.remove(next(o for o in model.graph.output if o.name == f"next.{hm.CARRIED}"))
    hm.replace_file(path, "adapt.onnx", model.SerializeToString())


@pytest.mark.parametrize(
    "change, message",
    [
        (manifest_without, "unknown input 'rule.rate'"),
        (manifest_with_another, "lacks 'next.backbone.conv.weight'"),
        (weights_without, "float32 values for rule.rate"),
        (weights_of_another_shape, "adapt.onnx cannot be run"),
        (graph_without_output, "lacks 'next.rule.rate'"),
    ],
)
def test_carried_tensors_that_do_not_fit(tmp_path, change, message):
    change(hm.write_bundle(tmp_path / "h.gems", decay=0.5))
    with pytest.raises(UserError, match=message) as caught:
        Learner.load(tmp_path / "h.gems").adapt(*hm.pictures(2, 2))
    assert "\n" not in str(caught.value)


def test_learns_what_it_is_shown(tmp_path):
    learner, adaptation, _, _ = hm.taught(tmp_path / "h.gems", 3, channels=3)
    queries, labels = hm.pictures(3, 10, channels=3, seed=1)
    assert [learner.classes[i] for i in learner.predict(queries).argmax(1)] == labels
    assert adaptation.losses[-1] < adaptation.losses[0]


def test_group_mode_has_no_statistics(tmp_path):
    learner, _, _, _ = hm.taught(tmp_path / "h.gems", 2, normalization="group")
    assert set(learner.taught.tensors) == {hm.CONV, *hm.HEAD}
    assert learner.predict(hm.pictures(2, 1)[0]).shape == (2, 2)


def test_answers_do_not_depend_on_the_batch(tmp_path, monkeypatch):
    learner, *_ = hm.taught(tmp_path / "h.gems", 3)
    images, _ = hm.pictures(3, 34, seed=2)
    together = learner.predict(images)
    assert together.dtype == np.float32 and together.shape == (102, 3)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([learner.predict(image[None]) for image in images]), together, atol=1e-6)
    monkeypatch.setattr(Learner, "batch_size", lambda self: 7)
    np.testing.assert_allclose(learner.predict(images), together, atol=1e-6)


def test_untaught_learner_answers_with_generic_names(tmp_path):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems", ways=3))
    assert learner.classes == ("class 1", "class 2", "class 3")
    np.testing.assert_allclose(learner.predict(hm.pictures(2, 1)[0]), 1 / 3, atol=1e-6)  # equal rows of a shared head


def test_second_teaching_starts_from_the_bundle(tmp_path):
    learner, first, images, labels = hm.taught(tmp_path / "h.gems", 2)
    learner.adapt(*hm.pictures(4, 1, seed=8))
    assert learner.adapt(images, labels).losses == first.losses


@pytest.mark.parametrize(
    "labels, message",
    [
        (["a", "a", "b"], "4 images came with 3 labels"),
        ("aabb", "not one text"),
        (["a"] * 4, "at least two classes"),
        ([["a"], ["a"], ["b"], ["b"]], "hashable"),
        (["a", "a", "", ""], "empty"),
        (["a", "a", None, None], "empty"),
        ([0.0, 0.0, float("nan"), float("nan")], "not a number"),
        (["a", "b", "c", "d"], "at most 3 classes"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems", head="per-class"))
    with pytest.raises(UserError, match=message):
        learner.adapt(hm.pictures(2, 2)[0], labels)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[:0], "no images"),
        (lambda x: x[0], r"shape \[16, 16, 1\]"),
        (lambda x: x[:, :12], "shape"),
        (lambda x: np.repeat(x, 3, axis=3), "shape"),
        (lambda x: x.astype(np.int64), "uint8"),
        (lambda x: x.astype(bool), "uint8"),
        (lambda x: x.astype(np.float32), "0…1"),
        (lambda x: x / np.nan, "0…1"),
        (lambda x: x / 255 - 0.1, "0…1"),
        (lambda x: "photo.jpg", "put it into a list"),
        (lambda x: [x[0], x[1][:5]], "differ in shape"),
    ],
)
def test_images_that_do_not_fit(tmp_path, change, message):
    learner, _, images, labels = hm.taught(tmp_path / "h.gems", 2)
    before = learner.predict(images)
    with np.errstate(all="ignore"):
        wrong = change(images)
    for call in (lambda: learner.predict(wrong), lambda: learner.adapt(wrong, labels)):
        with pytest.raises(UserError, match=message):
            call()
    np.testing.assert_array_equal(learner.predict(images), before)


def test_the_forms_of_images_are_one(tmp_path):
    learner, _, images, _ = hm.taught(tmp_path / "h.gems", 2)
    expected = learner.predict(images)
    for form in (
        images[..., 0],
        images / 255,
        (images / 255).astype(np.float32),
        list(images),
        np.asfortranarray(images),
    ):
        np.testing.assert_allclose(learner.predict(form), expected, atol=1e-6)


def test_divergence_is_told_and_the_earlier_teaching_kept(tmp_path):
    path = hm.write_bundle(tmp_path / "h.gems")
    weights = safetensors.numpy.load((path / "weights.safetensors").read_bytes())
    weights["head.weight"] += np.float32(3e38)
    hm.replace_file(path, "weights.safetensors", safetensors.numpy.save(weights))
    learner = Learner.load(path)
    with pytest.raises(UserError, match="diverged at step 1.*fewer steps"):
        learner.adapt(*hm.pictures(2, 2))
    assert learner.taught is None


@pytest.mark.parametrize("steps", [0, -1, 2.0, True])
def test_steps_must_count(tmp_path, steps):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems"))
    with pytest.raises(UserError, match="steps"):
        learner.adapt(*hm.pictures(2, 2), steps=steps)


def test_steps_are_reported_as_they_are_taken(tmp_path):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems", steps=5))
    seen = []
    adaptation = learner.adapt(*hm.pictures(2, 2), steps=3, on_step=lambda *step: seen.append(step))
    assert [step for step, _, _ in seen] == [1, 2, 3] and adaptation.steps == 3
    assert [loss for _, loss, _ in seen] == list(adaptation.losses)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_must_count(tmp_path, threads):
    with pytest.raises(UserError, match="threads"):
        Learner.load(hm.write_bundle(tmp_path / "h.gems"), threads=threads)


def with_output(path, name, change):
    """The bundle with `change(nodes, name of the result)` behind an output of its adapt.onnx."""
    model = onnx.load_from_string((path / "adapt.onnx").read_bytes())
    node = next(node for node in model.graph.node if name in node.output)
    node.output[0] = "before"
    model.graph.node.append(change("before", name))
    [output] = (output for output in model.graph.output if output.name == name)
    output.type.tensor_type.ClearField("shape")
    hm.replace_file(path, "adapt.onnx", model.SerializeToString())


@pytest.mark.parametrize("output, shape", [("head.bias", "[]"), ("head.weight", "[8]"), (hm.CONV, "[1, 4, 4]")])
def test_an_update_of_another_shape_is_not_spread_over_the_weight(tmp_path, output, shape):
    path = hm.write_bundle(tmp_path / "h.gems")
    with_output(
        path,
        f"updated.{output}",
        lambda before, after: onnx.helper.make_node("ReduceSum", [before, "axis0"], [after], keepdims=0),
    )
    with pytest.raises(UserError, match=r"adapt.onnx gives updated\.") as caught:
        Learner.load(path).adapt(*hm.pictures(3, 2))
    assert f"float32 {shape}, not float32 [" in str(caught.value) and "\n" not in str(caught.value)


def test_answers_of_another_shape_are_refused(tmp_path):
    path = hm.write_bundle(tmp_path / "h.gems")
    model = onnx.load_from_string((path / "predict.onnx").read_bytes())
    next(node for node in model.graph.node if "logits" in node.output).output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "line"], ["logits"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "line"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    hm.replace_file(path, "predict.onnx", model.SerializeToString())
    learner = Learner.load(path, threads=1)
    with pytest.raises(UserError, match=r"predict.onnx answers with float32 \[6\], not floats \[2, 3\]; export"):
        learner.predict(hm.pictures(2, 1)[0])


def test_statistics_that_are_not_finite_after_the_last_step_are_named_by_it(tmp_path):
    """The first run gives finite ones; the one after the last step, under weights that moved far, does not."""
    path = hm.write_bundle(tmp_path / "h.gems", steps=1, head="per-class")
    model = onnx.load_from_string((path / "adapt.onnx").read_bytes())
    [rate] = (tensor for tensor in model.graph.initializer if tensor.name == "rate")
    rate.CopyFrom(onnx.numpy_helper.from_array(np.array(1e25, np.float32), "rate"))
    hm.replace_file(path, "adapt.onnx", model.SerializeToString())
    with pytest.raises(UserError, match=r"diverged at step 1; use fewer steps"):
        Learner.load(path).adapt(*hm.pictures(3, 2))
