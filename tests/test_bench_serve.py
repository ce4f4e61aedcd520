"""tools/bench_serve.py: what it counts as wrong, and a small measurement of a real server."""

import json

import bench_serve as module
import pytest
from click.testing import CliRunner
from malformed_requests import malformed

RIGHT = {"crowd": {"wrong": 0}, "malformed": {"0": 3, "400": 90, "413": 7}, "changed": False, "traceback": False}


def test_malformed_requests_are_the_same_for_the_same_seed():
    assert list(malformed(50, 1)) == list(malformed(50, 1)) != list(malformed(50, 2))
    assert len(set(malformed(200))) > 100


@pytest.mark.parametrize(
    "fault, words",
    [
        ({}, []),
        ({"crowd": {"wrong": 2}}, ["2 wrong answers"]),
        ({"malformed": {"200": 1, "400": 9}}, ["1 malformed requests answered with 200"]),
        ({"malformed": {"500": 4}}, ["4 malformed requests answered with 500"]),
        ({"changed": True}, ["the state has changed"]),
        ({"traceback": True}, ["a traceback"]),
    ],
)
def test_what_is_wrong(fault, words):
    assert module.failures(RIGHT | fault) == words


@pytest.mark.slow(20)
def test_a_server_is_measured(small_bundle, environment, monkeypatch, tmp_path):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    options = ["--seconds", "0.5", "--clients", "3", "--malformed", "40", "--ways", "3", "--shots", "2", "--no-browser"]
    result = CliRunner().invoke(module.main, [str(small_bundle), *options, "-o", str(tmp_path / "row.json")])
    assert result.exit_code == 0, result.output
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["crowd"]["answers"] > 0 and row["crowd"]["wrong"] == 0 and not row["changed"] and row["page"] is None
    assert sum(row["malformed"].values()) == 40 and len(row["memory_mb"]) == 4


@pytest.mark.slow(20)
def test_wrong_answers_end_with_1(small_bundle, environment, monkeypatch):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    right = module.crowded
    monkeypatch.setattr(module, "crowded", lambda *options: right(*options) | {"wrong": 1})
    options = ["--seconds", "0.2", "--clients", "1", "--malformed", "1", "--ways", "2", "--shots", "1", "--no-browser"]
    result = CliRunner().invoke(module.main, [str(small_bundle), *options])
    assert result.exit_code == 1 and "WRONG: 1 wrong answers" in result.output
