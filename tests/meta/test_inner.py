"""Invariants of the inner step and of the normalisation modes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.meta.evaluation.accuracy import mean_accuracy
from gems_edge.meta.inner import Support, adapt, classify, detached, inner_step, one_hot
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import FewShotModel, initial_weights
from gems_edge.models.spec import ModelSpec, full_widths


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
