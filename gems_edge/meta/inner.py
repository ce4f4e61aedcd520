"""The inner step: meta-training differentiates through it, evaluation runs it, export traces it into adapt.onnx."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gems_edge.meta.rules import UpdateRule
from gems_edge.models.fewshot import FewShotModel, Weights, forward, initial_weights
from gems_edge.models.layers import Statistics


@dataclass(frozen=True)
class Support:
    """images [N, C, H, W] in 0…1 and one-hot targets [N, classes] of the same dtype."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class InnerStep:
    weights: Weights  # after the step
    loss: Tensor  # at the weights before the step, scalar
    statistics: Statistics  # of the support set under the weights before the step


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of −Σ target · log softmax(logits); one-hot targets keep the number of classes dynamic in ONNX."""
    return -(targets * F.log_softmax(logits, 1)).sum(1).mean()


def inner_step(
    model: FewShotModel, weights: Weights, support: Support, rule: UpdateRule, *, differentiable: bool = False
) -> InnerStep:
    """One gradient step on the support set: (weights, support, rule) → (weights, loss). Masked weights do not move.

    `differentiable` keeps the graph of the gradient, so that a meta-gradient through the new weights has its
    second-order terms; without it the gradient is a constant (first-order MAML).
    The adapted entries of `weights` must require grad.
    """
    logits, statistics = forward(model, weights, support.images)
    loss = cross_entropy(logits, support.targets)
    names = rule.adapted(weights)
    gradients = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=differentiable)
    moved = rule.update(weights, model.masked(dict(zip(names, gradients))))
    return InnerStep(moved, loss, statistics)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return F.one_hot(labels, classes).to(dtype)


def adapt(
    model: FewShotModel,
    weights: Weights,
    support: Support,
    rule: UpdateRule,
    steps: int,
    *,
    differentiable: bool = False,
) -> list[Weights]:
    """The weights before the first and after every one of `steps` inner steps, steps + 1 entries.

    Without `differentiable` every entry is detached from the ones before unless the meta-parameters require grad.
    """
    trajectory = [initial_weights(model, weights, support.targets.shape[1])]
    for _ in range(steps):
        trajectory.append(inner_step(model, trajectory[-1], support, rule, differentiable=differentiable).weights)
    return trajectory


def detached(weights: Weights) -> Weights:
    """Leaves for adaptation without a meta-gradient."""
    return {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}


def classify(model: FewShotModel, weights: Weights, images: Tensor, support: Support, normalization: str) -> Tensor:
    """Logits [N, classes] of query images in a named normalisation mode.

    transductive: statistics of the query batch itself (the papers' protocol). support: statistics of the support set
    under these weights, so one image at a time gives the same answer. group: each image by itself.
    """
    statistics = None
    if normalization == "support":
        statistics = forward(model, weights, support.images)[1]
    return forward(model, weights, images, statistics)[0]
