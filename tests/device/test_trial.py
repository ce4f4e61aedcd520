"""When a new bundle is worse than the one in use, and how photos are left out to find that."""

from dataclasses import replace

import handmade as hm
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.device.album import Album, Photo, in_order, without
from gems_edge.device.carry import AS_KEPT, PICTURES, THUMBNAILS, carry, read_lesson
from gems_edge.device.exam import folds
from gems_edge.device.trial import Limits, Marks, Trial, worse

GOOD = Marks(18, 20, 40.0, 900.0, 80.0)
CASES = {
    "the same": ({}, ""),
    "better": ({"right": 20}, ""),
    "one photo less": ({"right": 17}, "of 20 photos that the owner taught it answers 17 right"),
    "a little slower": ({"predict_ms": 59.0, "adapt_ms": 1300.0}, ""),
    "slower answers": ({"predict_ms": 61.0}, "an answer takes 61 ms, and with the bundle in use 40"),
    "slower teaching": ({"adapt_ms": 1400.0}, "teaching takes 1400 ms"),
    "more memory": ({"peak_mb": 101.0}, "it takes 101 MB of memory"),
    "memory unknown": ({"peak_mb": None}, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_worse(case):
    change, reason = CASES[case]
    found = worse(Trial(replace(GOOD, **change), GOOD), Limits())
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_limits_of_their_own():
    trial = Trial(replace(GOOD, right=16, predict_ms=80.0, adapt_ms=1800.0, peak_mb=160.0), GOOD)
    assert worse(trial, Limits(2.0, 2.0, 0.1)) == "" != worse(trial, Limits(2.0, 2.0, 0.05))
    assert worse(replace(trial, before=None), Limits()) == ""


def test_what_no_clock_can_tell():
    assert worse(Trial(replace(GOOD, predict_ms=1.9), replace(GOOD, predict_ms=0.1)), Limits()) == ""


@given(st.lists(st.integers(1, 12), min_size=2, max_size=6))
def test_every_photo_that_has_others_is_left_out_once(counts):
    labels = [place for place, count in enumerate(counts) for _ in range(count)]
    album = in_order(range(len(counts)), [Photo(number, label, str(number)) for number, label in enumerate(labels)])
    parts = folds(album)
    assert len(parts) <= 5
    left = [photo.number for part in parts for photo in part]
    assert sorted(left) == [number for number, label in enumerate(labels) if counts[label] > 1]
    for part in parts:
        assert without(album, {photo.number for photo in part}).classes == album.classes


TRUNK = {"method": "anil", "normalization": "group", "split": True}
PAIRS = {
    "the same trunk": (TRUNK, {**TRUNK, "steps": 3}, AS_KEPT),
    "another trunk": (TRUNK, {**TRUNK, "seed": 3}, THUMBNAILS),
    "a trunk that goes": (TRUNK, {}, THUMBNAILS),
    "a trunk that comes": ({}, TRUNK, PICTURES),
    "none": ({}, {"seed": 3}, AS_KEPT),
    "colour": ({}, {"channels": 3}, PICTURES),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_carried_over(tmp_path, pair):
    old, new, expected = PAIRS[pair]
    learner, _, images, labels = hm.taught(tmp_path / "old.gems", 3, **old)
    learner.rename("kind 0", "x")
    learner.save(tmp_path / "s.state")
    lesson = read_lesson(learner.bundle, tmp_path / "s.state")
    other = hm.Learner.load(hm.write_bundle(tmp_path / "new.gems", **new), threads=1)
    taught, by = carry(lesson, other.bundle, 1)
    assert by == expected and taught.taught.album.photos == tuple(
        replace(photo, file="") for photo in lesson.album.photos
    )
    taught.save(tmp_path / "n.state")
    again = read_lesson(other.bundle, tmp_path / "n.state")
    assert [photo.picture for photo in again.album.photos] == [photo.picture for photo in lesson.album.photos]
    if by == AS_KEPT:
        other.adapt(images, [label.replace("kind 0", "x") for label in labels])
        assert (taught.predict(images) == other.predict(images)).all()
    taught.undo()
    assert "kind 0" in taught.classes


def test_a_photo_that_is_lost_is_left_out(tmp_path):
    learner, *_ = hm.taught(tmp_path / "old.gems", 3)
    learner.save(tmp_path / "s.state")
    file = learner.taught.album.photos[0].file
    (tmp_path / "s.state/photos" / file).unlink()
    with pytest.warns(UserWarning, match=r"photo 1 \(kind 0\) is damaged or missing"):
        lesson = read_lesson(learner.bundle, tmp_path / "s.state")
    assert len(lesson.album.photos) == 5 and isinstance(lesson.album, Album)
