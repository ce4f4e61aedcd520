"""Accuracy over episodes, with its interval, in named normalisation modes."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.tensors import Episode, EpisodeTensors
from gems_edge.errors import UserError
from gems_edge.meta.inner import Support, Trajectory, adapt, classify, detached, one_hot
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import FewShotModel, Weights


@dataclass(frozen=True)
class Accuracy:
    """Mean over episodes of the share of right queries, and the half-width of its 95 % interval (1.96 standard errors)."""

    accuracy: float
    ci95: float
    episodes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_accuracy(per_episode: Sequence[float]) -> Accuracy:
    values = np.asarray(per_episode, float)
    deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    return Accuracy(float(values.mean()), float(1.96 * deviation / math.sqrt(len(values))), len(values))


def mean_over_distributions(accuracies: Sequence[Accuracy]) -> Accuracy:
    """Each distribution counts alike; the interval is that of their episodes alone. `episodes`: of each."""
    count = len(accuracies)
    return Accuracy(
        sum(one.accuracy for one in accuracies) / count, math.hypot(*(one.ci95 for one in accuracies)) / count,
        accuracies[0].episodes,
    )  # fmt: skip


def modes_for(trained: str) -> tuple[str, ...]:
    """The modes that a model can be evaluated in: a group-normalised one in its own, the others in both batch modes."""
    return ("group",) if trained == "group" else ("support", "transductive")


def check_mode(trained: str, wanted: str) -> str:
    if wanted not in modes_for(trained):
        raise UserError(
            f"a model trained with {trained} normalisation cannot be evaluated as {wanted!r}; it can as {', '.join(modes_for(trained))}"
        )
    return wanted


def support_of(episode: Episode, ways: int) -> Support:
    return Support(episode.support_images, one_hot(episode.support_labels, ways, episode.support_images.dtype))


def episode_accuracies(
    model: FewShotModel,
    weights: Weights,
    episode: Episode,
    ways: int,
    rule: Rule,
    steps: Iterable[int],
    modes: Iterable[str],
) -> tuple[Trajectory, dict[tuple[str, int], float]]:
    """The adaptation, and (mode, number of inner steps) → share of right queries. One adaptation serves all of them."""
    support, steps = support_of(episode, ways), sorted(steps)
    trajectory = adapt(model, detached(weights, rule), support, rule, steps[-1])
    result = {}
    with torch.no_grad():
        for count in steps:
            for mode in modes:
                reached = trajectory.weights[count]
                logits = classify(model, reached, episode.query_images, support, mode, trajectory.statistics)
                result[mode, count] = float((logits.argmax(1) == episode.query_labels).float().mean())
    return trajectory, result


def evaluate(
    threads: TaskThreads, weights: Weights, tensors: EpisodeTensors, sampler: EpisodeSampler, rule: Rule,
    *, steps: Iterable[int], modes: Iterable[str], tasks: Iterable[int], progress: Callable[[int], None] | None = None,
    seen: Callable[[Trajectory], None] | None = None,
) -> dict[tuple[str, int], list[float]]:  # fmt: skip
    """Accuracy of each of `tasks` (numbers of seeded episodes) by (mode, steps). `seen` is called with each adaptation.

    Tasks run on `threads`, around the model that these were made for.
    """
    results: dict[tuple[str, int], list[float]] = {}
    steps, modes = list(steps), list(modes)
    weights = {name: tensor.to(tensors.images.device) for name, tensor in weights.items()}
    dtype = next(iter(weights.values())).dtype

    def of_task(model: FewShotModel, episode: Episode) -> tuple[Trajectory, dict[tuple[str, int], float]]:
        return episode_accuracies(model, weights, episode, sampler.ways, rule, steps, modes)

    episodes = (tensors.episode(sampler.draw(0, task), dtype) for task in tasks)
    for done, (trajectory, found) in enumerate(threads.map(of_task, episodes), 1):
        if seen:
            seen(trajectory)
        for key, value in found.items():
            results.setdefault(key, []).append(value)
        if progress:
            progress(done)
    return results
