"""Every update rule of the registry does what it says of itself; a new one passes without a line of its own here."""

import subprocess
import sys

import pytest
import torch
from test_meta_gradient import QUERIES, SHOTS, WAYS, WIDTHS, episode

from gems_edge.data.shots import Shots
from gems_edge.data.tensors import Episode
from gems_edge.errors import UserError
from gems_edge.meta.inner import adapt, detached, support_of
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.registry import LAYERS, RULES, SHARES, owners_of, rule_of
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.base import from_table, settings_of, to_table
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import HEAD, FewShotModel, Weights
from gems_edge.models.tensor_names import ADAPTER

rules = pytest.mark.parametrize("name", RULES)


def config_of(name: str, **changes) -> TrainConfig:
    return TrainConfig(**{
        "widths": WIDTHS["conv4"], "image_size": 22, "channels": 3, "method": name, "head": "per-class", "ways": WAYS,
        "shots": Shots.given(SHOTS), "queries": QUERIES, "steps": 2, "inner_lr": 0.1,
    } | changes)  # fmt: skip


def start(config: TrainConfig) -> tuple[FewShotModel, Weights, Episode]:
    torch.manual_seed(0)
    model = FewShotModel(config.model_spec()).double()
    weights = dict(model.named_parameters())
    weights |= rule_of(config).initial(weights, model.spec.shape.feature_channels)
    return model, {n: w.detach().double().requires_grad_() for n, w in weights.items()}, episode(3, 22, seed=1)


def test_rules_are_known_without_torch():
    code = (
        "import sys; from gems_edge.meta.settings.run import TrainConfig; TrainConfig(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@rules
def test_a_step_moves_what_the_rule_says_and_nothing_else(name):
    config = config_of(name)
    rule, (model, weights, task) = rule_of(config), start(config)
    moving = set(rule.adapted(weights))
    assert any(n in HEAD for n in moving) == RULES[name].moves_head
    assert any(n not in HEAD for n in moving) == RULES[name].moves_body
    trajectory = adapt(model, detached(weights, rule), support_of(task, WAYS), rule, 1)
    before, after = trajectory.weights
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and changed <= moving and not any(n.startswith(ADAPTER) for n in moving)
    assert trajectory.steps[0].state.keys() >= set(rule.carried)


@rules
def test_what_a_rule_chooses_is_logged_and_has_meta_parameters(name):
    config = config_of(name)
    rule, (model, weights, task) = rule_of(config), start(config)
    trajectory = adapt(model, detached(weights, rule), support_of(task, WAYS), rule, 2)
    decisions = rule.decisions(weights)
    for step in trajectory.steps:
        assert {n: len(choice) for n, choice in step.choice.items()} == decisions
        assert not any(choice.requires_grad for choice in step.choice.values())
    chooses = RULES[name].chooses
    assert chooses in ("", LAYERS, SHARES)
    assert bool(chooses) == bool(decisions) == bool(rule.adapter) == any(n.startswith(ADAPTER) for n in weights)
    assert bool(rule.subnet(trajectory.steps[-1].state)) == (chooses == SHARES)


@rules
def test_what_a_rule_chooses_can_be_frozen(name):
    config = config_of(name)
    rule, (model, weights, task) = rule_of(config), start(config)
    steps = adapt(model, detached(weights, rule), support_of(task, WAYS), rule, 2).steps
    if not RULES[name].chooses:
        return
    choice = {n: torch.stack([step.choice[n] for step in steps])[None] for n in steps[0].choice}
    frozen = rule.frozen(weights, choice)
    assert (frozen.rule.name, frozen.rule.adapter) == (name, "frozen") and frozen.about["agreement"] == 1
    assert set(frozen.rule.adapted(weights)) <= set(rule.adapted(weights))


@rules
@pytest.mark.parametrize("first_order", [False, True])
def test_all_meta_parameters_have_a_gradient(name, first_order):
    config = config_of(name, first_order=first_order)
    model, weights, task = start(config)
    gradients = torch.autograd.grad(
        meta_loss(model, weights, task, config, rule_of(config)).loss, list(weights.values()), allow_unused=True
    )
    for weight, gradient in zip(weights, gradients):
        assert gradient is not None and gradient.isfinite().all(), weight


@rules
def test_settings_of_a_rule(name):
    facts, config = RULES[name], config_of(name)
    assert from_table(TrainConfig, to_table(config), "here") == config and config.rule is facts
    assert set(facts.settings) <= {item.name for item in settings_of(AdapterConfig)}
    assert all(name in owners_of(setting) for setting in facts.settings)
    if facts.needs_own_rows:
        with pytest.raises(UserError, match=f"{name} .*--head per-class"):
            config_of(name, head="shared")
    else:
        config_of(name, head="shared")


@rules
def test_a_rule_at_half_its_rates_steps_half_as_far(name):
    config = config_of(name, head_lr=0.3)
    rule, (model, weights, task) = rule_of(config), start(config)
    moves = []
    for tried in (rule, rule.scaled(0.5)):
        before, after = adapt(model, detached(weights, rule), support_of(task, WAYS), tried, 1).weights
        moves.append({n: after[n] - before[n] for n in rule.adapted(weights)})
    for tensor, move in moves[0].items():
        assert torch.allclose(moves[1][tensor], 0.5 * move, rtol=1e-9, atol=1e-15), tensor
