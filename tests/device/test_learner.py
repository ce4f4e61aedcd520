"""Adaptation and prediction on onnxruntime against the float64 numpy reference of handmade.py."""

import copy
import pickle
import sys
import threading
import time
import weakref
from concurrent import futures
from dataclasses import replace

import handmade as hm
import numpy as np
import onnx
import pytest
import safetensors.numpy

from gems_edge.device import Learner
from gems_edge.device import learner as module
from gems_edge.device.state import save_state
from gems_edge.errors import UserError


def taught(path, classes, shots=2, **options):
    learner = Learner.load(hm.write_bundle(path, **options), threads=1)
    images, labels = hm.pictures(classes, shots, channels=options.get("channels", 1))
    return learner, learner.adapt(images, labels), images, labels


@pytest.mark.parametrize(
    "head, method", [(h, m) for h in ("shared", "per-class") for m in hm.PARTS if (h, m) != ("shared", "boil")]
)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_adaptation_and_probabilities_equal_the_reference(tmp_path, head, method, classes):
    ways = 7 if head == "per-class" else 3  # of a per-class head the first rows are taken
    learner, adaptation, images, _ = taught(tmp_path / "h.gems", classes, head=head, method=method, ways=ways)
    start = learner.bundle.all_tensors() | learner.bundle.start_weights(classes)
    expected, losses = hm.reference(start, images, np.repeat(np.arange(classes), 2), 5, learner.bundle.adapted)
    np.testing.assert_allclose(adaptation.losses, losses, atol=1e-5)
    for name, value in learner.taught.tensors.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4)
    queries, _ = hm.pictures(classes, 5, seed=3)
    np.testing.assert_allclose(learner.predict(queries), hm.reference_probabilities(expected, queries), atol=1e-5)


@pytest.mark.parametrize("method", hm.PARTS)
def test_a_carried_tensor_goes_from_step_to_step(tmp_path, method):
    learner, first, images, labels = taught(tmp_path / "h.gems", 3, head="per-class", method=method, decay=0.25)
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
    learner, adaptation, _, _ = taught(tmp_path / "h.gems", 3, channels=3)
    queries, labels = hm.pictures(3, 10, channels=3, seed=1)
    assert [learner.classes[i] for i in learner.predict(queries).argmax(1)] == labels
    assert adaptation.losses[-1] < adaptation.losses[0]


def test_group_mode_has_no_statistics(tmp_path):
    learner, _, _, _ = taught(tmp_path / "h.gems", 2, normalization="group")
    assert set(learner.taught.tensors) == {hm.CONV, *hm.HEAD}
    assert learner.predict(hm.pictures(2, 1)[0]).shape == (2, 2)


def test_answers_do_not_depend_on_the_batch(tmp_path, monkeypatch):
    learner, *_ = taught(tmp_path / "h.gems", 3)
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
    learner, first, images, labels = taught(tmp_path / "h.gems", 2)
    learner.adapt(*hm.pictures(4, 1, seed=8))
    assert learner.adapt(images, labels).losses == first.losses


def test_state_round_trip(tmp_path):
    learner, _, images, _ = taught(tmp_path / "h.gems", 3)
    learner.save(tmp_path / "s.state")
    other = Learner.load(tmp_path / "h.gems")
    other.load_state(tmp_path / "s.state")
    assert other.classes == learner.classes
    np.testing.assert_array_equal(other.predict(images), learner.predict(images))


def mask_updates(path, kept):
    """Let the step move the convolution only where `kept` is 1, as a subnetwork or a ticket does."""
    model = onnx.load_from_string((path / "adapt.onnx").read_bytes())
    gradient = next(node for node in model.graph.node if node.output[0] == f"d.{hm.CONV}")
    gradient.output[0] = "dense"
    model.graph.initializer.append(onnx.numpy_helper.from_array(kept, "kept"))
    place = list(model.graph.node).index(gradient) + 1
    model.graph.node.insert(place, onnx.helper.make_node("Mul", ["dense", "kept"], [f"d.{hm.CONV}"]))
    hm.replace_file(path, "adapt.onnx", model.SerializeToString())


@pytest.mark.parametrize("classes", [2, 3])
def test_a_state_holds_only_what_moved(tmp_path, classes):
    path = hm.write_bundle(tmp_path / "h.gems", channels=3)
    kept = np.zeros((hm.FEATURES, 3, hm.PATCH, hm.PATCH), np.float32)
    kept[:, 1, 2] = 1
    mask_updates(path, kept)
    learner = Learner.load(path)
    learner.adapt(*hm.pictures(classes, 2, channels=3))
    learner.save(tmp_path / "s.state")
    stored = safetensors.numpy.load((tmp_path / "s.state" / "a.safetensors").read_bytes())
    assert stored.keys() == {f"{hm.CONV}.changed", f"{hm.CONV}.values", *hm.HEAD, hm.MEAN, hm.VAR}
    assert stored[f"{hm.CONV}.changed"].size == kept.size / 8
    assert 0 < stored[f"{hm.CONV}.values"].size <= kept.sum()
    other = Learner.load(path)
    other.load_state(tmp_path / "s.state")
    assert {n: v.tobytes() for n, v in other.taught.tensors.items()} == {
        n: v.tobytes() for n, v in learner.taught.tensors.items()
    }
    queries, _ = hm.pictures(classes, 3, channels=3, seed=4)
    np.testing.assert_array_equal(other.predict(queries), learner.predict(queries))
    other.save(tmp_path / "again.state")  # what was loaded is saved as it was
    assert (tmp_path / "again.state/a.safetensors").stat().st_size == (
        tmp_path / "s.state/a.safetensors"
    ).stat().st_size


@pytest.mark.parametrize("change", ["shape", "missing", "more"])
def test_a_state_with_other_tensors_is_refused(tmp_path, change):
    learner, *_ = taught(tmp_path / "h.gems", 2)
    tensors = dict(learner.taught.tensors)
    if change == "shape":
        tensors[hm.MEAN] = tensors[hm.MEAN][:-1]
    elif change == "missing":
        del tensors[hm.MEAN]
    else:
        tensors["more"] = tensors[hm.MEAN]
    save_state(tmp_path / "s.state", replace(learner.taught, tensors=tensors))
    with pytest.raises(UserError, match="does not hold the tensors of .*h.gems; run gems-edge adapt again"):
        learner.load_state(tmp_path / "s.state")


@pytest.mark.parametrize(
    "labels", [[7, 7, 3, 3], np.array([7, 7, 3, 3]), np.array(["a", "a", "ö/b", "ö/b"]), [1.5, 1.5, "x", "x"]]
)
def test_class_names_keep_their_kind_through_a_state(tmp_path, labels):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems"))
    learner.adapt(hm.pictures(2, 2)[0], labels)
    learner.save(tmp_path / "s.state")
    learner.load_state(tmp_path / "s.state")
    assert list(learner.classes) == list(dict.fromkeys(labels.tolist() if isinstance(labels, np.ndarray) else labels))


def test_names_that_no_file_can_hold_are_refused_on_saving(tmp_path):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems"))
    assert learner.adapt(hm.pictures(2, 1)[0], [("a", 1), ("a", 2)]).classes == (("a", 1), ("a", 2))
    with pytest.raises(UserError, match="text or numbers"):
        learner.save(tmp_path / "s.state")
    assert not (tmp_path / "s.state").exists()


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
        (lambda x: "photo.jpg", "shape"),
        (lambda x: [x[0], x[1][:5]], "differ in shape"),
    ],
)
def test_images_that_do_not_fit(tmp_path, change, message):
    learner, _, images, labels = taught(tmp_path / "h.gems", 2)
    before = learner.predict(images)
    with np.errstate(all="ignore"):
        wrong = change(images)
    for call in (lambda: learner.predict(wrong), lambda: learner.adapt(wrong, labels)):
        with pytest.raises(UserError, match=message):
            call()
    np.testing.assert_array_equal(learner.predict(images), before)


def test_the_forms_of_images_are_one(tmp_path):
    learner, _, images, _ = taught(tmp_path / "h.gems", 2)
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


def test_saving_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing was taught"):
        Learner.load(hm.write_bundle(tmp_path / "h.gems")).save(tmp_path / "s.state")


def test_state_of_another_bundle_is_refused(tmp_path):
    learner, *_ = taught(tmp_path / "h.gems", 2)
    learner.save(tmp_path / "s.state")
    with pytest.raises(UserError, match="another bundle"):
        Learner.load(hm.write_bundle(tmp_path / "other.gems", seed=1)).load_state(tmp_path / "s.state")


# Threads


class Rivals:
    """A learner, two lessons, and what it answers after each. It was taught the older and has loaded no graph since."""

    def __init__(self, path):
        self.learner = Learner.load(hm.write_bundle(path), threads=1)
        self.queries, _ = hm.pictures(4, 2, seed=3)
        images, _ = hm.pictures(4, 2)
        names = {"older": list("ab"), "newer": list("cdef")}
        self.lessons = {name: (images[: 2 * len(classes)], np.repeat(classes, 2)) for name, classes in names.items()}
        self.answers = {}
        for name in self.lessons:
            self.teach(name)
            self.answers[name] = self.learner.predict(self.queries)
        self.teach("older")

    def teach(self, name, **options):
        self.learner.adapt(*self.lessons[name], **options)

    def named(self, answer) -> str:
        alike = (
            name
            for name, right in self.answers.items()
            if answer.shape == right.shape and np.allclose(answer, right, atol=1e-6)
        )
        return next(alike, "neither")


@pytest.fixture
def rivals(tmp_path):
    return Rivals(tmp_path / "h.gems")


def in_thread(work):
    """`work` begun in a thread; a call that waits for its end and gives its result or raises its error."""
    pool = futures.ThreadPoolExecutor(1)
    waiting = pool.submit(work)
    pool.shutdown(wait=False)
    return lambda: waiting.result(timeout=20)


def test_a_graph_loaded_while_teaching_ends_is_not_kept(rivals, monkeypatch):
    loading, taught, load = threading.Event(), threading.Event(), module.predict_session

    def slow(*arguments):
        session = load(*arguments)
        loading.set()
        assert taught.wait(20)
        return session

    def ask_at_the_last_step(step, loss, seconds):
        if step == rivals.learner.bundle.steps:
            asked.append(in_thread(lambda: rivals.learner.predict(rivals.queries)))
            assert loading.wait(20)

    asked = []
    monkeypatch.setattr(module, "predict_session", slow)
    rivals.teach("newer", on_step=ask_at_the_last_step)
    taught.set()
    assert rivals.named(asked[0]()) == "older"
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


@pytest.mark.parametrize("moment", ["loading", "between batches"])
@pytest.mark.parametrize("way", ["adapt", "load_state"])
def test_an_answer_is_of_one_teaching(rivals, monkeypatch, tmp_path, moment, way):
    rivals.teach("newer")
    rivals.learner.save(tmp_path / "newer.state")
    rivals.teach("older")
    ways = {
        "adapt": lambda: rivals.teach("newer"),
        "load_state": lambda: rivals.learner.load_state(tmp_path / "newer.state"),
    }
    load, begun = module.predict_session, []

    def teach_once():
        if not begun:
            begun.append(True)
            in_thread(ways[way])()

    def loaded(*arguments):
        session = load(*arguments)
        run = session.run
        session.run = lambda *feeds: (run(*feeds), teach_once())[0]
        if moment == "loading":
            teach_once()
        return session

    monkeypatch.setattr(module, "predict_session", loaded)
    monkeypatch.setattr(Learner, "batch_size", lambda self: 3)
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "older" and begun
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


def test_threads_that_ask_first_load_one_graph(rivals, monkeypatch):
    load, loads = module.predict_session, []

    def slow(*arguments):
        loads.append(arguments)
        time.sleep(0.2)
        return load(*arguments)

    monkeypatch.setattr(module, "predict_session", slow)
    asked = [in_thread(lambda: rivals.learner.predict(rivals.queries)) for _ in range(4)]
    assert {rivals.named(answer()) for answer in asked} == {"older"} and len(loads) == 1


def test_teachings_wait_for_each_other(rivals):
    order, other = [], []

    def first(step, loss, seconds):
        if step == 1:
            other.append(in_thread(lambda: rivals.teach("newer", on_step=lambda *_: order.append("newer"))))
            time.sleep(0.2)
        order.append("older")

    rivals.teach("older", on_step=first)
    other[0]()
    steps = rivals.learner.bundle.steps
    assert order == ["older"] * steps + ["newer"] * steps
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


def test_a_step_may_ask_and_teach(rivals):
    def step(number, loss, seconds):
        assert rivals.named(rivals.learner.predict(rivals.queries)) == "older"
        rivals.teach("older")

    rivals.teach("newer", on_step=step)
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


def test_the_predict_graph_leaves_room_for_teaching(rivals, monkeypatch):
    load, seen = module.predict_session, []

    def watched(*arguments):
        session = load(*arguments)
        seen.append(weakref.ref(session))
        return session

    monkeypatch.setattr(module, "predict_session", watched)
    rivals.learner.predict(rivals.queries)
    rivals.teach("newer", on_step=lambda *_: seen.append(seen[0]()))
    assert seen[1:] == [None] * rivals.learner.bundle.steps


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda learner: pickle.loads(pickle.dumps(learner))])
def test_a_copy_keeps_what_was_taught(rivals, again):
    rivals.learner.predict(rivals.queries)
    kept = again(rivals.learner)
    rivals.teach("newer")
    assert kept.classes == ("a", "b") and rivals.named(kept.predict(rivals.queries)) == "older"
    kept.adapt(*rivals.lessons["newer"])
    assert rivals.named(kept.predict(rivals.queries)) == "newer"


def test_many_threads_ask_while_one_teaches(rivals):
    """With Python passing from thread to thread as often as it can."""
    end, found = time.monotonic() + 2, set()

    def ask():
        while time.monotonic() < end:
            still = copy.copy(rivals.learner)
            name = rivals.named(still.predict(rivals.queries))
            found.add((name, len(still.classes)))
            found.add((rivals.named(rivals.learner.predict(rivals.queries)), None))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asked = [in_thread(ask) for _ in range(3)]
        while time.monotonic() < end:
            for name in ("newer", "older"):
                rivals.teach(name)
                assert rivals.named(rivals.learner.predict(rivals.queries)) == name
        for answer in asked:
            answer()
    finally:
        sys.setswitchinterval(interval)
    assert found and found <= {("older", 2), ("newer", 4), ("older", None), ("newer", None)}


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


def test_statistics_that_are_not_finite_after_the_last_step_are_named_by_it(tmp_path):
    """The first run gives finite ones; the one after the last step, under weights that moved far, does not."""
    path = hm.write_bundle(tmp_path / "h.gems", steps=1, head="per-class")
    model = onnx.load_from_string((path / "adapt.onnx").read_bytes())
    [rate] = (tensor for tensor in model.graph.initializer if tensor.name == "rate")
    rate.CopyFrom(onnx.numpy_helper.from_array(np.array(1e25, np.float32), "rate"))
    hm.replace_file(path, "adapt.onnx", model.SerializeToString())
    with pytest.raises(UserError, match=r"diverged at step 1; use fewer steps"):
        Learner.load(path).adapt(*hm.pictures(3, 2))
