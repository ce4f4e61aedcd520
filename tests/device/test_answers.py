"""What a learner answers: guesses, unknown ones and sets, against what its probabilities say."""

import handmade as hm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gems_edge.device.answers import answers_of, softmax
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
        for answer, shares in zip(answers_of(classes, logits, 0.9, accept_all), softmax(logits)):
            assert answer.guess == 1 + int(shares[1:].argmax()) and "none" not in answer.candidates
            assert answer.known == (accept_all or shares.argmax() > 0)
            assert answer.name in (None, answer.guess)


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 90, float("nan")])
def test_a_coverage_that_is_no_share_is_refused(tmp_path, coverage):
    learner, _, images, _ = hm.taught(tmp_path / "h.gems", 2)
    with pytest.raises(UserError, match="between 0 and 1"):
        learner.answers(images, coverage=coverage)
