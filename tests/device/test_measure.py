import handmade as hm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.device.bundle import read_bundle
from gems_edge.device.measure import adapt_call, fresh_memory, predict_call, summarise, time_calls
from gems_edge.errors import UserError


def test_intervals_cover_the_true_quantile_as_often_as_they_say():
    generator = np.random.default_rng(0)
    inside = {"p50": 0, "p90": 0}
    for _ in range(400):
        sample = summarise(generator.random(200), {"p50": 0.5, "p90": 0.9})
        for name, truth in (("p50", 0.5), ("p90", 0.9)):
            low, high = sample.intervals[name]
            assert low <= sample.quantiles[name] <= high
            inside[name] += low <= truth <= high
    assert all(0.92 < count / 400 < 0.99 for count in inside.values())


def test_few_values_give_the_extremes():
    sample = summarise([3.0, 1.0, 2.0], {"p50": 0.5})
    assert sample.quantiles == {"p50": 2.0} and sample.intervals == {"p50": (1.0, 3.0)} and sample.runs == 3


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=300), st.floats(0, 1))
def test_an_interval_holds_its_quantile(values, q):
    sample = summarise(values, {"q": q})
    low, high = sample.intervals["q"]
    assert low <= sample.quantiles["q"] * (1 + 1e-12) and sample.quantiles["q"] <= high * (1 + 1e-12)


def test_slow_calls_stop_at_the_time_limit():
    calls = []
    assert len(time_calls(lambda: calls.append(1), warm_up=2, runs=50, seconds=5)) == 50
    assert len(calls) == 53
    assert len(time_calls(lambda: None, runs=50, seconds=0)) == 5


@pytest.mark.parametrize("decay", [None, 0.5])
def test_measures_a_bundle(tmp_path, decay):
    bundle = read_bundle(hm.write_bundle(tmp_path / "h.gems", decay=decay))
    for call in (predict_call(bundle, 1), adapt_call(bundle, 1)):
        times = time_calls(call, runs=5)
        assert len(times) == 5 and min(times) > 0
    for what in ("predict", "adapt"):
        [memory] = fresh_memory(bundle.path, what, 3, 1, repeats=1)
        assert 10 < memory["baseline_mb"] < memory["peak_mb"] < 300


def test_error_of_the_measured_process_is_passed_on(tmp_path):
    with pytest.raises(UserError, match="absent.gems is not a bundle"):
        fresh_memory(tmp_path / "absent.gems", "predict", 1, 1, repeats=1)
