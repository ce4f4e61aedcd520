"""What a learner answers: guesses, unknown ones and sets, against what its probabilities say."""

from dataclasses import replace

import handmade as hm
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gems_edge.device import Learner
from gems_edge.device.answers import Question, answers_to, softmax
from gems_edge.device.bundle import HEAD
from gems_edge.device.familiar import LEVELS, UNKNOWN_FILE, Cell, Familiar, Score
from gems_edge.device.state import save_state
from gems_edge.errors import UserError

LOGITS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6), elements=st.floats(-8, 8, width=32)
)


def test_without_calibration_the_likeliest_class_is_the_answer(tmp_path):
    learner, _, images, _ = hm.taught(tmp_path / "h.gems", 3)
    shares = learner.predict(images)
    answers = learner.answers(images)
    assert [answer.name for answer in answers] == [learner.classes[place] for place in shares.argmax(axis=1)]
    assert all(answer.guess == answer.name and answer.candidates is None for answer in answers)
    np.testing.assert_array_equal([answer.shares for answer in answers], shares)


@given(LOGITS)
def test_a_class_named_none_is_never_answered(logits):
    classes = ("none", *range(1, logits.shape[1]))
    for accept_all in (False, True):
        for answer, shares in zip(answers_to(Question(classes, 0.9, accept_all), logits), softmax(logits)):
            assert answer.guess == 1 + int(shares[1:].argmax()) and "none" not in answer.candidates
            assert answer.known == (accept_all or shares.argmax() > 0)
            assert answer.name in (None, answer.guess)


def measured(path, score, background=None):
    """The handmade bundle with a calibration whose scores at LEVELS are these levels, twice as wide for own classes."""
    levels = list(LEVELS)
    cells = [{"photos": 2, "classes": 3, "best": levels, "own": [2 * level - 1 for level in levels]}]
    hm.edit_manifest(path, lambda manifest: manifest.update(unknown={"score": score, "cells": cells}))
    if background is not None:
        hm.replace_file(path, UNKNOWN_FILE, safetensors.numpy.save(background))


def test_what_is_further_than_photos_of_taught_classes_is_unknown(tmp_path):
    """A head of three rows, and two of training classes, against logits written out in numpy."""
    learner, _, images, labels = hm.taught(tmp_path / "plain.gems", 3)
    random = np.random.default_rng(0)
    rows = {HEAD[0]: random.normal(0, 1, (2, hm.FEATURES)).astype(np.float16), HEAD[1]: np.ones(2, np.float16)}
    path = hm.write_bundle(tmp_path / "h.gems")
    measured(path, {"kind": "background", "weight": 0.5, "nearest": 1}, rows)
    other = Learner.load(path, threads=1)
    other.adapt(images, labels)
    queries, _ = hm.pictures(3, 20, seed=5)
    logits = np.log(learner.predict(queries))
    answers = other.answers(queries, coverage=0.8)
    assert {answer.known for answer in answers} == {True, False}
    nearest = np.array([a.score for a in answers])
    for answer, row, all_of in zip(answers, logits, other.answers(queries, accept_all=True)):
        assert answer.guess == all_of.name == other.classes[int(row.argmax())]
        assert answer.known == (answer.score >= 0.1 - 1e-9) and all_of.candidates is None
        np.testing.assert_allclose(answer.shares, np.exp(row), atol=1e-5)
        assert set(answer.candidates) <= set(other.classes)
        if answer.candidates:
            assert answer.candidates[0] == answer.guess
    assert 0 <= nearest.min() < nearest.max() <= 1


def test_by_distance_an_image_is_as_familiar_as_it_is_near_to_the_photos_of_its_class(tmp_path):
    """What was taught is loaded from disk, too, where photos lie as pictures and as floats; against plain numpy."""
    path = hm.write_bundle(tmp_path / "h.gems")
    queries, _ = hm.pictures(4, 6, seed=5)
    images, labels = hm.pictures(3, 2)
    learner = Learner.load(path, threads=1)
    learner.adapt(images[:4], labels[:4])
    learner.teach(images[4:].astype(np.float32) / 255, labels[4:])
    likeliest = learner.predict(queries).argmax(axis=1)
    read, taught = (hm.reference_features(learner._now.weights, each) for each in (queries, images))
    means = taught.reshape(3, 2, hm.FEATURES).mean(axis=1)
    scores = -((read - means[likeliest]) ** 2).sum(axis=1)
    levels = np.quantile(scores, LEVELS)
    cells = [{"photos": 2, "classes": 3, "best": levels.tolist(), "own": levels.tolist()}]
    hm.edit_manifest(path, lambda manifest: manifest.update(unknown={"score": {"kind": "distance"}, "cells": cells}))
    again = Learner.load(path, threads=1)
    again.adapt(images[:4], labels[:4])
    again.teach(images[4:].astype(np.float32) / 255, labels[4:])
    again.save(tmp_path / "s.state")
    loaded = Learner.load(path, threads=1)
    loaded.load_state(tmp_path / "s.state")
    for each in (again, loaded):
        answers = each.answers(queries, coverage=0.9)
        np.testing.assert_allclose([a.score for a in answers], np.interp(scores, levels, LEVELS), atol=1e-3)
        assert {answer.known for answer in answers} == {True, False}
        assert all(answer.guess == each.classes[place] for answer, place in zip(answers, likeliest))
    again.rename("kind 0", "mug")
    assert [a.score for a in again.answers(queries)] == [a.score for a in answers]


def test_by_distance_a_state_without_photos_answers_as_one_that_was_not_measured(tmp_path):
    path = hm.write_bundle(tmp_path / "h.gems")
    measured(path, {"kind": "distance"})
    images, labels = hm.pictures(3, 2)
    learner = Learner.load(path, threads=1)
    learner.adapt(images, labels)
    save_state(tmp_path / "old.state", replace(learner.taught, versions=()))
    old = Learner.load(path, threads=1)
    old.load_state(tmp_path / "old.state")
    assert {a.known for a in learner.answers(images)} == {False}  # the levels are of another world
    assert all(a.known and a.score == pytest.approx(a.shares.max()) for a in old.answers(images))


@given(LOGITS, st.floats(0.3, 0.9), st.floats(0.01, 0.09))
def test_sets_grow_with_the_coverage_that_is_asked(logits, coverage, more):
    classes = tuple(range(logits.shape[1]))
    levels = tuple(20 * level - 10 for level in LEVELS)
    familiar = Familiar(Score("energy"), (Cell(1, len(classes), levels, levels),))
    asked = [answers_to(Question(classes, share, familiar=familiar), logits) for share in (coverage, coverage + more)]
    for narrow, wide in zip(*asked):
        assert set(narrow.candidates) <= set(wide.candidates) and narrow.score == wide.score


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 90, float("nan")])
def test_a_coverage_that_is_no_share_is_refused(tmp_path, coverage):
    learner, _, images, _ = hm.taught(tmp_path / "h.gems", 2)
    with pytest.raises(UserError, match="between 0 and 1"):
        learner.answers(images, coverage=coverage)
