"""Several trainings as one number, and bounds on differences."""

import math

import numpy as np
import pytest

from gems_edge.meta.evaluation.accuracy import mean_accuracy
from gems_edge.reproduce.pooling import paired, pooled, student, times_less
from gems_edge.reproduce.verdicts import FAILS, HOLDS, OPEN, above, below, within


@pytest.mark.parametrize("counts", [(300,), (300, 300, 300), (20, 600, 7)])
def test_pooled_is_the_evaluation_of_all_episodes(counts):
    random = np.random.default_rng(3)
    trainings = [random.beta(8, 3, count) + shift for count, shift in zip(counts, (0.0, 0.05, -0.1))]
    whole = mean_accuracy(np.concatenate(trainings))
    found = pooled([mean_accuracy(values).as_dict() for values in trainings])
    assert found.accuracy == pytest.approx(whole.accuracy, rel=1e-12)
    assert found.ci95 == pytest.approx(whole.ci95, rel=1e-12)
    assert found.episodes == sum(counts)
    assert (found.seeds_low, found.seeds_high) == (min(map(np.mean, trainings)), max(map(np.mean, trainings)))


def test_student():
    scipy_stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 16):
        assert student(freedom) == pytest.approx(scipy_stats.t.ppf(0.975, freedom), abs=6e-5)
    assert student(100) == pytest.approx(1.98397, abs=1e-5)  # of a printed table


@pytest.mark.parametrize(
    "bound, mean, half, verdict",
    [
        (above(-0.03), -0.02, 0.01, HOLDS), (above(-0.03), -0.0201, 0.01, OPEN), (above(-0.03), -0.05, 0.019, FAILS),
        (above(-0.03), -0.05, 0.021, OPEN), (above(-0.03), 0.5, math.inf, OPEN),
        (below(0), -0.02, 0.01, HOLDS), (below(0), -0.01, 0.01, OPEN), (below(0), 0.02, 0.01, FAILS),
        (within(0.01), 0.0, 0.009, HOLDS), (within(0.01), -0.005, 0.006, OPEN), (within(0.01), -0.03, 0.01, FAILS),
    ],
)  # fmt: skip
def test_bounds(bound, mean, half, verdict):
    assert bound.verdict(mean - half, mean + half) == verdict


def test_factors_of_unknown_costs_are_none():
    assert times_less([]) is None and times_less([(2.0, None)]) is None and times_less([(2.0, 0.0)]) is None
    assert times_less([(4.0, 2.0), (9.0, 3.0)]).as_dict() == {"mean": 13 / 5, "low": 2.0, "high": 3.0}


def test_one_pair_knows_no_interval():
    own, other = ({"accuracy": value, "ci95": 0.01, "episodes": 20} for value in (0.6, 0.5))
    found = paired([(own, other)])
    assert found.mean == pytest.approx(0.1) and math.isinf(found.half) and paired([]) is None
