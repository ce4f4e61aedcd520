"""Accuracy of weights over episodes, in named normalisation modes and after several numbers of inner steps."""

from collections.abc import Callable, Iterable

import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.tensors import Episode, Episodes
from gems_edge.errors import UserError
from gems_edge.meta.evaluation.still import stands_still, still_shares
from gems_edge.meta.inner import Trajectory, adapt, classify, detached, support_of
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.spec import PER_IMAGE
from gems_edge.progress import Count

# Share of right queries by (normalisation mode, inner steps): of one episode, or of every one.
Shares = dict[tuple[str, int], float]
AllShares = dict[tuple[str, int], list[float]]


def modes_for(trained: str) -> tuple[str, ...]:
    """The modes to evaluate a model in: one without batch statistics in its own, the others in both batch modes."""
    return (trained,) if trained in PER_IMAGE else ("support", "transductive")


def check_mode(trained: str, wanted: str) -> str:
    if wanted not in modes_for(trained):
        raise UserError(
            f"a model trained with {trained} normalisation cannot be evaluated as {wanted!r}; "
            f"it can as {', '.join(modes_for(trained))}"
        )
    return wanted


def episode_accuracies(
    model: FewShotModel,
    weights: Weights,
    episode: Episode,
    ways: int,
    rule: Rule,
    steps: Iterable[int],
    modes: Iterable[str],
) -> tuple[Trajectory, Shares]:
    """The adaptation to one episode, and the share of right queries of each mode after each number of inner steps.

    One adaptation serves all of them.
    """
    support, counts = support_of(episode, ways), sorted(steps)
    trajectory = adapt(model, detached(weights, rule), support, rule, counts[-1])
    shares = {}
    with torch.no_grad():
        for count in counts:
            for mode in modes:
                reached = trajectory.weights[count]
                logits = classify(model, reached, episode.query_images, support, mode, trajectory.statistics)
                shares[mode, count] = float((logits.argmax(1) == episode.query_labels).float().mean())
    return trajectory, shares


def evaluate(
    threads: TaskThreads,
    weights: Weights,
    tensors: Episodes,
    sampler: EpisodeSampler,
    rule: Rule,
    *,
    steps: Iterable[int],
    modes: Iterable[str],
    tasks: Iterable[int],
    progress: Count | None = None,
    seen: Callable[[Trajectory], None] | None = None,
) -> AllShares:
    """Share of right queries of each of `tasks` (numbers of seeded episodes) by (mode, steps).

    Tasks run on `threads`, around the model that these were made for. `seen` is called with each adaptation.
    """
    counts, modes = list(steps), list(modes)
    on_device = {name: tensor.to(tensors.device) for name, tensor in weights.items()}
    dtype = next(iter(on_device.values())).dtype

    if stands_still(threads.model, sampler, counts, modes) and not rule.decisions(weights):
        still = still_shares(threads.model, on_device, tensors, sampler, tasks)
        if progress and still:
            progress(len(still))
        return {(mode, count): still for mode in modes for count in counts}

    def of_task(model: FewShotModel, episode: Episode) -> tuple[Trajectory, Shares]:
        return episode_accuracies(model, on_device, episode, sampler.ways, rule, counts, modes)

    results: AllShares = {}
    episodes = (tensors.episode(sampler.draw(0, task), dtype) for task in tasks)
    for done, (trajectory, shares) in enumerate(threads.map(of_task, episodes), 1):
        if seen:
            seen(trajectory)
        for key, share in shares.items():
            results.setdefault(key, []).append(share)
        if progress:
            progress(done)
    return results
