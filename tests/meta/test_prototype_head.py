"""The head "prototype": its meta-gradients against the plain loops of the references, and what it promises."""

import statistics
from dataclasses import replace

import gems_reference
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
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
from gems_edge.models.head import logits_of, prototypes
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


def similarity(metric, queries, features, labels):
    """Of queries with plain class means [queries, classes]."""
    if metric == "cosine":
        features = torch.nn.functional.normalize(features)
    means = torch.stack([features[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
    if metric == "cosine":
        return torch.nn.functional.cosine_similarity(queries[:, None], means[None], dim=2)
    return -(torch.cdist(queries, means) ** 2)


@metrics
@methods
def test_without_steps_answers_are_distances_to_class_means(method, metric):
    config = settings(method, metric, steps=0, normalization="group")
    model, weights = start(config)
    task = episode(3, 22, seed=2)
    result = meta_loss(model, weights, task, config, rule_of(config))
    network = reference.Network(make_backbone("conv4", 3), weights, config.normalization, metric)
    features, seen = network.features(weights, task.support_images)
    queries = network.features(weights, task.query_images, seen)[0]
    near = similarity(metric, queries, features, task.support_labels)
    expected = torch.nn.functional.cross_entropy(weights[TEMPERATURE].exp() * near, task.query_labels)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert not result.trajectory.steps
    found, wanted = (torch.autograd.grad(loss, weights[TEMPERATURE])[0] for loss in (result.loss, expected))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)


@metrics
def test_rows_of_unequal_numbers_equal_plain_loop(metric):
    config = settings("maml", metric, steps=0, normalization="group")
    model, weights = start(config)
    task = uneven(episode(3, 22, seed=2), 2, 1, 2)
    loss = meta_loss(model, weights, task, config, rule_of(config)).loss
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("head.bias")}
    found = torch.autograd.grad(loss, list(body.values()), allow_unused=True)
    expected_loss, expected = reference.meta_gradient(
        make_backbone("conv4", 3), {n: w.detach() for n, w in weights.items()}, "group", "maml", 0.1, 0, False,
        task.support_images, task.support_labels, task.query_images, task.query_labels, WAYS, metric=metric,
    )  # fmt: skip
    assert abs(loss.item() - expected_loss.item()) < 1e-10 * abs(expected_loss.item())
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, own in zip(body, found, strict=True):
        assert (own - expected[name]).abs().max() <= 1e-9 * scale, name


@metrics
def test_a_class_of_more_photos_attracts_no_more(metric):
    """Queries of a third class, as far from both others: their scores of a class of 1 and of one of 20 photos."""
    model, weights = start(settings("maml", metric))
    spec, size = model.spec, model.spec.feature_size
    random, counts = torch.Generator().manual_seed(0), torch.tensor([1, 20])
    labels = torch.repeat_interleave(torch.arange(2), counts)
    centres = torch.eye(4, size, dtype=torch.float64)
    centres = centres[:3] + centres[3]
    gaps, plain = [], []
    for _ in range(1500):
        support, queries = (
            centres[index] + 0.5 * torch.randn(len(index), size, generator=random, dtype=torch.float64)
            for index in (labels, torch.full((10,), 2))
        )
        rows = prototypes(spec, weights, support, torch.nn.functional.one_hot(labels).double())
        scores = logits_of(spec, weights | rows, queries)
        gaps.append((scores[:, 1] - scores[:, 0]).mean().item())
        near = similarity(metric, queries, support, labels) * weights[TEMPERATURE].exp()
        plain.append((near[:, 1] - near[:, 0]).mean().item())
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    assert abs(statistics.mean(gaps)) < 4 * error and statistics.mean(plain) > 8 * error


@metrics
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_equal_numbers_change_nothing(metric, ways, shots, seed):
    model, weights = start(settings("maml", metric))
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(ways * shots, model.spec.feature_size, generator=random, dtype=torch.float64)
    targets = torch.eye(ways, dtype=torch.float64).repeat(shots, 1)
    rows = prototypes(model.spec, weights, features, targets)
    queries = torch.randn(7, model.spec.feature_size, generator=random, dtype=torch.float64)
    scores = logits_of(model.spec, weights | rows, queries)
    near = similarity(metric, queries, features, targets.argmax(1))
    expected = weights[TEMPERATURE].exp() * near
    torch.testing.assert_close(scores.log_softmax(1), expected.log_softmax(1), rtol=1e-9, atol=1e-9)


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
