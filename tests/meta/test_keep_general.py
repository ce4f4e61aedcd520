"""Weights between the start and the trained ones: the line, the choice on it, and a run that makes it."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_settings import SMALL

from gems_edge.meta.evaluation.accuracy import Accuracy
from gems_edge.meta.keep_general import SHARES, between, smallest_share
from gems_edge.meta.run import Run


def validation(*accuracies):
    return {share: Accuracy(accuracy, 0.01, 100) for share, accuracy in zip(SHARES, accuracies, strict=True)}


def test_the_ends_are_the_weights_themselves():
    start, trained = ({"a": torch.randn(7), "adapter.rate": torch.randn(2)} for _ in range(2))
    assert torch.equal(between(start, trained, 0.0)["a"], start["a"])
    assert torch.equal(between(start, trained, 1.0)["a"], trained["a"])
    assert torch.allclose(between(start, trained, 0.25)["a"], 0.75 * start["a"] + 0.25 * trained["a"])
    assert torch.equal(between(start, trained, 0.0)["adapter.rate"], trained["adapter.rate"])


def test_the_smallest_share_that_keeps_the_gain():
    gained = validation(0.70, 0.80, 0.86, 0.89, 0.90)
    assert smallest_share(gained, 0.5) == 0.25
    assert smallest_share(gained, 0.8) == 0.5
    assert smallest_share(gained, 1.0) == 1.0
    assert smallest_share(validation(0.3, 0.4, 0.5, 0.6, 0.9), 1.0) == 1.0  # 0.3 + (0.9 − 0.3) > 0.9 in floats
    assert smallest_share(validation(0.70, 0.80, 0.92, 0.91, 0.90), 1.0) == 0.5  # the middle is better than both ends


def test_what_gained_nothing_stays_as_it_was():
    assert smallest_share(validation(0.70, 0.72, 0.71, 0.69, 0.66), 0.85) == 0.0


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_who_asks_for_more_gain_goes_no_shorter_way(accuracies, one, other):
    less, more = sorted((one, other))
    assert smallest_share(validation(*accuracies), less) <= smallest_share(validation(*accuracies), more)


def test_a_run_is_drawn_back_and_keeps_what_was_trained(cli_here, tmp_path):
    options = ("train", *SMALL, "--widths", "8", "--iterations", "12", "--keep", "0")
    cli_here(*options, "--keep-general", "0.5", "-o", tmp_path / "run")
    cli_here(*options, "-o", tmp_path / "plain")
    start = load_file(tmp_path / "run" / "kept" / "0.safetensors")
    trained = load_file(tmp_path / "run" / "trained.safetensors")
    plain = load_file(tmp_path / "plain" / "weights.safetensors")
    assert all(torch.equal(trained[name], plain[name]) for name in plain)
    *_, line = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert line["kind"] == "general" and [entry["share"] for entry in line["validation"]] == list(SHARES)
    expected, found = between(start, trained, line["share"]), load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert Run(tmp_path / "run").finished()
    shutil.copytree(tmp_path / "run", tmp_path / "not-yet")
    (tmp_path / "not-yet" / "trained.safetensors").unlink()
    assert not Run(tmp_path / "not-yet").finished() and Run(tmp_path / "plain").finished()
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    cli_here("train", "--resume", "-o", tmp_path / "run")  # finished: the same once more
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("part", ["1.5", "-0.1"])
def test_a_part_lies_between_0_and_1(cli_here, tmp_path, part):
    result = cli_here("train", *SMALL, "--keep-general", part, "-o", tmp_path / "run", code=2)
    assert "--keep-general" in result.stderr and not (tmp_path / "run").exists()
