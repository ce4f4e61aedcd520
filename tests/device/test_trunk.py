"""A split bundle: the trunk runs once for each photo, steps run on its features, answers are the whole network's."""

import weakref

import handmade as hm
import numpy as np
import onnx
import pytest

from gems_edge.device import Learner, steps, taught, trunk
from gems_edge.device.bundle import read_bundle
from gems_edge.device.measure import adapt_call, fresh_memory, trunk_call
from gems_edge.errors import UserError

ANIL = {"method": "anil", "normalization": "group"}


@pytest.mark.parametrize("channels, classes", [(1, 3), (3, 7)])
def test_steps_on_features_are_steps_through_the_whole_network(tmp_path, channels, classes):
    whole, split = (
        Learner.load(hm.write_bundle(tmp_path / f"{cut}.gems", **ANIL, channels=channels, split=cut), threads=1)
        for cut in (False, True)
    )
    images, labels = hm.pictures(classes, 4, channels=channels)
    losses = [learner.adapt(images, labels).losses for learner in (whole, split)]
    np.testing.assert_allclose(*losses, rtol=1e-4)  # features are taught with as they are kept, in float16
    np.testing.assert_allclose(split.predict(images), whole.predict(images), atol=1e-4)
    assert split.adapt(images / np.float32(255), labels).losses == pytest.approx(losses[0], rel=1e-4)


def test_what_the_trunk_took_is_told(tmp_path):
    images, labels = hm.pictures(3, 1)
    split = Learner.load(hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)).adapt(images, labels)
    assert 0 < split.trunk_seconds < split.total_seconds - sum(split.seconds)
    assert Learner.load(hm.write_bundle(tmp_path / "w.gems", **ANIL)).adapt(images, labels).trunk_seconds is None


def test_no_two_graphs_are_in_memory_at_once(tmp_path, monkeypatch):
    learner = Learner.load(hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True))
    loaded: list[weakref.ref] = []

    def watched(load):
        def loading(*arguments):
            assert not any(one() for one in loaded)
            session = load(*arguments)
            loaded.append(weakref.ref(session))
            return session

        return loading

    for module, name in ((trunk, "trunk_session"), (steps, "adapt_session"), (taught, "predict_session")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    images, labels = hm.pictures(3, 1)
    learner.predict(images)
    learner.adapt(images, labels)
    learner.predict(images)
    assert len(loaded) == 4


def test_the_trunk_sees_as_many_images_at_a_time_as_predict(tmp_path, monkeypatch):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    hm.edit_manifest(path, lambda m: m["cost"]["trunk"].update(peak_bytes=1 << 18))
    seen, run = [], trunk.trunk_session

    def watched(*arguments):
        session = run(*arguments)
        own = session.run
        session.run = lambda outputs, feeds, **how: seen.append(len(feeds["images"])) or own(outputs, feeds, **how)
        return session

    monkeypatch.setattr(trunk, "trunk_session", watched)
    Learner.load(path).adapt(*hm.pictures(3, 3))
    assert seen == [4, 4, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m["trunk"].update(features=[8, 4]), "trunk.features"),
        (lambda m: m["trunk"].update(features="8"), "trunk.features"),
        (lambda m: m["trunk"].update(cut=3), "trunk.cut"),
        (lambda m: m.update(trunk=[]), "trunk.features"),
        (lambda m: m["cost"].pop("trunk"), "cost.trunk"),
        (lambda m: m["cost"]["trunk"].update(work={"conv": -1}), "cost.trunk.work"),
        (lambda m: m["cost"]["memory"].pop("feature_bytes"), "cost.memory.feature_bytes"),
        (
            lambda m: m["cost"]["memory"].update(trunk={"nodes": 3, "images": [2, 1], "arena_bytes": [1, 2]}),
            "ascending",
        ),
        (lambda m: m["files"].pop("trunk.onnx"), "does not list trunk.onnx"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path, change, message):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    hm.edit_manifest(path, change)
    with pytest.raises(UserError, match=message):
        read_bundle(path)


def test_a_missing_or_altered_trunk_is_refused(tmp_path):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    learner = Learner.load(path)
    content = (path / "trunk.onnx").read_bytes()
    (path / "trunk.onnx").write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="trunk.onnx was altered"):
        Learner.load(path)
    with pytest.raises(UserError, match="trunk.onnx was altered"):  # after it was read, too
        learner.adapt(*hm.pictures(3, 1))
    (path / "trunk.onnx").unlink()
    with pytest.raises(UserError, match="trunk.onnx is missing"):
        Learner.load(path)


def test_graphs_that_do_not_fit_the_manifest_are_refused(tmp_path):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    hm.edit_manifest(path, lambda m: m["trunk"].update(features=[8, 4, 5]))
    with pytest.raises(UserError, match=r"trunk.onnx gives features of shape \[8, 4, 4\], not \[8, 4, 5\]"):
        Learner.load(path).adapt(*hm.pictures(3, 1))
    hm.edit_manifest(path, lambda m: m.pop("trunk"))
    with pytest.raises(UserError, match="adapt.onnx is not the graph .* lacks 'images'"):
        Learner.load(path).adapt(*hm.pictures(3, 1))
    path = hm.write_bundle(tmp_path / "t.gems", **ANIL, split=True)
    model = onnx.load_from_string((path / "trunk.onnx").read_bytes())
    model.graph.output[0].name = model.graph.node[-1].output[0] = "maps"
    hm.replace_file(path, "trunk.onnx", model.SerializeToString())
    with pytest.raises(UserError, match="trunk.onnx is not the graph .* lacks 'features'"):
        Learner.load(path).adapt(*hm.pictures(3, 1))


def test_calls_to_measure(tmp_path):
    bundle = read_bundle(hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True))
    [features] = trunk_call(bundle, 1)()
    assert features.shape == (1, hm.FEATURES, 4, 4)
    assert len(adapt_call(bundle, 1)()) == len(bundle.step_outputs)
    [memory] = fresh_memory(bundle.path, "adapt", 3, 1, repeats=1)
    assert memory["peak_mb"] > memory["baseline_mb"]


def test_features_that_are_not_finite_are_the_trunks(tmp_path):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    model = onnx.load_from_string((path / "trunk.onnx").read_bytes())
    [weight] = model.graph.initializer
    weight.raw_data = np.full(hm.FEATURES * hm.PATCH**2, np.inf, np.float32).tobytes()
    hm.replace_file(path, "trunk.onnx", model.SerializeToString())
    with pytest.raises(UserError, match="trunk.onnx gives features that are not finite; give other images"):
        Learner.load(path).adapt(*hm.pictures(3, 1))


def test_claimed_features_take_no_memory(tmp_path):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    hm.edit_manifest(path, lambda m: m["trunk"].update(features=[100_000, 100_000, 100_000]))
    with pytest.raises(UserError, match="trunk.onnx gives features of shape"):
        Learner.load(path).adapt(*hm.pictures(3, 1))


def test_a_quantised_bundle_needs_its_quantised_trunk(tmp_path):
    path = hm.write_bundle(tmp_path / "s.gems", **ANIL, split=True)
    hm.replace_file(path, "predict.int8.onnx", (path / "predict.onnx").read_bytes())
    with pytest.raises(UserError, match="does not list trunk.int8.onnx; export it again"):
        read_bundle(path)
