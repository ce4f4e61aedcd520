"""A meta-iteration above a cut, on features that are kept: against the same on images, and against plain torch.

  python tools/bench_cached_trunk.py [--backbone efficientnet-lite0 --learn-from blocks.11 --size 128] [-o FILE.json]

First-order MAML in mode frozen from pretrained weights, 5-way 1-shot with 5 queries, 4 tasks, 2 steps, on noise.
Contestants take turns in one process: the top on features of half precision, as a training serves them; a loop in
plain torch around the network's own torch module above the cut, on the same features; the whole network on images,
whose trunk stays all the same; and the whole network, all of which learns. Query losses and meta-gradients of the first
three are compared first; the command ends with exit code 1 where they differ.
"""

import json
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from alternating import alternate, times_faster
from torch import Tensor, nn
from torch.func import functional_call

from gems_edge.data.imageset import ImageSet
from gems_edge.data.mixture import Mixture, mixture_sampler
from gems_edge.data.tensors import Episode, Episodes, episode_tensors
from gems_edge.files import write_atomic
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.features import episodes_of
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.outer import meta_gradient
from gems_edge.meta.processes import alone
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import first_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.pretrained import KNOWN
from gems_edge.models.spec import full_widths
from gems_edge.models.tensor_names import is_constant

# What float32 in another order and half precision may make of them: noise has values at the kinks of ReLU6, some of
# which turn.
ROUNDED, HALVED = 1e-2, 1e-1
CLASSES, IMAGES = 8, 12


class Difference(NamedTuple):
    loss: float  # the largest, as a share of the loss
    gradient: float  # of the whole meta-gradient, as a share of its length


Answer = tuple[list[float], Weights]  # the tasks' query losses, the meta-gradient


def made_up(size: int) -> Mixture:
    """Noise in a few classes."""
    images = np.random.default_rng(0).integers(0, 256, (CLASSES * IMAGES, size, size, 3), np.uint8)
    split = np.array(["train"] * CLASSES)
    names = tuple(f"class {number}" for number in range(CLASSES))
    return Mixture(
        ("noise",), (ImageSet("noise", images, np.arange(len(images)) % CLASSES, names, split, None, False, ""),)
    )


def learned_from(config: TrainConfig) -> MetaModel:
    """A model with pretrained weights, of which those that learn require grad."""
    torch.manual_seed(0)
    model = FewShotModel(config.model_spec())
    weights = {name: w.detach().clone() for name, w in first_weights(config).items()}
    for name, weight in model.spec.learning(weights).items():
        weight.requires_grad_(not is_constant(name))
    return MetaModel(model, weights, rule_of(config))


class Ours:
    """A meta-iteration of `learned` on what `read` serves."""

    def __init__(self, learned: MetaModel, read: Episodes, drawn: list[Any], config: TrainConfig):
        self.learned, self.read, self.drawn, self.config = learned, read, drawn, config
        self.threads = TaskThreads(learned.model, config.meta_batch)

    def __call__(self) -> Answer:
        losses: list[float] = []
        episodes = (self.read.episode(indices) for indices in self.drawn)
        gradients, _ = meta_gradient(
            self.threads,
            self.learned.weights,
            episodes,
            self.config,
            self.learned.rule,
            lambda _, task: losses.append(float(task.loss.detach())),
        )
        return losses, gradients


class Plain:
    """The same in plain torch: the author's module above the cut in eval mode, a linear head, functional_call."""

    def __init__(
        self, learned: MetaModel, read: Episodes, drawn: list[Any], config: TrainConfig, network: nn.Sequential
    ):
        self.read, self.drawn, self.config = read, drawn, config
        parts = _above(network, config.learn_from)
        classifier = nn.Linear(learned.model.spec.feature_size, config.ways)
        self.model = nn.Sequential(OrderedDict(backbone=nn.Sequential(parts), head=classifier)).eval()
        state = {name: tensor.detach() for name, tensor in learned.weights.items()}
        self.model.load_state_dict(state, strict=False)
        self.model.to(memory_format=torch.channels_last)
        self.weights = dict(self.model.named_parameters())
        missing = {name for name, weight in learned.weights.items() if weight.requires_grad} ^ set(self.weights)
        if missing:
            raise click.ClickException(f"plain torch has other tensors: {sorted(missing)[:4]}")

    def __call__(self) -> Answer:
        totals = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        losses = []
        for indices in self.drawn:
            episode = self.read.episode(indices)
            loss = self._task(episode)
            losses.append(float(loss.detach()))
            gradients = torch.autograd.grad(loss / self.config.meta_batch, list(self.weights.values()))
            for name, gradient in zip(self.weights, gradients):
                totals[name] += gradient
        return losses, totals

    def _task(self, episode: Episode) -> Tensor:
        weights = self.weights
        for _ in range(self.config.steps):
            loss = F.cross_entropy(
                functional_call(self.model, weights, (episode.support_images,)), episode.support_labels
            )
            gradients = torch.autograd.grad(loss, list(weights.values()))
            weights = {name: w - self.config.inner_lr * g for (name, w), g in zip(weights.items(), gradients)}
        return F.cross_entropy(functional_call(self.model, weights, (episode.query_images,)), episode.query_labels)


def _above(network: nn.Sequential, learn_from: str) -> OrderedDict[str, nn.Module]:
    """The author's modules from `learn_from` (LIST.N, of a list of blocks) on, by their names."""
    blocks, _, number = learn_from.rpartition(".")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in network.named_children():
        if name == blocks:
            kept = nn.Sequential()
            for at, block in module.named_children():
                if int(at) >= int(number):
                    kept.add_module(at, block)
            parts[name] = kept
        elif parts:
            parts[name] = module
    return parts


def compared(answers: dict[str, Answer]) -> dict[str, Difference]:
    """How far each other contestant is from the first."""
    (_, (losses, gradients)), *others = answers.items()
    found = {}
    for name, (other_losses, other_gradients) in others:
        flat, other = (torch.cat([tensors[n].flatten() for n in gradients]) for tensors in (gradients, other_gradients))
        loss = max(abs(one - another) / one for one, another in zip(losses, other_losses, strict=True))
        found[name] = Difference(loss, float((flat - other).norm() / flat.norm()))
    return found


@click.command()
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--learn-from", default="blocks.11", show_default=True, help="LIST.N, a block of a list.")
@click.option("--size", default=128, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="For the rounds that are timed.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(backbone: str, learn_from: str, size: int, seconds: float, output: Path | None) -> None:
    """Compare and time the three."""
    keep_freed_memory()
    widths = full_widths((), backbone, channels=3, image_size=size)
    config = TrainConfig(
        backbone=backbone,
        widths=widths,
        image_size=size,
        channels=3,
        learn_from=learn_from,
        normalization="frozen",
        init="pretrained",
        pretrained=KNOWN[backbone].about,
        head="per-class",
        queries=5,
        steps=2,
        inner_lr=0.02,
        first_order=True,
        meta_batch=4,
    )
    images, whole = made_up(size), learned_from(config)
    parts = halves(whole, whole.model.spec.cut)
    features = episodes_of(parts, images, ("train",), alone(torch.device("cpu")))
    sampler = mixture_sampler(images, "train", config.ways, 1, config.queries, seed=0)
    drawn = [sampler.draw(0, task, config.meta_batch)[1] for task in range(config.meta_batch)]
    network = make_backbone(backbone, 3, 1.0, image_size=size)
    threads = torch.get_num_threads()
    plain = Plain(parts.learned, features, drawn, config, network)
    calls: dict[str, Ours | Plain] = {
        "cached": Ours(parts.learned, features, drawn, config),
        "plain torch": plain,
        "without cache": Ours(whole, episode_tensors(images), drawn, config),
    }
    differences = compared({name: calls[name]() for name in calls})
    entire = replace(config, learn_from="all")
    calls["whole network learns"] = Ours(learned_from(entire), calls["without cache"].read, drawn, entire)
    torch.set_num_threads(threads)
    found = alternate(calls, rounds=200, block_seconds=0.5, most_seconds=seconds)
    document = {
        "backbone": backbone,
        "learn_from": learn_from,
        "size": size,
        "threads": threads,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "differences": {name: each._asdict() for name, each in differences.items()},
        "ms": {name: float(np.median(blocks)) for name, blocks in found.items()},
        "rounds": len(found["cached"]),
        "times_faster": {name: times_faster(found[name], found["cached"]) for name in list(calls)[1:]},
    }
    click.echo(json.dumps(document, indent=1))
    if output:
        write_atomic(output, json.dumps(document, indent=1) + "\n")
    if max(differences["plain torch"]) > ROUNDED or max(differences["without cache"]) > HALVED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
