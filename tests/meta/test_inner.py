"""Invariants of the inner step and of the normalisation modes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.meta.evaluation.accuracy import mean_accuracy
from gems_edge.meta.inner import Support, adapt, balanced, classify, cross_entropy, detached, inner_step, one_hot
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel, initial_weights
from gems_edge.models.spec import ModelSpec, full_widths

DOUBLE = torch.float64


def small(normalization="support", head="shared", backbone="conv4"):
    torch.manual_seed(0)
    widths = tuple(width // 8 for width in full_widths((), backbone))
    return FewShotModel(ModelSpec(backbone, widths, 16, 1, normalization, head, 5)).double()


def support_set(classes, shots=2):
    labels = torch.arange(classes).repeat_interleave(shots)
    return Support(torch.rand(classes * shots, 1, 16, 16, dtype=torch.float64), one_hot(labels, classes, torch.float64))


@pytest.mark.parametrize(
    "method,head,moving",
    [("maml", "shared", {"backbone", "head"}), ("anil", "shared", {"head"}), ("boil", "per-class", {"backbone"})],
)
def test_a_rule_moves_its_part_alone(method, head, moving):
    model = small(head=head)
    rule = Descent(method, 0.5)
    before = detached(initial_weights(model, dict(model.named_parameters()), 5), rule)
    after = adapt(model, before, support_set(5), rule, 2).adapted
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == moving


def unequal(counts):
    """A support set with so many images of each class, and the same with every image as often as it takes for all
    classes to have as many."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images, targets = torch.rand(len(labels), 1, 16, 16, dtype=torch.float64), one_hot(labels, len(counts), DOUBLE)
    most = math.lcm(*counts)
    repeated = torch.arange(len(labels)).repeat_interleave(most // torch.tensor(counts)[labels])
    return Support(images, targets), Support(images[repeated], targets[repeated])


@pytest.mark.parametrize("counts", [(5, 1, 1), (3, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("normalization", ["support", "transductive", "group"])
@pytest.mark.parametrize("method", ["maml", "anil", "bmp"])
def test_every_class_counts_alike_however_many_images_it_has(method, normalization, counts):
    """Losses, statistics, weights, answers and second-order gradients are those of equal numbers."""
    torch.manual_seed(0)
    model = small(normalization, "shared")
    rule = rule_of(TrainConfig(method=method, inner_lr=0.5, widths=(8,) * 4))
    weights = dict(model.named_parameters())
    weights |= {name: tensor.double().requires_grad_() for name, tensor in rule.initial(weights, 8).items()}
    queries = torch.rand(4, 1, 16, 16, dtype=DOUBLE)
    found = []
    for support in unequal(counts):
        trajectory = adapt(model, weights, support, rule, 3, differentiable=True)
        logits = classify(model, trajectory.adapted, queries, support, normalization, trajectory.statistics)
        gradients = torch.autograd.grad(logits.logsumexp(1).sum(), list(weights.values()), allow_unused=True)
        last = trajectory.steps[-1]
        found.append([last.loss, *last.statistics.values(), *trajectory.adapted.values(), logits, *gradients])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_the_loss_is_the_mean_over_classes_of_their_images_mean():
    torch.manual_seed(0)
    labels, logits = torch.tensor([0, 0, 0, 1, 3, 3]), torch.randn(6, 4, dtype=DOUBLE)
    targets = one_hot(labels, 4, DOUBLE)
    of_class = [F.cross_entropy(logits[labels == each], labels[labels == each]) for each in (0, 1, 3)]
    assert torch.isclose(cross_entropy(logits, targets, balanced(targets)), sum(of_class) / 3, rtol=1e-12)
    equal, truth = one_hot(torch.arange(6) % 3, 3, DOUBLE), torch.arange(6) % 3
    loss = cross_entropy(logits[:, :3], equal, balanced(equal))
    assert torch.isclose(loss, F.cross_entropy(logits[:, :3], truth), rtol=1e-12)


@pytest.mark.parametrize("normalization", ["support", "group"])
def test_an_answer_does_not_depend_on_the_other_queries(normalization):
    model = small(normalization)
    weights, support, queries = (
        dict(model.named_parameters()),
        support_set(3),
        torch.rand(6, 1, 16, 16, dtype=torch.float64),
    )
    weights = initial_weights(model, weights, 3)
    together = classify(model, weights, queries, support, normalization)
    alone = torch.cat([classify(model, weights, query[None], support, normalization) for query in queries])
    assert torch.allclose(together, alone, rtol=1e-12, atol=1e-12)


def test_a_transductive_answer_does():
    model = small("transductive")
    weights, support, queries = (
        initial_weights(model, dict(model.named_parameters()), 3),
        support_set(3),
        torch.rand(6, 1, 16, 16, dtype=torch.float64),
    )
    together = classify(model, weights, queries, support, "transductive")
    assert not torch.allclose(together[:1], classify(model, weights, queries[:1], support, "transductive"))


@given(classes=st.integers(2, 9))
@settings(max_examples=8)
def test_a_shared_head_takes_any_number_of_classes(classes):
    model = small()
    rule = Descent("maml", 0.1)
    start = detached(dict(model.named_parameters()), rule)
    weights = adapt(model, start, support_set(classes), rule, 2).adapted
    assert weights["head.weight"].shape == (classes, model.spec.feature_size)


def test_the_loss_falls():
    model, support, rule = small(), support_set(4), Descent("maml", 0.05)
    weights, losses = detached(initial_weights(model, dict(model.named_parameters()), 4), rule), []
    for _ in range(6):
        step = inner_step(model, weights, support, rule)
        weights, losses = step.weights, [*losses, step.loss.item()]
    assert losses == sorted(losses, reverse=True) and losses[0] == pytest.approx(math.log(4))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_interval_is_1_96_standard_errors(values):
    result = mean_accuracy(values)
    assert result.accuracy == pytest.approx(np.mean(values))
    assert result.ci95 == pytest.approx(1.96 * np.std(values, ddof=1) / len(values) ** 0.5, abs=1e-12)


def test_conv4_has_the_macs_that_the_papers_totals_follow_from():
    """KDD'22: Conv-4-64 at 84×84 is 97 to 100 million MACs, ResNet-12 about 2.5 thousand million (notes, section 4)."""
    conv4 = ModelSpec("conv4", full_widths((), "conv4"), 84, 3, "transductive", "per-class", 5)
    resnet12 = ModelSpec("resnet12", full_widths((), "resnet12"), 84, 3, "transductive", "per-class", 5)
    assert 97e6 <= conv4.macs <= 100e6
    assert 2.4e9 <= resnet12.macs <= 2.6e9
