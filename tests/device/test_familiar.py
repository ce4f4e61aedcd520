"""Scores of what is like the taught classes, and where they stand among those of validation photos."""

import handmade as hm
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gems_edge.device.bundle import HEAD, read_bundle
from gems_edge.device.familiar import (
    LEVELS,
    UNKNOWN_FILE,
    Cell,
    Familiar,
    Score,
    class_scores,
    levels_at,
    levels_of,
    share_below,
    squared_distances,
)
from gems_edge.errors import UserError

SCORES = [Score(), Score("energy"), Score("share"), Score("background", 0.75, 3), Score("background", 1.0, 1)]


def rows(columns):
    return hnp.arrays(np.float32, (3, columns), elements=st.floats(-20, 20, width=32))


def plain(score, logits, background):
    if score.kind == "largest":
        return list(logits)
    if score.kind == "energy":
        return [x + np.log(sum(np.exp(y - max(logits)) for y in logits)) for x in logits]
    if score.kind == "share":
        return [-np.log(sum(np.exp(y - x) for y in logits)) for x in logits]
    nearest = sorted(background)[::-1][: score.nearest]
    return [x - score.weight * sum(nearest) / len(nearest) for x in logits]


@pytest.mark.parametrize("score", SCORES)
@given(rows(4), rows(5))
def test_scores_equal_a_plain_reference_and_rank_classes_as_logits_do(score, logits, background):
    logits, background = logits.astype(float), background.astype(float)
    scores = class_scores(score, logits, background)
    expected = [plain(score, *pair) for pair in zip(logits, background)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_array_equal(np.diff(logits) > 1e-6, np.diff(scores) > 1e-6)


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-9, 9, width=32)), rows(5), rows(3))
def test_distances_are_to_the_means_in_what_the_head_reads(means, read, logits):
    apart = squared_distances(read, means)
    expected = [
        [sum((a - b) ** 2 for a, b in zip(row, mean)) for mean in means.astype(float)] for row in read.astype(float)
    ]
    np.testing.assert_allclose(apart, expected, atol=1e-9)
    np.testing.assert_array_equal(class_scores(Score("distance"), logits, apart), -apart)


def cell(photos, classes, shift=0.0):
    values = tuple(float(level) + shift for level in LEVELS)
    return Cell(photos, classes, values, tuple(value - 1 for value in values))


def familiar(score=None):
    cells = (cell(1, 2), cell(1, 10, 2.0), cell(5, 2, 4.0), cell(5, 10, 8.0))
    return Familiar(score or Score(), cells)


def test_between_measured_settings_scores_are_linear_in_logarithms_and_beyond_them_as_at_the_nearest():
    best, own = levels_at(familiar(), 5**0.5, 20**0.5, "best", "own")
    np.testing.assert_allclose(best, np.array(LEVELS) + (0 + 2 + 4 + 8) / 4)
    np.testing.assert_allclose(own, best - 1)
    np.testing.assert_allclose(levels_at(familiar(), 99, 100, "best")[0], np.array(LEVELS) + 8)
    np.testing.assert_allclose(levels_at(familiar(), 0.5, 2, "best")[0], np.array(LEVELS))


@given(hnp.arrays(float, st.integers(50, 300), elements=st.floats(-5, 5)), st.floats(0.05, 0.9))
def test_a_share_below_is_the_share_of_what_was_measured(measured, level):
    at_levels = np.array(levels_of(measured))
    shares = share_below(np.sort(measured), at_levels)
    assert (np.diff(shares) >= 0).all() and 0 <= shares[0] and shares[-1] <= 1
    assert share_below(np.array([measured.min() - 1]), at_levels) == 0


def entry(score=None, **changes):
    document = {
        "score": {"kind": "largest"} if score is None else score,
        "cells": [{name: value for name, value in vars(each).items() if value != ()} for each in familiar().cells],
    }
    return document | changes


@pytest.mark.parametrize(
    "unknown",
    [
        {},
        entry(score={"kind": "guess"}),
        entry(score={"kind": "background", "weight": 1.0, "nearest": 3}),  # without its file
        entry(cells=[]),
        entry(cells=[1]),
        entry(cells=entry()["cells"][:3]),
        entry(cells=entry()["cells"] * 2),
        entry(cells=[entry()["cells"][0] | {"best": [1.0]}]),
        entry(cells=[entry()["cells"][0] | {"own": list(LEVELS)[::-1]}]),
        entry(cells=[entry()["cells"][0] | {"photos": 0}]),
        entry(cells=[entry()["cells"][0] | {"photos": True}]),
        entry(cells=[entry()["cells"][0] | {"left_best": [1.0]}]),
        entry(temperature=10.0),  # without a trunk, and without photos that were left out
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path, unknown):
    path = hm.write_bundle(tmp_path / "h.gems")
    hm.edit_manifest(path, lambda manifest: manifest.update(unknown=unknown or {"score": 3}))
    with pytest.raises(UserError, match="'unknown"):
        read_bundle(path)


def test_features_of_a_trunk_are_no_pixels_to_ask_again(tmp_path):
    path = hm.write_bundle(tmp_path / "h.gems", split=True, method="anil", normalization="group")
    hm.edit_manifest(path, lambda manifest: manifest.update(unknown=entry({"kind": "distance"})))
    with pytest.raises(UserError, match="'unknown.score'"):
        read_bundle(path)


def test_unit_rows_of_a_wide_head_are_refused(tmp_path, monkeypatch):
    path = hm.write_bundle(tmp_path / "h.gems")
    hm.edit_manifest(path, lambda manifest: manifest.update(unknown=entry({"kind": "distance"})))
    assert (read_bundle(path).background()[HEAD[0]] == np.eye(hm.FEATURES)).all()
    monkeypatch.setattr("gems_edge.device.bundle.MOST_READ", hm.FEATURES - 1)
    with pytest.raises(UserError, match="by distance"):
        read_bundle(path).background()


def with_background(path, rows):
    hm.edit_manifest(path, lambda m: m.update(unknown=entry({"kind": "background", "weight": 0.5, "nearest": 2})))
    hm.replace_file(path, UNKNOWN_FILE, safetensors.numpy.save(rows))


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {HEAD[0]: np.ones((3, hm.FEATURES + 1), np.float16), HEAD[1]: np.zeros(3, np.float16)},
        {HEAD[0]: np.ones((3, hm.FEATURES), np.float16), HEAD[1]: np.zeros(2, np.float16)},
        {HEAD[0]: np.full((3, hm.FEATURES), np.inf, np.float16), HEAD[1]: np.zeros(3, np.float16)},
    ],
)
def test_rows_of_another_head_are_refused(tmp_path, rows):
    path = hm.write_bundle(tmp_path / "h.gems")
    with_background(path, rows)
    with pytest.raises(UserError, match="holds no rows of this bundle's head"):
        read_bundle(path).background()
