"""Episodes of class means under which no weight moves and no image changes another's features.

Every image then goes through the network once, however many episodes it is in.
"""

from collections.abc import Collection, Iterable

import numpy as np
import torch

from gems_edge.data.episodes import EpisodeIndices, EpisodeSampler
from gems_edge.data.tensors import Episodes, fast_layout
from gems_edge.meta.inner import one_hot
from gems_edge.models.fewshot import FewShotModel, Weights, body
from gems_edge.models.head import logits_of, prototypes
from gems_edge.models.spec import PER_IMAGE

# Images that go through the network at a time.
BATCH = 64


def stands_still(model: FewShotModel, sampler: EpisodeSampler, steps: Collection[int], modes: Collection[str]) -> bool:
    """Whether `still_shares` gives what an adaptation to each episode would."""
    return model.spec.head == "prototype" and not any(steps) and set(modes) <= set(PER_IMAGE) and not sampler.rotate


def still_shares(
    model: FewShotModel, weights: Weights, images: Episodes, sampler: EpisodeSampler, tasks: Iterable[int]
) -> list[float]:
    """The share of right queries of each of `tasks`, from class means of the support set alone."""
    drawn = [sampler.draw(0, task) for task in tasks]
    if not drawn:  # of more processes than tasks, some have none
        return []
    numbers = [_numbers(indices) for indices in drawn]
    every = np.unique(np.concatenate(numbers))
    with torch.no_grad():
        batches = (every[start : start + BATCH] for start in range(0, len(every), BATCH))
        dtype = next(iter(weights.values())).dtype
        features = torch.cat([
            body(model, weights, fast_layout(images.taken(batch, dtype))).features for batch in batches
        ])  # fmt: skip
        return [
            _share(model, weights, features[torch.from_numpy(np.searchsorted(every, wanted))], indices)
            for wanted, indices in zip(numbers, drawn)
        ]


def _numbers(indices: EpisodeIndices) -> np.ndarray:
    return np.concatenate([indices.support, indices.query.reshape(-1)])


def _share(model: FewShotModel, weights: Weights, features: torch.Tensor, indices: EpisodeIndices) -> float:
    """`features`: of the support images, then of the queries."""
    ways, queries = indices.query.shape
    support = len(indices.labels)
    targets = one_hot(torch.from_numpy(indices.labels).to(features.device), ways, features.dtype)
    rows = prototypes(model.spec, weights, features[:support], targets)
    answers = logits_of(model.spec, weights | rows, features[support:]).argmax(1)
    return float((answers.cpu() == torch.arange(ways).repeat_interleave(queries)).float().mean())
