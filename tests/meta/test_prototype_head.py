"""The head "prototype": its meta-gradients against the plain loops of the references, and what it promises."""

from dataclasses import replace

import gems_reference
import pytest
import reference
import torch
from test_meta_gradient import QUERIES, SHOTS, WAYS, WIDTHS, episode

from gems_edge.data.shots import Shots
from gems_edge.data.tensors import Episode
from gems_edge.errors import UserError
from gems_edge.meta.evaluation.episodes import episode_accuracies
from gems_edge.meta.inner import adapt, detached, support_of
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.registry import RULES, rule_of
from gems_edge.meta.run import seeded_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.fewshot import HEAD, FewShotModel, Weights, layers_of
from gems_edge.models.spec import METRICS
from gems_edge.models.tensor_names import ADAPTER, TEMPERATURE

METHODS = [name for name, facts in RULES.items() if not facts.one_model_each]
metrics = pytest.mark.parametrize("metric", METRICS)
methods = pytest.mark.parametrize("method", METHODS)


def settings(method: str, metric: str = "cosine", **changes) -> TrainConfig:
    return TrainConfig(**{
        "backbone": "conv4", "widths": WIDTHS["conv4"], "image_size": 22, "channels": 3, "method": method,
        "head": "prototype", "metric": metric, "ways": WAYS, "shots": Shots.given(SHOTS),
        "queries": QUERIES, "steps": 3,
        "inner_lr": 0.1, "head_lr": 0.3,
    } | changes)  # fmt: skip


def start(config: TrainConfig) -> tuple[FewShotModel, Weights]:
    """A model in float64 and meta-weights at which masks are mixed."""
    torch.manual_seed(0)
    model = FewShotModel(config.model_spec()).double()
    weights = {name: weight.detach().double() for name, weight in seeded_weights(config).items()}
    weights[TEMPERATURE] += 0.1
    for name, weight in weights.items():
        if "norm" in name or name == "adapter.hidden.bias":
            weight += 0.3 * torch.randn_like(weight)
        elif name == "adapter.output.weight":
            weight += 0.4 * torch.randn_like(weight)
    if config.method == "bmp":
        weights["adapter.output.bias"][:-1] -= 0.9
    return model, {name: weight.requires_grad_() for name, weight in weights.items()}


def uneven(task: Episode, *shots: int) -> Episode:
    """So many images of each class, in an order that is not by class."""
    taken = torch.cat([torch.where(task.support_labels == label)[0][:count] for label, count in enumerate(shots)])
    taken = taken[torch.randperm(len(taken), generator=torch.Generator().manual_seed(0))]
    return replace(task, support_images=task.support_images[taken], support_labels=task.support_labels[taken])


@pytest.mark.parametrize("first_order", [False, True])
@metrics
@methods
def test_meta_gradient_equals_plain_loop(method, metric, first_order):
    config = settings(method, metric, first_order=first_order)
    model, weights = start(config)
    task = episode(3, 22, seed=1)
    loss = meta_loss(model, weights, task, config, rule_of(config)).loss
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    arguments = (
        make_backbone("conv4", 3), {n: w.detach() for n, w in weights.items()}, config.normalization, method, 0.1, 3,
        first_order, task.support_images, task.support_labels, task.query_images, task.query_labels, WAYS,
    )  # fmt: skip
    if RULES[method].chooses:
        channels = model.spec.shape.feature_channels
        expected_loss, expected, _ = gems_reference.meta_gradient(*arguments, channels, metric=metric, head_lr=0.3)
    else:
        expected_loss, expected = reference.meta_gradient(*arguments, metric=metric, head_lr=0.3)
    assert abs(loss.item() - expected_loss.item()) < 1e-10 * abs(expected_loss.item())
    for part in ("backbone.", TEMPERATURE, ADAPTER):
        named = [name for name in weights if name.startswith(part)]
        scale = max((expected[name].abs().max() for name in named), default=1.0)
        assert scale > 0, part
        for name, own in zip(weights, found, strict=True):
            if name in named:
                own = torch.zeros_like(expected[name]) if own is None else own
                assert (own - expected[name]).abs().max() <= 1e-9 * scale, name


@metrics
@methods
def test_without_steps_answers_are_distances_to_class_means(method, metric):
    config = settings(method, metric, steps=0, normalization="group")
    model, weights = start(config)
    task = uneven(episode(3, 22, seed=2), 2, 1, 2)
    result = meta_loss(model, weights, task, config, rule_of(config))
    network = reference.Network(make_backbone("conv4", 3), weights, config.normalization, metric)
    features, statistics = network.features(weights, task.support_images)
    queries = network.features(weights, task.query_images, statistics)[0]
    means = torch.stack([features[task.support_labels == label].mean(0) for label in range(WAYS)])
    if metric == "cosine":
        unit = features / features.norm(dim=1, keepdim=True)
        means = torch.stack([unit[task.support_labels == label].mean(0) for label in range(WAYS)])
        near = torch.nn.functional.cosine_similarity(queries[:, None], means[None], dim=2)
    else:
        near = -(torch.cdist(queries, means) ** 2)
    expected = torch.nn.functional.cross_entropy(weights[TEMPERATURE].exp() * near, task.query_labels)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert not result.trajectory.steps
    found, wanted = (torch.autograd.grad(loss, weights[TEMPERATURE])[0] for loss in (result.loss, expected))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)


@methods
def test_a_step_moves_rows_but_never_the_temperature(method):
    config = settings(method)
    rule, (model, weights) = rule_of(config), start(config)
    if method == "bmp":  # which chooses its layers
        weights = with_head_mask(weights, on=True)
    before, *_, after = adapt(model, detached(weights, rule), support_of(episode(3, 22, 3), WAYS), rule, 2).weights
    assert torch.equal(before[TEMPERATURE], after[TEMPERATURE])
    assert all(torch.equal(before[name], after[name]) != RULES[method].moves_head for name in HEAD)
    assert set(rule.adapted(weights)) == set(rule.adapted(before)) and TEMPERATURE not in rule.adapted(before)
    assert list(layers_of(weights)) == list(layers_of(before)) and list(layers_of(before))[-1] == "head"
    assert not before["head.weight"].grad_fn


def with_head_mask(weights: Weights, on: bool) -> Weights:
    """Weights at which BMP adapts the head always or never."""
    bias = weights["adapter.output.bias"].detach().clone()
    bias[list(layers_of(weights)).index("head")] = 100.0 if on else -100.0
    return weights | {"adapter.output.bias": bias.requires_grad_()}


@pytest.mark.parametrize("on", [True, False])
def test_bmp_moves_rows_where_it_chooses_the_head(on):
    config = settings("bmp")
    rule, (model, weights) = rule_of(config), start(config)
    learned = detached(with_head_mask(weights, on), rule)
    before, *_, after = adapt(model, learned, support_of(episode(3, 22, 3), WAYS), rule, 2).weights
    assert all(torch.equal(before[name], after[name]) != on for name in HEAD)


def test_rates_of_head_and_body_are_their_own():
    moved = {}
    for head_lr in (0.0, 0.2):
        config = settings("maml", head_lr=head_lr)
        rule, (model, weights) = rule_of(config), start(config)
        before, after = adapt(model, detached(weights, rule), support_of(episode(3, 22, 3), WAYS), rule, 1).weights
        moved[head_lr] = {name: after[name] - before[name] for name in rule.adapted(weights)}
    for name, there in moved[0.2].items():
        assert torch.allclose(there, (2 if name in HEAD else 1) * moved[0.0][name]), name


def test_frozen_choices_keep_the_rate_of_the_head():
    for method in ("bmp", "mmsup"):
        config = settings(method, steps=2)
        rule, (model, weights) = rule_of(config), start(config)
        steps = adapt(model, detached(weights, rule), support_of(episode(3, 22, 3), WAYS), rule, 2).steps
        choice = {name: torch.stack([step.choice[name] for step in steps])[None] for name in steps[0].choice}
        frozen = rule.frozen(weights, choice)
        if method == "mmsup":
            assert frozen.rule.rates == ((*[0.1] * 4, 0.3),)
            continue
        before = adapt(model, detached(weights, rule), support_of(episode(3, 22, 3), WAYS), rule, 1).weights
        after = adapt(
            model, detached(weights, frozen.rule), support_of(episode(3, 22, 3), WAYS), frozen.rule, 1
        ).weights
        assert all(torch.allclose(before[1][name], after[1][name]) for name in before[1])


def test_any_number_of_classes_and_every_number_of_steps():
    config = settings("maml")
    rule, (model, weights) = rule_of(config), start(config)
    for ways in (2, WAYS, 7):
        labels = torch.arange(ways)
        images = torch.rand(ways, 3, 22, 22, dtype=torch.float64)
        task = Episode(images, labels, images, labels)
        _, shares = episode_accuracies(model, weights, task, ways, rule, range(3), ["support"])
        assert shares["support", 0] == 1.0  # each photo is its own class's mean


def test_no_steps_are_for_prototypes_alone():
    for head in ("shared", "per-class"):
        with pytest.raises(UserError, match=f"--steps 0: a {head} head .*--head prototype"):
            settings("maml", head=head, steps=0)
    assert settings("maml", steps=0).steps == 0
    assert settings("boil").head == "prototype"
