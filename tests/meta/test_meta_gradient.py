"""Meta-gradients in float64 against the plain loop of reference.py: every method, mode and order in one network.

Every network is in tests/networks.
"""

import pytest
import reference
import torch

from gems_edge.data.shots import Shots
from gems_edge.data.tensors import Episode
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.fewshot import FewShotModel

WAYS, SHOTS, QUERIES = 3, 2, 4
WIDTHS = {"conv4": (8, 6, 8, 5), "resnet12": (4, 6, 8) * 4}


def episode(channels: int, size: int, seed: int) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(WAYS * (SHOTS + QUERIES), channels, size, size, generator=generator, dtype=torch.float64)
    images[:, :, : size // 4] = 0.25  # a flat area, as in line art: equal values under the pools
    support, query = images.split([WAYS * SHOTS, WAYS * QUERIES])
    labels = torch.arange(WAYS)
    return Episode(support, labels.repeat_interleave(SHOTS), query, labels.repeat_interleave(QUERIES))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("normalization", ["transductive", "support", "group"])
@pytest.mark.parametrize(
    "method,head", [("maml", "per-class"), ("maml", "shared"), ("anil", "shared"), ("boil", "per-class")]
)
def test_meta_gradient_equals_plain_loop(method, head, normalization, first_order):
    config = TrainConfig(
        backbone="conv4", widths=WIDTHS["conv4"], image_size=22, channels=3, method=method, head=head,
        normalization=normalization, ways=WAYS, shots=Shots.given(SHOTS), queries=QUERIES, steps=3, inner_lr=0.1,
        first_order=first_order,
    )  # fmt: skip
    torch.manual_seed(0)
    model = FewShotModel(config.model_spec()).double()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if "norm" in name or "bias" in name:
                weight += 0.3 * torch.randn_like(weight)
    task = episode(3, 22, seed=1)
    loss = meta_loss(model, weights, task, config, Descent(method, 0.1)).loss
    loss.backward()
    expected_loss, expected = reference.meta_gradient(
        make_backbone("conv4", 3), {n: w.detach() for n, w in weights.items()}, normalization, method, 0.1, 3,
        first_order, task.support_images, task.support_labels, task.query_images, task.query_labels, WAYS,
    )  # fmt: skip
    assert abs(loss.item() - expected_loss.item()) < 1e-10 * abs(expected_loss.item())
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        found = torch.zeros_like(gradient) if weights[name].grad is None else weights[name].grad
        assert (found - gradient).abs().max() <= 1e-9 * scale, name


def test_second_order_differs_from_first():
    """The comparison above can tell the two apart."""
    torch.manual_seed(0)
    gradients = []
    for first_order in (False, True):
        config = TrainConfig(
            widths=(8,) * 4,
            image_size=16,
            channels=1,
            ways=WAYS,
            shots=Shots.given(SHOTS),
            queries=QUERIES,
            steps=3,
            inner_lr=0.1,
            first_order=first_order,
        )
        torch.manual_seed(0)
        model = FewShotModel(config.model_spec()).double()
        loss = meta_loss(model, dict(model.named_parameters()), episode(1, 16, 2), config, Descent("maml", 0.1)).loss
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3 * gradients[0].abs().max()
