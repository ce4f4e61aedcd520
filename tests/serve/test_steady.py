"""Answers over frames: invariants, and what a person sees."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.device.answers import Answer
from gems_edge.serve.steady import steadied

CLASSES = ("a", "b", "c")


def answer(name, share=0.9):
    guess = "a" if name is None else name
    shares = np.full(3, (1 - share) / 2, np.float32)
    shares[CLASSES.index(guess)] = share
    return Answer(name, guess, shares, 0.5)


def shown(frames, rate=10):
    steady, names = None, []
    for number, name in enumerate(frames):
        steady = steadied(steady, CLASSES, answer(name), number / rate)
        names.append(steady.name)
    return names


def test_one_strange_frame_changes_nothing():
    assert shown(["a"] * 5 + ["b"] + ["a"] * 5) == ["a"] * 11
    assert shown(["a"] * 5 + [None] + ["a"] * 5) == ["a"] * 11


def test_what_stays_is_answered_within_half_a_second():
    assert shown(["a"] * 10 + ["b"] * 5)[-1] == "b"
    assert shown(["a"] * 10 + [None] * 5)[-1] is None
    assert shown([None] * 10 + ["c"] * 5)[-1] == "c"


def test_two_that_change_all_the_time_do_not_flicker():
    names = shown(["a", "b"] * 20)
    assert sum(first != second for first, second in zip(names, names[1:])) <= 1


def test_other_classes_begin_anew():
    before = steadied(None, ("x", "y", "z"), Answer("x", "x", np.array([1, 0, 0], np.float32), 1.0), 0.0)
    assert steadied(before, CLASSES, answer("b"), 0.01).name == "b"


@given(st.lists(st.tuples(st.sampled_from((*CLASSES, None)), st.floats(0.34, 1), st.floats(0, 5)), min_size=1))
def test_shares_and_unknown_come_to_one(frames):
    steady, at = None, 0.0
    for name, share, seconds in frames:
        at += seconds
        steady = steadied(steady, CLASSES, answer(name, share), at)
        assert abs(steady.shares.sum() + steady.unknown - 1) < 1e-5 and abs(steady.guesses.sum() - 1) < 1e-5
        assert steady.shares.min() >= 0 and 0 <= steady.unknown <= 1 and steady.guess in CLASSES


@given(st.sampled_from((*CLASSES, None)), st.sampled_from((*CLASSES, None)), st.floats(0.34, 1))
def test_after_long_only_the_newest_counts(first, second, share):
    steady = steadied(steadied(None, CLASSES, answer(first), 0.0), CLASSES, answer(second, share), 60.0)
    assert steady.name == second
