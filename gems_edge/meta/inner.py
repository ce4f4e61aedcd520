"""The inner step: meta-training differentiates through it, evaluation runs it, export traces it into adapt.onnx."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from gems_edge.data.tensors import Episode
from gems_edge.device.bundle import HEAD
from gems_edge.meta.rules.base import Rule, State
from gems_edge.models.fewshot import Body, FewShotModel, Weights, body, head, initial_weights
from gems_edge.models.head import prototypes
from gems_edge.models.normalization import Statistics
from gems_edge.models.tensor_names import TEMPERATURE


@dataclass(frozen=True)
class Support:
    """images [N, C, H, W] in 0…1 and one-hot targets [N, classes] of the same dtype."""

    images: Tensor
    targets: Tensor

    @cached_property
    def shares(self) -> Tensor:
        """How much each image counts in the loss and in the statistics."""
        return balanced(self.targets)


def support_of(episode: Episode, ways: int) -> Support:
    return Support(episode.support_images, one_hot(episode.support_labels, ways, episode.support_images.dtype))


@dataclass(frozen=True)
class InnerStep:
    weights: Weights  # after the step
    loss: Tensor  # at the weights before the step, scalar
    statistics: Statistics  # of the support set under the weights before the step
    state: State = field(default_factory=dict)  # the rule's, for the next step
    choice: dict[str, Tensor] = field(default_factory=dict)  # what the rule decided, see rules.Move


@dataclass(frozen=True)
class Trajectory:
    """An inner loop: `weights` before the first and after every step, and what each of the steps did."""

    weights: list[Weights]
    steps: list[InnerStep]
    statistics: Statistics | None = None  # of the support set under all of the weights, where the body did not move

    @property
    def adapted(self) -> Weights:
        return self.weights[-1]


def balanced(targets: Tensor) -> Tensor:
    """The share of each image where every class counts alike, however many images it has: [N], with the sum 1.

    From one-hot targets [N, classes], which keep ONNX's numbers of images and classes dynamic; a class without images
    counts for nothing.
    """
    of_own_class = (targets * targets.sum(0)).sum(1)
    shares = of_own_class.reciprocal()
    return shares / shares.sum()


def cross_entropy(logits: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """−Σ over images of share · target · log softmax(logits); shares as `balanced` gives them: the mean over the
    classes of the mean over their images."""
    return -(shares * (targets * F.log_softmax(logits, 1)).sum(1)).sum()


def inner_step(
    model: FewShotModel,
    weights: Weights,
    support: Support,
    rule: Rule,
    state: State | None = None,
    *,
    differentiable: bool = False,
    passed: Body | None = None,
    retain: bool = False,
) -> InnerStep:
    """One gradient step on the support set: (weights, support, rule) → (weights, loss). Masked weights do not move.

    `state`: what the rule handed on from the step before; `rule.begin` gives that of the first.

    `differentiable` keeps the graph of the gradient, so that a meta-gradient through the new weights has its
    second-order terms; without it the gradient is a constant (first-order MAML).
    `passed`: the support images through the body, if that was done before; `retain` keeps its graph, which rows of the
    head may depend on, for the meta-gradient. The adapted entries of `weights` must require grad.
    """
    features, statistics = passed or body(model, weights, support.images, shares=support.shares)
    loss = cross_entropy(head(model, weights, features), support.targets, support.shares)
    gradients = _gradients(loss, features, weights, rule.adapted(weights), differentiable, retain)
    mean_features = (support.shares[:, None] * features).sum(0)
    move = rule.update(weights, model.masked(gradients), mean_features, state or {})
    return InnerStep(move.weights, loss, statistics, move.state, move.choice)


def _gradients(
    loss: Tensor, features: Tensor, weights: Weights, names: Sequence[str], differentiable: bool, retain: bool
) -> Weights:
    """∂loss/∂weights by name. The body's go by way of `features`, so that they do not pass through rows made of it."""
    if not names:
        return {}
    rows, below = ([name for name in names if (name in HEAD) == of_head] for of_head in (True, False))
    ends = [weights[name] for name in rows] + ([features] if below else [])
    found = torch.autograd.grad(loss, ends, create_graph=differentiable)
    gradients = dict(zip(rows, found))
    if below:
        through = torch.autograd.grad(
            features, [weights[name] for name in below], found[-1],
            create_graph=differentiable, retain_graph=differentiable or retain,
        )  # fmt: skip
        gradients |= zip(below, through)
    return {name: gradients[name] for name in names}


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return F.one_hot(labels, classes).to(dtype)


def adapt(
    model: FewShotModel, weights: Weights, support: Support, rule: Rule, steps: int, *, differentiable: bool = False
) -> Trajectory:
    """`steps` inner steps from the meta-weights; the trajectory has one more entry of weights than steps.

    Without `differentiable` every entry is detached from the ones before unless the meta-parameters require grad.
    The support images go through the body once where no step moves it (ANIL's), and where a prototype head makes its
    rows of them, which is then the first step's pass too.
    """
    start, state = initial_weights(model, weights, support.targets.shape[1]), rule.begin(weights)
    still = not steps or not _moves_the_body(rule, weights)
    made = model.spec.head == "prototype"
    passed = body(model, weights, support.images, shares=support.shares) if still or made else None
    if passed is not None and made:
        start, passed = _with_prototypes(model, start, support, passed)
    reached, taken = [start], []
    for number in range(steps):
        step = inner_step(
            model, reached[-1], support, rule, state, differentiable=differentiable,
            passed=passed if still or number == 0 else None, retain=made and number == 0,
        )  # fmt: skip
        state = step.state
        reached.append(step.weights)
        taken.append(step)
    return Trajectory(reached, taken, passed.statistics if passed is not None and still else None)


def _with_prototypes(model: FewShotModel, weights: Weights, support: Support, passed: Body) -> tuple[Weights, Body]:
    """The weights with rows of the support set's features, and these features by another name.

    Without a meta-gradient (nothing but what a step moves requires grad then) the rows are constants.
    """
    tracked = weights[TEMPERATURE].requires_grad
    features = passed.features if tracked else passed.features.detach()
    rows = prototypes(model.spec, weights, features, support.targets)
    rows = {name: row if row.requires_grad else row.requires_grad_() for name, row in rows.items()}
    return weights | rows, passed._replace(features=passed.features.view_as(passed.features))


def _moves_the_body(rule: Rule, weights: Weights) -> bool:
    return any(name not in HEAD for name in rule.adapted(weights))


def detached(weights: Weights, rule: Rule) -> Weights:
    """Leaves for adaptation without a meta-gradient; what the rule does not move is constant then, as are its φ."""
    adapted = set(rule.adapted(weights))
    return {name: w.detach().requires_grad_(name in adapted) for name, w in weights.items()}


def classify(
    model: FewShotModel,
    weights: Weights,
    images: Tensor,
    support: Support,
    normalization: str,
    known: Statistics | None = None,
) -> Tensor:
    """Logits [N, classes] of query images, whose features are as of `query_features`."""
    return head(model, weights, query_features(model, weights, images, support, normalization, known))


def query_features(
    model: FewShotModel,
    weights: Weights,
    images: Tensor,
    support: Support,
    normalization: str,
    known: Statistics | None = None,
) -> Tensor:
    """Features [N, feature_size] of query images in a named normalisation mode.

    transductive: statistics of the query batch itself (the papers' protocol). support: statistics of the support set
    under these weights, so one image at a time gives the same answer (`known`: those of a Trajectory). group and
    frozen: each image by itself.
    """
    statistics = None
    if normalization == "support":
        statistics = known or body(model, weights, support.images, shares=support.shares).statistics
    return body(model, weights, images, statistics).features
