"""A pruned network taught the dense one's features on the user's own images, without labels.

Where a pretrained body is pruned, a meta-training of a few thousand photos cannot teach it again what ImageNet had: the
dense network's features can (Hinton et al. 2015; of features, Romero et al. 2015). `export/reconstruct.py` gives the
start.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gems_edge.data.tensors import EpisodeTensors, fast_layout
from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.fewshot import FewShotModel, Weights, body
from gems_edge.models.head import feature_distance
from gems_edge.models.tensor_names import BODY, is_constant
from gems_edge.progress import Phase
from gems_edge.tickets.channels import Pruned

# Images of an iteration.
BATCH = 32
# Adam's rate, which rises over the first iterations and falls to zero by a cosine.
RATE, RISE = 3e-4, 20
# Images that go through the dense network at a time.
_FORWARD = 64


@dataclass(frozen=True)
class Lesson:
    """What is taught: images by number, and of each the dense network's features."""

    tensors: EpisodeTensors
    numbers: np.ndarray  # int64 [n]
    wanted: Tensor  # [n, F] of the channels that are kept

    def images(self, chosen: np.ndarray) -> Tensor:
        return fast_layout(self.tensors.taken(self.numbers[chosen], torch.float32))


@torch.no_grad()
def lesson(
    model: FewShotModel, weights: Weights, pruned: Pruned, tensors: EpisodeTensors, numbers: np.ndarray, phase: Phase
) -> Lesson:
    """Of the dense `model` with `weights`, on the images with these `numbers`."""
    kept = torch.from_numpy(kept_entries(model.spec.topology.features, pruned.kept)).to(tensors.device)
    rows = []
    with phase("features of the dense network", len(numbers)) as progress:
        for start in range(0, len(numbers), _FORWARD):
            images = fast_layout(tensors.taken(numbers[start : start + _FORWARD], torch.float32))
            rows.append(body(model, weights, images).features[:, kept])
            if progress is not None:
                progress(min(start + _FORWARD, len(numbers)))
    return Lesson(tensors, numbers, torch.cat(rows))


@dataclass(frozen=True)
class Distilled:
    weights: Weights
    first: float  # mean squared distance of the features in the first iterations
    last: float  # … in the last ones


def distil(fitted: Pruned, given: Lesson, iterations: int, seed: int, phase: Phase) -> Distilled:
    """The pruned network after `iterations` of Adam on how far its features are from those that are `given`. Running
    statistics stay."""
    device = given.wanted.device
    model, weights = FewShotModel(fitted.spec).to(device), {name: w.to(device) for name, w in fitted.weights.items()}
    learned = {n: w.clone().requires_grad_() for n, w in weights.items() if n.startswith(BODY) and not is_constant(n)}
    optimizer = torch.optim.Adam(learned.values())
    draw, losses = np.random.default_rng(seed), []
    with phase("distil", iterations) as progress:
        for iteration in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = _rate(iteration, iterations)
            chosen = draw.choice(len(given.numbers), min(BATCH, len(given.numbers)), replace=False)
            features = body(model, weights | learned, given.images(chosen)).features
            loss = feature_distance(fitted.spec, features, given.wanted[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's has no types
            optimizer.step()
            losses.append(loss.item())
            if progress is not None:
                progress(iteration + 1)
    some = max(1, iterations // 10)
    weights |= {name: weight.detach() for name, weight in learned.items()}
    return Distilled(weights, sum(losses[:some]) / some, sum(losses[-some:]) / some)


def _rate(iteration: int, iterations: int) -> float:
    rising = min(1.0, (iteration + 1) / RISE)
    return RATE * rising * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
