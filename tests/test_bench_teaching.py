"""tools/bench_teaching.py and tools/bench_forecast.py: their figures are of what a learner does."""

import json

import pytest
from bench_forecast import main as bench_forecast
from bench_teaching import main as bench_teaching
from click.testing import CliRunner
from handmade import write_bundle

KINDS = {"whole": {}, "split": {"split": True, "method": "anil", "normalization": "group"}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_is_added_is_as_good_as_one_taught_at_once(tmp_path, kind):
    bundle, output = write_bundle(tmp_path / "h.gems", **KINDS[kind]), tmp_path / "rows.json"
    options = ["--data", "glyphs", "--episodes", "3", "--shots", "2", "--queries", "4", "-o", str(output)]
    result = CliRunner().invoke(bench_teaching, [str(bundle), *options])
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    assert found["same_bits"] == found["episodes"] == 3 and found["gain"] == 0
    assert found["at_once"]["accuracy"] == found["added"]["accuracy"] <= 1
    assert found["time_ratio"] > 0 and 100 < found["bytes_per_photo"] < 20_000


def test_the_forecast_is_compared_with_the_truth(tmp_path):
    bundle, output = write_bundle(tmp_path / "h.gems", **KINDS["split"]), tmp_path / "rows.json"
    options = ["--data", "glyphs", "--ways", "2,3", "--shots", "3", "--episodes", "4", "-o", str(output)]
    result = CliRunner().invoke(bench_forecast, [str(bundle), *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text())["ways"]
    assert [row["ways"] for row in rows] == [2, 3]
    for row in rows:
        assert row["difference"] == pytest.approx(row["forecast"] - row["true"])
        assert abs(row["difference"]) <= row["mean_size_of_difference"] <= 1
        assert 0 <= row["true_below_interval"] + row["true_above_interval"] <= 1


def test_a_bundle_that_gives_no_forecast_says_so(tmp_path):
    bundle = write_bundle(tmp_path / "h.gems")
    result = CliRunner().invoke(bench_forecast, [str(bundle), "--data", "glyphs", "--ways", "3", "--episodes", "2"])
    assert result.exit_code == 2 and "no forecast" in result.output
