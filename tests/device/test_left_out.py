"""Photos that were taught, each left out of its class: against plain loops, and what they say of a score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gems_edge.device.familiar import LEVELS, Cell, Familiar, Score
from gems_edge.device.left_out import VALIDATION, LeftOut, counted_in, left_out, own_ranks

SHARES = st.floats(0, 1)


@given(hnp.arrays(np.float32, (7, 4), elements=st.floats(0.125, 4, width=32)), st.floats(1, 20))
def test_each_photo_is_asked_of_what_the_others_of_its_class_teach(features, temperature):
    labels = np.array([0, 1, 0, 1, 1, 2, 0])
    rows, training = np.random.default_rng(0).normal(size=(2, 3, 4))
    found = left_out(features, labels, rows, training, temperature)
    unit = [row / np.linalg.norm(row) for row in features.astype(float)]
    asked = [0, 1, 2, 3, 4, 6]  # the third class has one photo
    assert found.own.tolist() == labels[asked].tolist()
    for photo, logits, beside in zip(asked, found.logits, found.beside):
        others = sum(unit[n] for n in range(7) if labels[n] == labels[photo] and n != photo)
        row = rows.copy()
        row[labels[photo]] = np.linalg.norm(rows[labels[photo]]) * others / np.linalg.norm(others)
        np.testing.assert_allclose(logits, temperature * row @ unit[photo], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(beside, temperature * training @ unit[photo], rtol=1e-5, atol=1e-5)


@given(st.lists(SHARES, max_size=40).map(sorted), st.lists(SHARES, min_size=2).map(sorted))
def test_own_photos_count_beside_those_of_validation(ranks, shares):
    counted = counted_in(np.array(shares), np.array(ranks))
    below = [sum(rank < share for rank in ranks) for share in shares]
    np.testing.assert_allclose(
        counted, [(VALIDATION * share + n) / (VALIDATION + len(ranks)) for share, n in zip(shares, below)]
    )
    assert (np.diff(counted) >= 0).all() and (counted >= 0).all() and (counted <= 1).all()


@pytest.mark.parametrize("left,expected", [((True, True), [0.1, 0.2, 0.3, 0.4]), ((True, False), [0.1, 0.2])])
def test_ranks_are_those_among_validations_photos_that_were_left_out(left, expected):
    """By the best class and by the own one; of the second class only where it is asked for."""
    levels, lower = tuple(map(float, LEVELS)), tuple(level - 1.0 for level in LEVELS)
    nowhere = tuple(level + 9.0 for level in LEVELS)
    cells = tuple(Cell(n, 2, nowhere, nowhere, *((levels, lower) if n > 1 else ())) for n in (1, 2))
    logits = np.array([[0.1, -0.9], [-0.8, 0.2], [0.3, -0.7], [0.4, -0.6]], np.float32)
    photos = LeftOut(logits, np.zeros((4, 0)), np.array([0, 0, 1, 1]))
    ranks = own_ranks(Familiar(Score(), cells, 1.0), photos, (2, 2), left)
    np.testing.assert_allclose(ranks.best, expected, atol=1e-6)
    own = np.sort([row[place] for row, place in zip(logits, photos.own)][: len(expected)])
    np.testing.assert_allclose(ranks.own, np.clip(own + 1, 0, 1), atol=1e-6)
