"""What every network is put through: a narrow one of each in the registry, and one of every layer that these lack."""

import torch

from gems_edge.data.tensors import Episode
from gems_edge.device.manifest import NORMALIZATIONS
from gems_edge.meta.rules.registry import RULES, rule_of
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.backbones.registry import BACKBONES, make_backbone
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.shapes import topology

# Not in the registry: tests/export/mixed_network.py.
MIXED = "mixed"
NETWORKS = (*BACKBONES, MIXED)
SIZE = 38  # of the images: odd sides on the way
LR = 0.02


def registered(patch) -> None:
    """The networks that are not in the registry, as if they were."""
    patch.setitem(BACKBONES, MIXED, "mixed_network")


def author_module(network: str, channels: int = 3, size: int = SIZE) -> torch.nn.Module:
    return make_backbone(network, channels, image_size=size)


def narrow(network: str, first: int = 8) -> tuple[int, ...]:
    """Widths in the network's own proportions, so narrow that the first is `first`."""
    dense = topology(network, 3, SIZE)
    widths = dense.dense.widths
    return tuple(max(1, first * width // widths[0]) for width in widths)


def settings(network: str, method: str, modes=NORMALIZATIONS, turn: int = 0, **changes) -> TrainConfig:
    """Of a rule; heads and modes take turns over networks, rules and `turn`."""
    turn += NETWORKS.index(network) + list(RULES).index(method)
    head = "per-class" if RULES[method].needs_own_rows or turn % 2 else "shared"
    return TrainConfig(
        backbone=network, widths=narrow(network), image_size=SIZE, channels=3, method=method, inner_lr=LR,
        head=head, normalization=modes[turn % len(modes)], **changes,
    )  # fmt: skip


def start(config: TrainConfig, dtype=torch.float32):
    """A model and weights at which no normalisation is plain, some turn values round, and masks and shares differ."""
    torch.manual_seed(0)
    model = FewShotModel(config.model_spec()).to(dtype)
    weights = model.tensors()
    rule = rule_of(config)
    weights = {n: w.detach() for n, w in (weights | rule.initial(weights, model.spec.shape.feature_channels)).items()}
    for name, weight in weights.items():
        if name.startswith("adapter."):
            weight += (0.4 if name.endswith("output.weight") else 0.0) * torch.randn_like(weight)
        elif name.endswith("running_var"):
            weight += torch.rand_like(weight) - 0.5
        elif weight.ndim == 1:
            weight += 0.3 * torch.randn_like(weight)
    if config.method == "bmp":
        weights["adapter.output.bias"][:-1] -= 0.9
        weights["adapter.output.bias"][:2] += torch.tensor([5.0, -5.0])
    return model, {name: weight.to(dtype) for name, weight in weights.items()}, rule


def episode(ways: int, shots: int, queries: int, seed: int) -> Episode:
    """Noise, a part of which is flat: equal values under the pools."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(ways * (shots + queries), 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    images[:, :, : SIZE // 4] = 0.25
    support, query = images.split([ways * shots, ways * queries])
    labels = torch.arange(ways)
    return Episode(support, labels.repeat_interleave(shots), query, labels.repeat_interleave(queries))
