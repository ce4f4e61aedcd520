"""tools/bench_shots.py: every row is of the same episodes."""

import json
from dataclasses import replace

import bench_shots as module
import numpy as np
import pytest
from bench_shots import SHOTS, FirstPhotos, worse
from bench_shots import main as bench_shots
from click.testing import CliRunner

from gems_edge.data.episodes import make_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.sources import load_images


@pytest.mark.parametrize("grouped", [False, True])
def test_fewer_photos_are_the_first_of_more(grouped):
    glyphs = load_images("glyphs")
    whole = make_sampler(glyphs if grouped else replace(glyphs, group=None), "test", 5, 10, 5, 0)
    most = whole.draw(0, 3)
    for text in SHOTS:
        shots = Shots.parse_given(text)
        drawn = FirstPhotos(whole, shots).draw(0, 3)
        assert np.array_equal(drawn.query, most.query) and np.array_equal(drawn.classes, most.classes)
        for row, count in enumerate(shots.draw(5, ()).tolist()):
            assert np.array_equal(drawn.support[drawn.labels == row], most.support[most.labels == row][:count])


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_rows(small_run, small_bundle, tmp_path, kind):
    subject = small_run if kind == "run" else small_bundle
    options = ["--episodes", "3", "--queries", "3", "--shots", "1", "--shots", "2", "--shots", "2,1,1,1,1"]
    result = CliRunner().invoke(bench_shots, [str(subject), *options, "-o", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert result.exit_code == any(map(worse, rows)) and ("WORSE" in result.output) == any(map(worse, rows))
    assert [(row["shots"], row.get("compared_with")) for row in rows] == [(1, None), (2, 1), ([2, 1, 1, 1, 1], 1)]
    assert all(row["gain"] == pytest.approx(row["accuracy"] - rows[0]["accuracy"]) for row in rows[1:])
    assert all(row["episodes"] == 3 and 0 <= row["accuracy"] <= 1 for row in rows)


def row(gain: float | None = None, ci95: float = 0.02) -> dict:
    known = {"data": "glyphs", "shots": 2, "accuracy": 0.7, "ci95": 0.01}
    return known if gain is None else known | {"compared_with": 1, "gain": gain, "gain_ci95": ci95}


def test_worse_is_by_more_than_the_interval():
    assert [worse(row(gain)) for gain in (None, 0.1, 0.0, -0.019, -0.021)] == [False] * 4 + [True]


@pytest.mark.parametrize("gains, code", [((None, 0.1, -0.01), 0), ((None, -0.03, 0.1), 1)])
def test_a_worse_row_ends_with_1(small_run, monkeypatch, gains, code):
    monkeypatch.setattr(module, "rows_of", lambda *_: [row(gain) for gain in gains])
    result = CliRunner().invoke(bench_shots, [str(small_run), "--episodes", "2"])
    assert result.exit_code == code and ("WORSE" in result.output) == bool(code)
