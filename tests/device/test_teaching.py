"""The life of a class on a learner: taught, corrected, renamed, forgotten, undone, and through a state."""

import warnings
from dataclasses import replace

import handmade as hm
import numpy as np
import pytest

from gems_edge.device import Learner, trunk
from gems_edge.device.history import STEPS_BACK
from gems_edge.device.state import Overtaken, load_state, save_state
from gems_edge.errors import UserError

WHOLE = {"channels": 3}
SPLIT = {"method": "anil", "normalization": "group", "split": True, "channels": 3}


@pytest.fixture(params=[WHOLE, SPLIT], ids=["whole", "split"])
def bundle(request, tmp_path):
    return hm.write_bundle(tmp_path / "h.gems", **request.param)


def classes(*numbers, shots=3, seed=0):
    """Pictures and labels of the kinds of these numbers, class by class."""
    images, labels = hm.pictures(8, shots, channels=3, seed=seed)
    rows = [row for number in numbers for row in range(number * shots, (number + 1) * shots)]
    return images[rows], [labels[row] for row in rows]


def taught(bundle, *numbers, **options):
    learner = Learner.load(bundle, threads=1)
    learner.adapt(*classes(*numbers, **options))
    return learner


def again(learner, path):
    """Another learner that loads what this one saves."""
    learner.save(path)
    other = Learner.load(learner.bundle.path, threads=1)
    other.load_state(path)
    return other


def bits(learner):
    state = learner.taught
    return state.classes, {name: value.tobytes() for name, value in state.tensors.items()}


def numbers(learner):
    return {name: [photo.number for photo in learner.taught.album.of(name)] for name in learner.classes}


@pytest.mark.parametrize("saved", [False, True])
def test_one_class_added_to_four_is_five_at_once(bundle, tmp_path, saved):
    learner = taught(bundle, 0, 1, 2, 3)
    if saved:
        learner = again(learner, tmp_path / "s.state")
    learner.teach(*classes(4))
    assert bits(learner) == bits(taught(bundle, 0, 1, 2, 3, 4))
    if saved:
        assert bits(again(learner, tmp_path / "s.state")) == bits(learner)


@pytest.mark.parametrize("saved", [False, True])
def test_a_forgotten_class_was_never_taught(bundle, tmp_path, saved):
    learner = taught(bundle, 0, 1, 2, 3)
    if saved:
        learner = again(learner, tmp_path / "s.state")
    adaptation = learner.forget("kind 2")
    assert adaptation.classes == learner.classes == ("kind 0", "kind 1", "kind 3") and adaptation.images == 9
    assert bits(learner) == bits(taught(bundle, 0, 1, 3))


def test_more_photos_of_a_known_class_are_as_if_they_came_at_once(bundle):
    images, labels = classes(0, 1)
    learner = Learner.load(bundle, threads=1)
    learner.adapt(images[[0, 1, 3, 4]], [labels[i] for i in (0, 1, 3, 4)])
    learner.teach(images[[2, 5]], [labels[2], labels[5]])
    assert bits(learner) == bits(taught(bundle, 0, 1))
    assert numbers(learner) == {"kind 0": [1, 2, 5], "kind 1": [3, 4, 6]}


def test_labels_in_any_order_teach_the_same(bundle):
    images, labels = classes(0, 1)
    order = [0, 3, 1, 4, 5, 2]
    learner = Learner.load(bundle, threads=1)
    learner.adapt(images[order], [labels[i] for i in order])
    other = taught(bundle, 0, 1)
    np.testing.assert_allclose(learner.predict(images), other.predict(images), atol=1e-6)
    assert learner.classes == other.classes


def test_a_correction_moves_a_photo(bundle):
    learner, (images, labels) = taught(bundle, 0, 1), classes(0, 1)
    wrong = Learner.load(bundle, threads=1)
    wrong.adapt(images, [*labels[:5], "kind 0"])
    wrong.teach(images[5:], ["kind 1"])
    assert bits(wrong) == bits(learner) and numbers(wrong) == {"kind 0": [1, 2, 3], "kind 1": [4, 5, 7]}
    wrong.move(7, "kind 0")
    assert numbers(wrong) == {"kind 0": [1, 2, 3, 7], "kind 1": [4, 5]}
    wrong.move(7, "a new one")
    assert numbers(wrong) == {"kind 0": [1, 2, 3], "kind 1": [4, 5], "a new one": [7]}
    wrong.drop(7)
    assert wrong.classes == ("kind 0", "kind 1")


def test_a_new_name_changes_no_answer(bundle):
    learner = taught(bundle, 0, 1, 2)
    queries, _ = classes(0, 1, 2, seed=5)
    before = learner.predict(queries)
    learner.rename("kind 1", "tea / <b>🍵</b>")
    assert learner.classes == ("kind 0", "tea / <b>🍵</b>", "kind 2") == learner.taught.album.classes
    np.testing.assert_array_equal(learner.predict(queries), before)
    learner.undo()
    assert learner.classes[1] == "kind 1"


@pytest.mark.parametrize("saved", [False, True])
def test_undo_goes_back_several_changes(bundle, tmp_path, saved):
    learner, seen = taught(bundle, 0, 1), []
    for change in (
        lambda: learner.teach(*classes(2)),
        lambda: learner.rename("kind 0", "zero"),
        lambda: learner.forget("kind 1"),
        lambda: learner.drop(8),
    ):
        seen.append((bits(learner), numbers(learner)))
        change()
    if saved:
        learner = again(learner, tmp_path / "s.state")
    for changes in (1, 2, 1):
        learner.undo(changes)
        del seen[len(seen) - changes + 1 :]
        assert (bits(learner), numbers(learner)) == seen.pop()
    with pytest.raises(UserError, match="no change to undo"):
        learner.undo()


def test_so_many_changes_can_be_undone(tmp_path):
    learner = taught(hm.write_bundle(tmp_path / "h.gems", **SPLIT), 0, 1)
    for number in range(STEPS_BACK + 3):
        learner.rename(learner.classes[0], f"name {number}")
    learner.undo(STEPS_BACK)
    assert learner.classes[0] == "name 2"
    with pytest.raises(UserError, match="no change"):
        learner.undo()


def test_the_trunk_runs_for_new_photos_alone(tmp_path, monkeypatch):
    learner = again(taught(hm.write_bundle(tmp_path / "h.gems", **SPLIT), 0, 1), tmp_path / "s.state")
    seen, load = [], trunk.trunk_session

    def watched(*arguments):
        session = load(*arguments)
        run = session.run
        session.run = lambda outputs, feeds, **how: seen.append(len(feeds["images"])) or run(outputs, feeds, **how)
        return session

    monkeypatch.setattr(trunk, "trunk_session", watched)
    images, labels = classes(0, 2)
    assert learner.teach(images, labels).trunk_seconds > 0
    assert seen == [3]  # of class 2: those of class 0 are there
    for change in (lambda: learner.forget("kind 1"), lambda: learner.move(1, "kind 2"), learner.undo):
        assert change().trunk_seconds is None
    assert seen == [3]


def test_at_most_so_many_photos_of_a_class_stay(bundle, tmp_path):
    learner = taught(bundle, 0, 1, shots=6)
    learner.teach(*classes(0, shots=3, seed=1), keep=5)
    kept = numbers(learner)
    assert len(kept["kind 0"]) == 5 and kept["kind 0"][-3:] == [13, 14, 15] and len(kept["kind 1"]) == 6
    again(learner, tmp_path / "s.state").undo()  # those that were left out are there to be gone back to
    one = Learner.load(bundle, threads=1)
    one.adapt(*classes(0, 1, shots=6), keep=2)
    assert [len(each) for each in numbers(one).values()] == [2, 2]


def test_files_of_photos_come_and_go(bundle, tmp_path):
    path = tmp_path / "s.state"
    learner = taught(bundle, 0, 1)
    learner.save(path)
    files = {entry.name for entry in (path / "photos").iterdir()}
    assert len(files) == 6
    learner.teach(*classes(2))
    learner.save(path)
    assert {entry.name for entry in (path / "photos").iterdir()} > files
    learner.adapt(*classes(3, 4))  # from nothing: what was before cannot be undone, but the other slot has it still
    learner.save(path)
    assert len(list((path / "photos").iterdir())) == 15
    learner.save(path)
    assert len(list((path / "photos").iterdir())) == 6


def test_a_state_goes_on_at_another_place(bundle, tmp_path):
    learner = again(taught(bundle, 0, 1), tmp_path / "s.state")
    other = again(learner, tmp_path / "t.state")
    other.teach(*classes(2))
    assert bits(other) == bits(taught(bundle, 0, 1, 2))
    assert len(list((tmp_path / "t.state/photos").iterdir())) == 6


def test_what_cannot_be_changed_is_said_and_nothing_is_lost(bundle, tmp_path):
    learner = again(taught(bundle, 0, 1), tmp_path / "s.state")
    before = bits(learner), numbers(learner)
    images, labels = classes(0, 1)
    for message, call in [
        ("no class kind 9; there are kind 0, kind 1", lambda: learner.forget("kind 9")),
        ("would leave one class \\(kind 1\\)", lambda: learner.forget("kind 0")),
        ("no photo 99; gems-edge teach --list", lambda: learner.move(99, "kind 1")),
        ("no photo 0", lambda: learner.drop(0)),
        ("photo 1 is of the class kind 0 already", lambda: learner.move(1, "kind 0")),
        ("a class kind 1 already", lambda: learner.rename("kind 0", "kind 1")),
        ("no class x", lambda: learner.rename("x", "y")),
        ("has 300 letters", lambda: learner.rename("kind 0", "x" * 300)),
        ("class name is empty", lambda: learner.teach(images[:1], [""])),
        ("6 images came with 5 labels", lambda: learner.teach(images, labels[1:])),
        ("no images", lambda: learner.teach(images[:0], [])),
        ("taught already", lambda: learner.teach(images, labels)),
        ("no change to undo", learner.undo),
        ("a whole number from 1 on", lambda: learner.undo(0)),
        ("steps must be", lambda: learner.teach(*classes(2), steps=-1)),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value) and (bits(learner), numbers(learner)) == before, message
    fresh = Learner.load(bundle)
    for call in (lambda: fresh.forget("a"), lambda: fresh.rename("a", "b"), fresh.undo):
        with pytest.raises(UserError, match="nothing was taught yet"):
            call()
    assert bits(again(learner, tmp_path / "s.state")) == before[0]


def test_teaching_from_nothing_is_adapt(bundle):
    learner = Learner.load(bundle, threads=1)
    learner.teach(*classes(0, 1))
    assert bits(learner) == bits(taught(bundle, 0, 1))


def test_floating_point_images_are_kept_too(tmp_path):
    path = hm.write_bundle(tmp_path / "h.gems", **WHOLE)
    images, labels = classes(0, 1, 2)
    images = (images / 255) ** 1.1
    learner = Learner.load(path, threads=1)
    learner.adapt(images[:6], labels[:6])
    learner = again(learner, tmp_path / "s.state")
    learner.teach(images[6:], labels[6:])
    once = Learner.load(path, threads=1)
    once.adapt(images, labels)
    assert bits(learner) == bits(once)


@pytest.mark.parametrize("kind", [0, 1])
def test_photos_of_one_album_may_be_uint8_and_floating_point(tmp_path, kind):
    path = hm.write_bundle(tmp_path / "h.gems", **(WHOLE, SPLIT)[kind])
    images, labels = classes(0, 1, 2)
    learner, once = (Learner.load(path, threads=1) for _ in range(2))
    learner.adapt(images[:6], labels[:6])
    learner = again(learner, tmp_path / "s.state")
    learner.teach(images[6:].astype(np.float32) / 255, labels[6:])
    once.adapt(images, labels)
    np.testing.assert_allclose(learner.predict(images), once.predict(images), atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1])
def test_thumbnails(tmp_path, kind):
    path = hm.write_bundle(tmp_path / "h.gems", **(WHOLE, SPLIT)[kind])
    hm.edit_manifest(path, lambda manifest: manifest["image"].update(inverted=True))
    learner = taught(path, 0, 1)
    for each in (learner, again(learner, tmp_path / "s.state")):
        seen = learner.read_images([each.thumbnail(2)])
        assert np.corrcoef(seen[0].ravel(), classes(0)[0][1].ravel())[0, 1] > 0.5
        with pytest.raises(UserError, match="no photo 99"):
            each.thumbnail(99)


def test_a_state_without_photos_answers_and_says_what_to_do(tmp_path, bundle):
    learner = taught(bundle, 0, 1)
    save_state(tmp_path / "old.state", replace(learner.taught, versions=()))
    old = Learner.load(bundle, threads=1)
    old.load_state(tmp_path / "old.state")
    queries, _ = classes(0, 1, seed=5)
    np.testing.assert_array_equal(old.predict(queries), learner.predict(queries))
    for call in (lambda: old.teach(*classes(2)), lambda: old.forget("kind 0"), old.undo, lambda: old.rename("a", "b")):
        with pytest.raises(UserError, match="keeps no photos.*gems-edge adapt"):
            call()
    old.save(tmp_path / "old.state")  # as it is


@pytest.mark.parametrize("damage", ["missing", "altered", "a link"])
def test_a_damaged_photo_is_left_out(tmp_path, bundle, damage):
    learner = again(taught(bundle, 0, 1), tmp_path / "s.state")
    file = tmp_path / "s.state/photos" / learner.taught.album.photos[0].file
    content = file.read_bytes()
    file.unlink()
    if damage == "altered":
        file.write_bytes(content[:-1] + b"x")
    elif damage == "a link":
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"photo 1 \(kind 0\) is damaged or missing and is left out"):
        learner.teach(*classes(2))
    assert numbers(learner) == {"kind 0": [2, 3], "kind 1": [4, 5, 6], "kind 2": [7, 8, 9]}
    with pytest.warns(UserWarning, match="left out"):  # of the version before
        learner.save(tmp_path / "s.state")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.undo()
        learner.save(tmp_path / "s.state")
    assert numbers(learner) == {"kind 0": [2, 3], "kind 1": [4, 5, 6]}


def test_photos_of_another_bundle_are_damage(tmp_path):
    """A state may name this bundle and hold what it cannot use."""
    learner = again(taught(hm.write_bundle(tmp_path / "h.gems", **SPLIT), 0, 1), tmp_path / "s.state")
    other = taught(hm.write_bundle(tmp_path / "o.gems", **WHOLE), 0, 1)
    other._now.state = replace(other.taught, bundle=learner.bundle.hash)
    other.save(tmp_path / "o.state")
    learner._now.state = replace(
        learner.taught, versions=load_state(tmp_path / "o.state", learner.bundle.hash).versions
    )
    learner._now.home = replace(learner._now.home, path=tmp_path / "o.state")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(UserError):
        learner.drop(1)


def test_two_learners_lose_nothing_of_each_other(tmp_path, bundle):
    path = tmp_path / "s.state"
    first = again(taught(bundle, 0, 1), path)
    second = Learner.load(bundle, threads=1)
    second.load_state(path)
    first.teach(*classes(2))
    first.save(path)
    second.teach(*classes(3))
    with pytest.raises(Overtaken, match="taught by another process meanwhile; nothing was saved"):
        second.save(path)
    second.load_state(path)
    second.teach(*classes(3))
    second.save(path)
    assert second.classes == ("kind 0", "kind 1", "kind 2", "kind 3")


def test_photos_that_another_process_removed_are_not_damage(tmp_path, bundle):
    path = tmp_path / "s.state"
    learner = again(taught(bundle, 0, 1), path)
    other = taught(bundle, 2, 3)
    other.save(path)
    other.save(path)
    with pytest.raises(Overtaken, match="load it again"):
        learner.teach(*classes(4))


def test_teaching_on_is_in_the_precision_that_was_taught_in(tmp_path):
    learner = again(taught(hm.write_bundle(tmp_path / "h.gems", **SPLIT), 0, 1), tmp_path / "s.state")
    learner._now.state = replace(learner.taught, precision="int8")
    with pytest.raises(UserError, match="was taught in precision int8.*--precision"):
        learner.teach(*classes(2))
