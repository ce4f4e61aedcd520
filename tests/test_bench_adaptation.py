"""tools/bench_adaptation.py at its smallest: its plain torch step is the product's step, it measures, it resumes, and a
wrong result stops it."""

import json
from dataclasses import replace

import click
import pytest
import torch
from adaptation_peers import step_call
from adaptation_rows import INNER_LR, WAYS, Row
from alternating import alternate, times_faster
from bench_adaptation import differences, main
from click.testing import CliRunner
from networks import Network, read_name

from gems_edge.errors import UserError
from gems_edge.meta.inner import Support, detached, inner_step, one_hot
from gems_edge.models.backbones.registry import BACKBONES
from gems_edge.models.fewshot import forward


@pytest.mark.parametrize("ratio", [0.0, 0.6])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_plain_step_is_the_products_step(backbone, ratio):
    row = Row(Network(backbone, 0.75, 20), 2, ratio, "maml", "balanced")
    model, weights = row.start
    weights = {name: weight.double() for name, weight in weights.items()}
    images, targets = row.images_of(0).double(), one_hot(row.labels, WAYS, torch.float64)
    for method in ("maml", "anil", "boil"):
        loss, moved = step_call(row.plain(torch.float64), method, INNER_LR, images, row.labels)()
        rule = replace(row, method=method).rule
        ours = inner_step(model.double(), detached(weights, rule), Support(images, targets), rule)
        assert set(moved) == set(rule.adapted(weights))
        torch.testing.assert_close(loss, ours.loss, rtol=1e-12, atol=0)
        for name, value in moved.items():
            assert not torch.equal(value, weights[name])
            torch.testing.assert_close(value, ours.weights[name], rtol=1e-9, atol=1e-12)
    answer = forward(model, weights, images)
    plain = row.plain(torch.float64).normalize_by(answer.statistics)
    torch.testing.assert_close(plain(images), answer.logits, rtol=1e-9, atol=1e-12)


def test_networks_by_name():
    assert read_name("conv4@0.5-84") == Network("conv4", 0.5, 84)
    assert read_name(Network("resnet12", 1.0, 28).name) == Network("resnet12", 1.0, 28)
    for name in ("conv4", "conv4@half-84", "conv5-84"):
        with pytest.raises(UserError):
            read_name(name)


@pytest.mark.slow(30)
def test_measures_and_resumes(tmp_path):
    output = tmp_path / "found.json"
    options = [
        "--network",
        "conv4@0.5",
        "--size",
        "16",
        "--shots",
        "1",
        "--method",
        "anil",
        "--ratio",
        "0",
        "--threads",
        "1",
    ]
    options += ["--rounds", "3", "--block-seconds", "0.01", "--processes", "1", "--bundles", str(tmp_path / "bundles")]
    options += ["--part", "step", "--part", "memory", "--part", "predict", "-o", str(output)]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads(output.read_text())
    [step] = document["step"].values()
    found = step["found"]["0"]
    assert found["rounds"] == 3 and min(found["ms"].values()) > 0
    assert found["times_faster_than"]["eager"]["median"] == pytest.approx(
        min(found["ms"]["plain"], found["ms"]["gems"]) / found["ms"]["onnx"], rel=0.7
    )
    assert set(found["differences"]) == {"onnx", "plain", "gems"}
    [memory] = document["memory"].values()
    assert memory["found"]["onnx_baseline_mb"] < memory["found"]["onnx_peak_mb"] < memory["found"]["plain_peak_mb"]
    assert "conv4@0.5-16-1shot-anil-balanced" in done.stdout and "✓" in done.stdout
    again = CliRunner().invoke(main, options, catch_exceptions=False)
    assert again.exit_code == 0 and json.loads(output.read_text()) == document
    other = CliRunner().invoke(main, [*options, "--clock", "cpu"])
    assert other.exit_code == 1 and "other settings" in other.output


def test_a_wrong_step_is_refused():
    row = Row(Network("conv4", 0.125, 16), 1, 0.0, "boil", "balanced")
    right = step_call(row.plain(), row.method, INNER_LR, row.images_of(0), row.labels)

    def wrong(images):
        loss, moved = right(images)
        name = "backbone.blocks.0.conv.weight"
        start = row.start[1][name]
        return loss, moved | {name: start + 1.05 * (moved[name] - start)}

    assert differences(row, {"plain": right})["plain"]["median"] < 1e-5
    with pytest.raises(click.ClickException, match="wrong differs from torch in float64"):
        differences(row, {"plain": right, "wrong": wrong})


def test_calls_take_turns_and_are_compared_round_by_round():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in "ab"}
    times = alternate(calls, rounds=4, block_seconds=0)
    assert {len(found) for found in times.values()} == {4}
    assert "".join(made[-16:]) == "aabbbbaa" * 2  # each of them warms up first
    assert times_faster([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == {"median": 3.0, "p10_p90": [2.0, 4.0]}
