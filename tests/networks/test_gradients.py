"""Meta-gradients of every network by every rule, in float64, against the plain loops of tests/meta."""

import gems_reference
import pytest
import reference
import torch
from every_network import LR, NETWORKS, author_module, episode, settings, start

from gems_edge.data.shots import Shots
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.registry import RULES

WAYS, SHOTS, QUERIES, STEPS = 3, 2, 2, 2


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradient_equals_plain_loop(network, method, first_order):
    config = settings(
        network, method, turn=int(first_order), ways=WAYS, shots=Shots.given(SHOTS), queries=QUERIES, steps=STEPS,
        first_order=first_order,
    )  # fmt: skip
    model, weights, rule = start(config, torch.float64)
    task = episode(WAYS, SHOTS, QUERIES, seed=1)
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    result = meta_loss(model, leaves, task, config, rule)
    gradients = torch.autograd.grad(result.loss, list(leaves.values()), allow_unused=True)
    arguments = (
        author_module(network), weights, config.normalization, method, LR, STEPS, first_order,
        task.support_images, task.support_labels, task.query_images, task.query_labels, WAYS,
    )  # fmt: skip
    if RULES[method].chooses:
        loss, expected, chosen = gems_reference.meta_gradient(*arguments, model.spec.shape.feature_channels)
        assert_same_choices(result.trajectory.steps, chosen)
    else:
        loss, expected = reference.meta_gradient(*arguments)
    assert abs(result.loss.item() - loss.item()) < 1e-10 * abs(loss.item())
    own = {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), gradients, strict=True)}
    for names in ([n for n in own if not n.startswith("adapter.")], [n for n in own if n.startswith("adapter.")]):
        scale = max((expected[name].abs().max() for name in names), default=1.0)
        assert scale > 0
        for name in names:
            assert (own[name] - expected[name]).abs().max() <= 1e-9 * scale, name


def assert_same_choices(steps, chosen):
    for step, there in zip(steps, chosen, strict=True):
        if "mask" in step.choice:
            assert step.choice["mask"].int().tolist() == there
        else:
            assert step.choice["keep"].tolist() == pytest.approx(there, rel=1e-9)
    if "mask" in steps[0].choice:
        assert len(set(sum(chosen, []))) == 2, "a case in which all masks are alike proves little"
