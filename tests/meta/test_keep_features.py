"""Features held to what they were at the start of training: the term against a plain reference, and runs with it."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import reference
import torch
from safetensors.torch import load_file
from small_settings import SMALL
from test_meta_gradient import WAYS, episode
from test_prototype_head import settings
from test_prototype_head import start as meta_weights
from torch.nn.functional import normalize

from gems_edge.meta.inner import adapt, support_of
from gems_edge.meta.outer import meta_gradient, meta_loss
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.fewshot import Weights

PART = 1.7


def moved(weights: Weights) -> Weights:
    torch.manual_seed(5)
    return {name: weight.detach() + 0.1 * torch.randn_like(weight) for name, weight in weights.items()}


def gradients(loss: torch.Tensor, weights: Weights) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(weights.items(), found)}


@pytest.mark.parametrize("mode", ["group", "support"])
@pytest.mark.parametrize("metric, steps", [("cosine", 0), ("cosine", 2), ("euclidean", 0)])
def test_the_term_is_the_plain_distance_of_what_a_head_reads(metric, steps, mode):
    """Of the features that answer the queries: after the steps, and differentiated through them."""
    config = settings("maml", metric, steps=steps, normalization=mode)
    model, weights = meta_weights(config)
    first, task, rule = moved(weights), episode(3, 22, seed=1), rule_of(config)
    free = meta_loss(model, weights, task, config, rule).loss
    held = meta_loss(model, weights, task, replace(config, keep_features=PART), rule, first).loss

    network = reference.Network(make_backbone("conv4", 3), weights, mode, metric)
    adapted = adapt(model, weights, support_of(task, WAYS), rule, steps, differentiable=True).adapted
    found, wanted = (
        network.features(each, task.query_images, network.features(each, task.support_images)[1])[0]
        for each in (adapted, first)
    )
    if metric == "cosine":
        term = 2 - 2 * (normalize(found) * normalize(wanted)).sum(1).mean()  # |a − b|² of vectors of length 1
    else:
        term = (found - wanted).norm(dim=1).pow(2).sum() / wanted.norm(dim=1).pow(2).sum()
    assert (held - free).item() == pytest.approx(PART * term.item(), rel=1e-9) and term > 1e-4
    expected = gradients(free + PART * term, weights)
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert all((g - expected[name]).abs().max() <= 1e-9 * scale for name, g in gradients(held, weights).items())


def test_at_the_start_it_is_no_force():
    """Of two tasks in a meta-batch, on features that do not move yet."""
    config = settings("maml", steps=0, normalization="group", keep_features=PART, meta_batch=2)
    model, weights = meta_weights(config)
    tasks = [episode(3, 22, seed=seed) for seed in (1, 2)]
    first = {name: weight.detach().clone() for name, weight in weights.items()}
    threads, rule = TaskThreads(model, 2), rule_of(config)
    free, _ = meta_gradient(threads, weights, tasks, config, rule)
    held, _ = meta_gradient(threads, weights, tasks, config, rule, start=first)
    away, _ = meta_gradient(threads, weights, tasks, config, rule, start=moved(weights))
    assert all(torch.allclose(held[name], free[name], rtol=1e-9, atol=1e-12) for name in free)
    assert any(not torch.allclose(away[name], free[name], rtol=1e-3) for name in free)
    assert WAYS == config.training_ways


def test_a_run_holds_its_features_and_resumes_with_the_same_bits(cli_here, environment, tmp_path):
    options = ("train", *SMALL, "--widths", "8", "--lr", "0.01", "--iterations", "14", "--keep", "0,7")
    cli_here(*options, "-o", tmp_path / "free")
    cli_here(*options, "--keep-features", "30", "-o", tmp_path / "held")
    first = load_file(tmp_path / "held" / "kept" / "0.safetensors")
    way = {
        name: sum((load_file(tmp_path / name / "weights.safetensors")[n] - w).square().sum() for n, w in first.items())
        for name in ("free", "held")
    }
    assert way["held"] < 0.9 * way["free"]

    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "gems_edge", *options, "--keep-features", "30", "-o", cut]
    process = subprocess.Popen([*map(str, command)], env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (cut / "last" / "checkpoint.safetensors").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert Run(cut).checkpoint().iteration < 14
    cli_here("train", "--resume", "-o", cut)
    assert (cut / "weights.safetensors").read_bytes() == (tmp_path / "held" / "weights.safetensors").read_bytes()


def test_a_part_is_no_negative_number(cli_here, tmp_path):
    result = cli_here("train", *SMALL, "--keep-features", "-1", "-o", tmp_path / "run", code=2)
    assert "--keep-features" in result.stderr and not (tmp_path / "run").exists()
