"""The models and images that the tests of graphs share."""

import torch

from gems_edge.meta.inner import detached
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec, full_widths


def made(backbone, head, normalization, size, channels=3, divisor=4):
    torch.manual_seed(0)
    widths = tuple(width // divisor for width in full_widths((), backbone))
    model = FewShotModel(ModelSpec(backbone, widths, size, channels, normalization, head, 5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight += 0.2 * torch.randn_like(weight)
    return model, {name: weight.detach() for name, weight in model.named_parameters()}


def pictures(count, channels, size, flat=True):
    """Noise, with flat areas where values tie under the pools."""
    images = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(count))
    if flat:
        images[:, :, size // 3 :, : size // 2] = 0.0
    return images


def as_float64(weights):
    return detached({name: tensor.double() for name, tensor in weights.items()}, Descent("maml", 0.0))
