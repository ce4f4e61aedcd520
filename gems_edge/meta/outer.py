"""What the outer loop minimises, and how."""

import math

import torch

from gems_edge.data.tensors import Episode
from gems_edge.meta.config import TrainConfig
from gems_edge.meta.evaluate import support_of
from gems_edge.meta.inner import adapt, classify, cross_entropy, one_hot
from gems_edge.meta.rules import Rule
from gems_edge.meta.tally import MetaTask
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.spec import ADAPTER


def meta_loss(model: FewShotModel, weights: Weights, episode: Episode, config: TrainConfig, rule: Rule) -> MetaTask:
    """Query loss and accuracy of one task after the inner loop, differentiable in `weights`."""
    support = support_of(episode, config.ways)
    trajectory = adapt(model, weights, support, rule, config.steps, differentiable=not config.first_order)
    logits = classify(model, trajectory.adapted, episode.query_images, support, config.normalization)
    loss = cross_entropy(logits, one_hot(episode.query_labels, config.ways, logits.dtype))
    return MetaTask(loss, (logits.argmax(1) == episode.query_labels).float().mean(), trajectory)


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Constant, or half a cosine from `lr` to 1 % of it."""
    if config.schedule == "constant":
        return config.lr
    share = iteration / max(1, config.iterations)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def make_optimizer(weights: Weights, config: TrainConfig) -> torch.optim.Adam:
    """Adam over the network and, at a rate of its own, the update rule's φ."""
    network = [weight for name, weight in weights.items() if not name.startswith(ADAPTER)]
    adapter = [weight for name, weight in weights.items() if name.startswith(ADAPTER)]
    groups = [{"params": network, "share": 1.0}]
    if adapter:
        groups.append({"params": adapter, "share": (config.adapter.lr or config.lr) / config.lr})
    return torch.optim.Adam(groups, lr=config.lr)
