"""What the outer loop minimises, and how."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from gems_edge.data.tensors import Episode
from gems_edge.meta.inner import adapt, balanced, cross_entropy, one_hot, query_features, support_of
from gems_edge.meta.precision import autocast
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.tally import MetaTask
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import FewShotModel, Weights, head
from gems_edge.models.head import feature_distance
from gems_edge.models.tensor_names import ADAPTER


def meta_loss(
    model: FewShotModel,
    weights: Weights,
    episode: Episode,
    config: TrainConfig,
    rule: Rule,
    start: Weights | None = None,
) -> MetaTask:
    """Query loss and accuracy of one task after the inner loop, differentiable in `weights`.

    `start`: the weights that training started from, to whose features those of the queries are held
    (--keep-features); None: they are free.
    """
    support = support_of(episode, config.training_ways)
    trajectory = adapt(model, weights, support, rule, config.steps, differentiable=not config.first_order)
    queries, mode = episode.query_images, config.normalization
    features = query_features(model, trajectory.adapted, queries, support, mode, trajectory.statistics)
    logits = head(model, trajectory.adapted, features)
    targets = one_hot(episode.query_labels, config.training_ways, logits.dtype)
    loss = cross_entropy(logits, targets, balanced(targets))
    if start is not None:
        with torch.no_grad():
            wanted = query_features(model, start, queries, support, mode)
        loss = loss + config.keep_features * feature_distance(model.spec, features, wanted)
    return MetaTask(loss, (logits.argmax(1) == episode.query_labels).float().mean(), trajectory)


def meta_gradient(
    threads: TaskThreads,
    weights: Weights,
    episodes: Iterable[Episode],
    config: TrainConfig,
    rule: Rule,
    seen: Callable[[int, MetaTask], None] = lambda number, task: None,
    start: Weights | None = None,
) -> tuple[Weights, Weights]:
    """The gradient of the query losses' sum over `episodes`, divided by `config.meta_batch`, and the union of subnets.

    Of the weights that require grad: the others are constants. Of a rule with subnets each task moves its own alone;
    the second dictionary is 1 where some task moves a weight, else 0 (GEMS, equation 7). `seen` is called with the
    number of each task and what it did, in order. `start`: as of meta_loss.
    """

    learned = {name: weight for name, weight in weights.items() if weight.requires_grad}

    def of_task(model: FewShotModel, episode: Episode) -> tuple[MetaTask, tuple[Tensor | None, ...]]:
        with autocast(config.precision, episode.query_images.device):
            task = meta_loss(model, weights, episode, config, rule, start)
        loss = task.loss / config.meta_batch
        return task, torch.autograd.grad(loss, list(learned.values()), allow_unused=True)

    totals = {name: torch.zeros_like(weight) for name, weight in learned.items()}
    union: Weights = {}
    for number, (task, gradients) in enumerate(threads.map(of_task, episodes)):
        subnet = rule.subnet(task.trajectory.steps[-1].state) if task.trajectory.steps else {}
        for name, gradient in zip(learned, gradients):
            if gradient is not None:
                totals[name] += gradient * subnet[name] if name in subnet else gradient
        union = {name: torch.maximum(mask, union.get(name, mask)) for name, mask in subnet.items()}
        seen(number, task)
    return totals, union


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Constant, or half a cosine from `lr` to 1 % of it."""
    if config.schedule == "constant":
        return config.lr
    share = iteration / max(1, config.iterations)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def make_optimizer(weights: Weights, config: TrainConfig) -> torch.optim.Adam:
    """Adam over those weights of the network that require grad and, at a rate of its own, the update rule's φ."""
    network = [w for name, w in weights.items() if w.requires_grad and not name.startswith(ADAPTER)]
    adapter = [weight for name, weight in weights.items() if name.startswith(ADAPTER)]
    groups = [{"params": network, "share": 1.0}]
    if adapter:
        groups.append({"params": adapter, "share": (config.adapter.lr or config.lr) / config.lr})
    return torch.optim.Adam(groups, lr=config.lr)
