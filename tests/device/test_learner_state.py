"""What a learner was taught, saved and loaded again."""

from dataclasses import replace

import handmade as hm
import numpy as np
import onnx
import pytest
import safetensors.numpy

from gems_edge.device import Learner
from gems_edge.device.state import save_state
from gems_edge.errors import UserError


def test_state_round_trip(tmp_path):
    learner, _, images, _ = hm.taught(tmp_path / "h.gems", 3)
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
    learner, *_ = hm.taught(tmp_path / "h.gems", 2)
    tensors = dict(learner.taught.tensors)
    if change == "shape":
        tensors[hm.MEAN] = tensors[hm.MEAN][:-1]
    elif change == "missing":
        del tensors[hm.MEAN]
    else:
        tensors["more"] = tensors[hm.MEAN]
    save_state(tmp_path / "s.state", replace(learner.taught, tensors=tensors, versions=()))
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


def test_saving_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing was taught"):
        Learner.load(hm.write_bundle(tmp_path / "h.gems")).save(tmp_path / "s.state")


def test_state_of_another_bundle_is_refused(tmp_path):
    learner, *_ = hm.taught(tmp_path / "h.gems", 2)
    learner.save(tmp_path / "s.state")
    with pytest.raises(UserError, match="another bundle"):
        Learner.load(hm.write_bundle(tmp_path / "other.gems", seed=1)).load_state(tmp_path / "s.state")
