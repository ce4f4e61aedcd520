"""Meta-gradients of BMP and MMSUP in float64, θ and φ, against the plain loop of gems_reference.py."""

from dataclasses import replace

import gems_reference
import pytest
import torch
from test_meta_gradient import QUERIES, SHOTS, WAYS, WIDTHS, episode

from gems_edge.data.shots import Shots
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.fewshot import FewShotModel

LR, STEPS = 0.1, 3
PLAIN = AdapterConfig()


def settings(backbone, method, head="shared", normalization="support", first_order=False, adapter=PLAIN):
    return TrainConfig(
        backbone=backbone, widths=WIDTHS[backbone], image_size=22, channels=3, method=method, head=head,
        normalization=normalization, ways=WAYS, shots=Shots.given(SHOTS), queries=QUERIES, steps=STEPS, inner_lr=LR,
        first_order=first_order, adapter=adapter,
    )  # fmt: skip


def start(config, seed=0, disturbed=True):
    """A model and meta-weights at which masks are mixed and kept shares differ."""
    torch.manual_seed(seed)
    model = FewShotModel(config.model_spec()).double()
    weights = dict(model.named_parameters())
    weights |= rule_of(config).initial(weights, model.spec.shape.feature_channels)
    weights = {n: w.detach().double() for n, w in weights.items()}
    if disturbed:
        for name, weight in weights.items():
            if "norm" in name or name in ("head.bias", "adapter.hidden.bias"):
                weight += 0.3 * torch.randn_like(weight)
            if name == "adapter.output.weight":
                weight += 0.4 * torch.randn_like(weight)
        if config.method == "bmp":
            weights["adapter.output.bias"][: -1 if config.adapter.rate == "task" else None] -= 0.9
    return model, {n: w.requires_grad_() for n, w in weights.items()}


# As the defaults every network has them in tests/networks.
CASES = [
    ("bmp", "shared", "support", False, AdapterConfig(rate="layer")),
    ("bmp", "shared", "support", False, AdapterConfig(no_task_feature=True)),
    *(("mmsup", head, "support", False, AdapterConfig()) for head in ("shared", "per-class")),
]


@pytest.mark.parametrize("method,head,mode,first_order,adapter", CASES)
@pytest.mark.parametrize("backbone", ["conv4", "resnet12"])
def test_meta_gradient_equals_plain_loop(backbone, method, head, mode, first_order, adapter):
    config = settings(backbone, method, head, mode, first_order, adapter)
    model, weights = start(config)
    task = episode(3, 22, seed=1)
    result = meta_loss(model, weights, task, config, rule_of(config))
    found = torch.autograd.grad(result.loss, list(weights.values()), allow_unused=True)
    loss, expected, chosen = gems_reference.meta_gradient(
        make_backbone(backbone, 3), {n: w.detach() for n, w in weights.items()}, mode, method, LR, STEPS, first_order,
        task.support_images, task.support_labels, task.query_images, task.query_labels, WAYS,
        channels=model.spec.shape.feature_channels, per_layer=adapter.rate == "layer", task=not adapter.no_task_feature,
    )  # fmt: skip
    assert abs(result.loss.item() - loss.item()) < 1e-10 * abs(loss.item())
    for part in ("adapter.", "backbone.", "head."):
        scale = max(g.abs().max() for n, g in expected.items() if n.startswith(part))
        assert scale > 0, part
        for (name, gradient), own in zip(expected.items(), found, strict=True):
            if name.startswith(part):
                own = torch.zeros_like(gradient) if own is None else own
                assert (own - gradient).abs().max() <= 1e-8 * scale, name
    for step, there in zip(result.trajectory.steps, chosen):
        if method == "bmp":
            assert step.choice["mask"].int().tolist() == there
        else:
            assert step.choice["keep"].tolist() == pytest.approx(there, rel=1e-9)
    if method == "bmp":
        flat = sum(chosen, [])
        assert 0 < sum(flat) < len(flat), "a case in which all masks are alike proves little"


@pytest.mark.parametrize("backbone", ["conv4", "resnet12"])
def test_an_untrained_bmp_is_maml(backbone):
    config = settings(backbone, "bmp")
    model, weights = start(config, disturbed=False)
    task = episode(3, 22, seed=2)
    bmp = meta_loss(model, weights, task, config, rule_of(config)).loss
    network = {n: w for n, w in weights.items() if not n.startswith("adapter.")}
    maml = replace(config, method="maml", adapter=AdapterConfig())
    assert bmp.item() == pytest.approx(meta_loss(model, network, task, maml, rule_of(maml)).loss.item(), rel=1e-12)


def test_fixed_sparsity_moves_the_largest_weights_alone():
    config = settings("conv4", "mmsup", adapter=AdapterConfig(sparsity=(0.75, 0.0, 1.0, 0.5, 0.25)))
    model, weights = start(config)
    assert not any(name.startswith("adapter.") for name in weights)
    result = meta_loss(model, weights, episode(3, 22, seed=3), config, rule_of(config))
    keep = [0.25, 1, 0, 0.5, 0.75]
    before, after = result.trajectory.weights[0], result.trajectory.adapted
    subnet = rule_of(config).subnet(result.trajectory.steps[-1].state)
    for number, name in enumerate(name for name, weight in weights.items() if weight.ndim > 1):
        moved = before[name] != after[name]
        size = weights[name].numel()
        assert int(subnet[name].sum()) == gems_reference.count(keep[number], size)
        assert not moved[~subnet[name].bool().expand_as(moved)].any()
        if 0 < keep[number] < 1:
            inside = weights[name].detach().abs()[subnet[name].bool()].min()
            assert inside >= weights[name].detach().abs()[~subnet[name].bool()].max()
    assert moved.any()
