"""A meta-iteration above a cut, on features that are kept: against the same on images, and against plain torch.

  python tools/bench_cached_trunk.py [--backbone efficientnet-lite0 --learn-from blocks.11 --size 128] [-o FILE.json]

First-order MAML in mode frozen from pretrained weights, 5-way 1-shot with 5 queries, 4 tasks, 2 steps, on noise.
Contestants take turns in one process: the top on features of half precision, as a training serves them; a loop in
plain torch around the network's own torch module above the cut, on the same features; the whole network on images,
whose trunk stays all the same; and the whole network, all of which learns.

Before, query losses and meta-gradients are compared in float64: of plain torch with the top on the very same features,
and of the whole network with the top on features that were not rounded. Where they differ, the command ends with exit
code 1. What half precision makes of them, the whole network against the top on rounded features, is only shown.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
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
from gems_edge.meta.meta_model import Halves, MetaModel, halves
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

# What another order of sums in float64 may make of losses and gradients.
EXACT = 1e-9
HALF_PRECISION = "half precision"
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


def in_float64(learned: MetaModel) -> MetaModel:
    weights = {
        name: weight.detach().double().requires_grad_(weight.requires_grad) for name, weight in learned.weights.items()
    }
    return replace(learned, model=deepcopy(learned.model).double(), weights=weights)


def dtype_of(learned: MetaModel) -> torch.dtype:
    return next(iter(learned.weights.values())).dtype


@dataclass(frozen=True)
class Unrounded(Episodes):
    """What a trunk makes of images at the moment when it is asked for."""

    images: Episodes
    halves: Halves

    @property
    def device(self) -> torch.device:
        return self.images.device

    def taken(self, numbers: np.ndarray, dtype: torch.dtype, random: np.random.Generator | None = None) -> Tensor:
        assert self.halves.parts is not None
        with torch.no_grad():
            return self.halves.parts.trunk(self.halves.below, self.images.taken(numbers, dtype, random))


class Ours:
    """A meta-iteration of `learned` on what `read` serves."""

    def __init__(self, learned: MetaModel, read: Episodes, drawn: list[Any], config: TrainConfig):
        self.learned, self.read, self.drawn, self.config = learned, read, drawn, config
        self.threads, self.dtype = TaskThreads(learned.model, config.meta_batch), dtype_of(learned)

    def __call__(self) -> Answer:
        losses: list[float] = []
        episodes = (self.read.episode(indices, self.dtype) for indices in self.drawn)
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
        self.dtype = dtype_of(learned)
        model = nn.Sequential(OrderedDict(backbone=nn.Sequential(parts), head=classifier)).eval()
        self.model = deepcopy(model).to(self.dtype)
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
            episode = self.read.episode(indices, self.dtype)
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


def difference(one: Answer, other: Answer) -> Difference:
    (losses, gradients), (other_losses, other_gradients) = one, other
    flat, other_flat = (torch.cat([found[n].flatten() for n in gradients]) for found in (gradients, other_gradients))
    loss = max(abs(a - b) / a for a, b in zip(losses, other_losses, strict=True))
    return Difference(loss, float((flat - other_flat).norm() / flat.norm()))


class Contest(NamedTuple):
    """What all contestants start from and read."""

    config: TrainConfig
    whole: MetaModel
    drawn: list[Any]
    images: Episodes
    features: Episodes
    network: nn.Sequential  # its author's module

    def split(self, whole: MetaModel) -> Halves:
        return halves(whole, whole.model.spec.cut)

    def calls(self) -> dict[str, Callable[[], Answer]]:
        entire = replace(self.config, learn_from="all")
        top = self.split(self.whole).learned
        return {
            "cached": Ours(top, self.features, self.drawn, self.config),
            "plain torch": Plain(top, self.features, self.drawn, self.config, self.network),
            "without cache": Ours(self.whole, self.images, self.drawn, self.config),
            "whole network learns": Ours(learned_from(entire), self.images, self.drawn, entire),
        }

    def differences(self) -> dict[str, Difference]:
        """In float64; all but the last are of sums in another order alone."""
        whole = in_float64(self.whole)
        parts = self.split(whole)
        cached = Ours(parts.learned, self.features, self.drawn, self.config)()
        exact = Ours(parts.learned, Unrounded(self.images, parts), self.drawn, self.config)()
        plain = Plain(parts.learned, self.features, self.drawn, self.config, self.network)()
        uncut = Ours(whole, self.images, self.drawn, self.config)()
        return {
            "plain torch": difference(cached, plain),
            "without cache": difference(exact, uncut),
            HALF_PRECISION: difference(uncut, cached),
        }


def contest(backbone: str, learn_from: str, size: int) -> Contest:
    config = TrainConfig(
        backbone=backbone,
        widths=full_widths((), backbone, channels=3, image_size=size),
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
    return Contest(config, whole, drawn, episode_tensors(images), features, network)


@click.command()
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--learn-from", default="blocks.11", show_default=True, help="LIST.N, a block of a list.")
@click.option("--size", default=128, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="For the rounds that are timed.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(backbone: str, learn_from: str, size: int, seconds: float, output: Path | None) -> None:
    """Compare them in float64, then time them."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    known = contest(backbone, learn_from, size)
    differences = known.differences()
    wrong = [name for name, each in differences.items() if name != HALF_PRECISION and not max(each) <= EXACT]
    for name, each in differences.items():
        click.echo(f"{name}: loss off by {each.loss:.1e}, meta-gradient by {each.gradient:.1e} (float64)", err=True)
    if wrong:
        raise click.ClickException(f"{' and '.join(wrong)}: another meta-gradient")
    calls = known.calls()
    torch.set_num_threads(threads)
    found = alternate(calls, rounds=200, block_seconds=min(0.5, seconds), most_seconds=seconds)
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


if __name__ == "__main__":
    main()
