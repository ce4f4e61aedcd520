"""Training under fixed masks: the right meta-gradient, weights that stay zero, and runs that survive a kill."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_settings import SMALL

from gems_edge.data.shots import Shots
from gems_edge.data.tensors import Episode
from gems_edge.meta.inner import adapt, support_of
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig, write_config
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.meta.start import resolve
from gems_edge.meta.train import train
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.ticket import Ticket, load_ticket, maskable, model_of, save_ticket

WAYS, SHOTS, QUERIES, STEPS, LR = 3, 2, 3, 3, 0.1
WIDTHS = {"conv4": (6, 5, 6, 4), "resnet12": (4, 5, 4) * 4}
RULES = [(method, head) for method in ("maml", "anil", "boil") for head in ("per-class", "shared")][
    :-1
]  # boil is per-class


def settings(method="maml", head="per-class", backbone="conv4", **changes) -> TrainConfig:
    given = dict(
        backbone=backbone, widths=WIDTHS[backbone], image_size=18, channels=1, method=method, head=head, ways=WAYS,
        shots=Shots.given(SHOTS), queries=QUERIES, steps=STEPS, inner_lr=LR,
    )  # fmt: skip
    return TrainConfig(**given | changes)


def drawn_masks(model: FewShotModel, keep=0.4, seed=0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    return {name: random.random(shapes[name]) < keep for name in maskable(shapes)}


def masked_model(config: TrainConfig) -> FewShotModel:
    """In float64, every parameter off its initial value, and what the masks remove zero."""
    torch.manual_seed(0)
    masks = drawn_masks(FewShotModel(config.model_spec()))
    model = FewShotModel(config.model_spec(), masks).double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight += 0.3 * torch.randn_like(weight)
        for name, weight in model.masked(dict(model.named_parameters())).items():
            dict(model.named_parameters())[name].copy_(weight)
    return model


def episode(seed=1, size=18) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(WAYS * (SHOTS + QUERIES), 1, size, size, generator=generator, dtype=torch.float64)
    support, query = images.split([WAYS * SHOTS, WAYS * QUERIES])
    labels = torch.arange(WAYS)
    return Episode(support, labels.repeat_interleave(SHOTS), query, labels.repeat_interleave(QUERIES))


def plain_meta_gradient(config, weights, masks, task):
    """Query loss and its gradient by plain MAML where the network itself is sparse: weight · mask in every pass."""
    meta = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    rows = {name: WAYS if config.head == "shared" and name.startswith("head") else 1 for name in meta}
    mask = {name: torch.cat([torch.from_numpy(mask).double()] * rows[name]) for name, mask in masks.items()}
    w = {name: torch.cat([tensor] * rows[name]) for name, tensor in meta.items()}

    network = reference.Network(make_backbone(config.backbone, 1), weights, config.normalization)

    def logits(images, use=None):
        sparse = {name: tensor * mask[name] if name in mask else tensor for name, tensor in w.items()}
        return network.logits(sparse, images, use)

    for _ in range(config.steps):
        loss = F.cross_entropy(logits(task.support_images)[0], task.support_labels)
        moving = [n for n in w if config.method == "maml" or (config.method == "anil") == n.startswith("head")]
        gradients = torch.autograd.grad(loss, [w[n] for n in moving], create_graph=not config.first_order)
        w = w | {n: w[n] - LR * gradient for n, gradient in zip(moving, gradients)}
    use = logits(task.support_images)[1] if config.normalization == "support" else None
    loss = F.cross_entropy(logits(task.query_images, use)[0], task.query_labels)
    gradients = torch.autograd.grad(loss, list(meta.values()), allow_unused=True)
    return loss, {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(meta.items(), gradients)}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("method, head", RULES)
@pytest.mark.parametrize("backbone", ["conv4", "resnet12"])
def test_the_masked_meta_gradient_is_that_of_the_sparse_network(backbone, method, head, first_order):
    config = settings(method, head, backbone, first_order=first_order)
    model, task = masked_model(config), episode()
    weights = dict(model.named_parameters())
    loss = meta_loss(model, weights, task, config, Descent(method, LR)).loss
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    found = {n: torch.zeros_like(weights[n]) if g is None else g for n, g in zip(weights, gradients)}
    found = model.masked(found)
    masks = {name: mask.bool().numpy() for name, mask in model.masks.items()}
    start = {name: weight.detach() for name, weight in weights.items()}
    expected_loss, expected = plain_meta_gradient(config, start, masks, task)
    assert abs(loss.item() - expected_loss.item()) < 1e-10 * abs(expected_loss.item())
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-9 * scale, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method, head", RULES)
def test_removed_weights_are_zero_at_every_inner_step(method, head, dtype):
    config = settings(method, head)
    model = masked_model(config).to(dtype)
    task = episode()
    task = Episode(task.support_images.to(dtype), task.support_labels, task.query_images.to(dtype), task.query_labels)
    weights = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
    trajectory = adapt(model, weights, support_of(task, WAYS), Descent(method, LR), 5, differentiable=True).weights
    assert len(trajectory) == 6
    moved = set()
    for before, after in zip(trajectory, trajectory[1:]):
        for name, mask in model.masks.items():
            removed = ~mask.bool().expand_as(after[name])
            assert removed.any() and not after[name][removed].any(), name
            if (before[name] != after[name])[~removed].any():
                moved.add(name)
    assert moved == set(name for name in Descent(method, LR).adapted(weights) if name in model.masks)


def test_fewer_classes_than_trained_keep_their_rows_masks():
    config = settings("maml", "per-class")
    model, task = masked_model(config), episode()
    few = task.support_labels < 2
    fewer = Episode(task.support_images[few], task.support_labels[few], task.query_images, task.query_labels)
    weights = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
    last = adapt(model, weights, support_of(fewer, 2), Descent("maml", LR), 2).adapted["head.weight"]
    kept = model.masks["head.weight"][:2].bool()
    assert last.shape == kept.shape and torch.equal(last != 0, kept)


class Zeros:
    """A watch that looks at every iteration of a training whether what `masks` remove is zero and the rest moves."""

    every = 1

    def __init__(self, masks):
        self.removed, self.seen = {name: torch.from_numpy(~mask) for name, mask in masks.items()}, []

    def resume(self, iteration):
        return False

    def look(self, iteration, weights):
        for name, removed in self.removed.items():
            assert removed.any() and not weights[name][removed].any(), (iteration, name)
        self.seen.append({name: weight.detach().clone() for name, weight in weights.items()})
        return False, {}


@pytest.mark.parametrize("method, head", RULES)
def test_removed_weights_are_zero_after_every_outer_step(method, head, environment, monkeypatch, tmp_path):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    config = settings(
        method, head, image_size=28, ways=5, shots=Shots.given(1), meta_batch=2, iterations=5, lr=0.01,
        validate_every=99, validation_episodes=2, compute="cpu", ticket=TicketConfig(method="rm", ratio=0.6),
    )  # fmt: skip
    config, _ = resolve(config)
    run = Run(tmp_path / "run")
    run.directory.mkdir()
    write_config(run.config_path, config)
    dense = FewShotModel(config.model_spec())
    masks = drawn_masks(dense)
    save_ticket(run.ticket_path, Ticket("rm", "weight", 0.6, masks, model_of(config.model_spec())))
    watch = Zeros(masks)
    unmasked = dict(dense.named_parameters())
    train(run, config, resume=True, initial=unmasked, watch=watch)
    assert len(watch.seen) == 5
    first, last = watch.seen[0], watch.seen[-1]
    for name, removed in watch.removed.items():
        assert (first[name] != last[name])[~removed].float().mean() > 0.5, name
    stored = load_file(run.weights_path)
    assert all(torch.equal(stored[name], last[name]) for name in last)


TINY = (
    *SMALL, "--widths", "16", "--head", "per-class", "--meta-batch", "2", "--iterations", "24",
    "--validate-every", "8", "--validation-episodes", "4", "--checkpoint-every", "3", "--keep", "every:5",
)  # fmt: skip
MWT = (*TINY, "--ticket", "mwt", "--ratio", "0.7", "--rewind", "4")


@pytest.mark.slow(20)
def test_a_ticket_killed_in_both_phases_ends_with_the_same_bits(environment, tmp_path):
    def start(run, *options):
        command = [sys.executable, "-m", "gems_edge", "train", *MWT, *options, "-o", str(run)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_at(process, sign):
        while process.poll() is None and not sign.exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    kill_at(start(cut), cut / "search" / "last" / "checkpoint.safetensors")
    assert not (cut / "ticket.safetensors").exists()
    kill_at(start(cut, "--resume"), cut / "last" / "checkpoint.safetensors")
    found = (cut / "ticket.safetensors").read_bytes()
    assert Run(cut / "search").finished() and not Run(cut).finished()
    searched = (cut / "search" / "metrics.jsonl").stat().st_mtime_ns
    assert start(cut, "--resume").wait() == 0 and start(whole).wait() == 0

    assert (cut / "ticket.safetensors").read_bytes() == found
    assert (cut / "search" / "metrics.jsonl").stat().st_mtime_ns == searched  # what was found is not searched again
    one, other = load_ticket(whole / "ticket.safetensors"), load_ticket(cut / "ticket.safetensors")
    assert all(np.array_equal(one.masks[name], other.masks[name]) for name in one.masks)
    assert one.found["iterations"] == other.found["iterations"] == 24
    for place in (".", "search"):
        assert_same_run(whole / place, cut / place)
    assert (whole / "initial.safetensors").read_bytes() == (cut / "initial.safetensors").read_bytes()
    assert not list(cut.rglob("*.tmp"))


def assert_same_run(one, other):
    """Weights, kept weights, optimiser and metrics, without what depends on the clock."""
    kept = sorted(path.name for path in (one / "kept").iterdir())
    assert kept == sorted(path.name for path in (other / "kept").iterdir()) and len(kept) >= 5
    for name in ("weights.safetensors", *(f"kept/{name}" for name in kept)):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    expected, found = (load_file(run / "last" / "checkpoint.safetensors") for run in (one, other))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    clock = ("time", "rate", "seconds", "cpu_seconds", "crc32")
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    first, second = ([{k: v for k, v in line.items() if k not in clock} for line in log] for log in lines)
    assert first == second and first
