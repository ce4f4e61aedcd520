"""tools/bench_shots.py: every row is of the same episodes."""

import json
from dataclasses import replace

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


def test_rows_of_a_run(small_run, tmp_path):
    options = ["--episodes", "3", "--queries", "3", "--shots", "1", "--shots", "2", "--shots", "2,1,1,1,1"]
    result = CliRunner().invoke(bench_shots, [str(small_run), *options, "-o", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert result.exit_code == any(map(worse, rows))
    assert [(row["shots"], row.get("compared_with")) for row in rows] == [(1, None), (2, 1), ([2, 1, 1, 1, 1], 1)]
    assert all(row["gain"] == pytest.approx(row["accuracy"] - rows[0]["accuracy"]) for row in rows[1:])
