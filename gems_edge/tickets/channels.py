"""Removing whole channels until a share of the backbone's weights is gone.

torch-pruning gives the dependency graph (which channels of which tensors go together) and the group importance. Its own
`pruning_ratio` is a share of channels; here the ratio is a share of weights, so the widths are searched for.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gems_edge.errors import UserError
from gems_edge.meta.rules.adapter import without_channels
from gems_edge.models.fewshot import FewShotModel, Weights, network_weights
from gems_edge.models.layers import Normalization
from gems_edge.models.spec import ModelSpec

# A layer keeps at least this share of its channels, and this many: fewer carry nothing worth a board's time.
LEAST_SHARE, LEAST_CHANNELS = 1 / 16, 4
TOLERANCE = 0.02
# How far a layer's share of kept channels may lie from the uniform share: importance decides within this band.
BAND = 1.25


@dataclass(frozen=True)
class Pruned:
    spec: ModelSpec
    weights: Weights
    reached: float  # share of the backbone's convolution weights that is gone
    round_to: int  # what the widths are multiples of
    kept: tuple[np.ndarray, ...]  # bool [channels] per width: which channels of the dense network stay


class _TracedNorm(nn.BatchNorm2d):
    """Stands in for Normalization, so that the dependency graph sees a layer it knows."""

    def forward(  # type: ignore[override]  # called as Normalization is
        self, conv: nn.Module, x: Tensor, _statistics: object, halve: bool = False
    ) -> Tensor:
        y = super().forward(conv(x))
        return F.max_pool2d(y, 2) if halve else y


def check_ratio(spec: ModelSpec, ratio: float) -> None:
    """UserError for a ratio outside 0 ≤ ratio < 1 or one that leaves layers with too few channels."""
    if not 0 <= ratio < 1:
        raise UserError(f"--ratio {ratio:g}: give the share of weights to remove, 0 (none) up to below 1")
    smallest = replace(spec, widths=tuple(map(_least, spec.widths)))
    largest = 1 - smallest.backbone_weights / spec.backbone_weights
    if ratio > largest:
        allowed = int(largest * 1000) / 1000
        raise UserError(f"--ratio {ratio:g} leaves too few channels in a layer; this network allows up to {allowed:g}")


def prune(model: FewShotModel, weights: Weights, ratio: float, round_to: int = 16) -> Pruned:
    """Remove `ratio` of the backbone's weights as whole channels, the least important of each layer first.

    Importance of a channel: L2 norm over every weight tied to it (its filter, its normalisation, the slices of the
    layers that read it). Widths are multiples of `round_to`, or of 8, 4, 2, 1 if that misses the ratio by more than 2
    points.
    """
    spec = model.spec
    check_ratio(spec, ratio)
    if ratio == 0:
        return Pruned(spec, dict(weights), 0.0, 1, tuple(np.ones(width, bool) for width in spec.widths))
    importances = channel_importances(model, weights)
    widths, step = channel_widths(spec, importances, ratio, round_to)
    kept = kept_channels(importances, widths)
    compact, sliced = remove_channels(model, weights, kept)
    reached = 1 - compact.backbone_weights / spec.backbone_weights
    return Pruned(compact, sliced, reached, step, kept)


def channel_widths(
    spec: ModelSpec, importances: Sequence[Tensor], ratio: float, round_to: int
) -> tuple[tuple[int, ...], int]:
    """Widths without `ratio` of the weights, and what they are multiples of.

    That is `round_to`, or 8, 4, 2, 1 if it misses the ratio by more than 2 points. UserError if every one of them does.
    """
    steps = [round_to, *(step for step in (8, 4, 2, 1) if step < round_to)]
    for step in steps:
        widths = search_widths(spec, importances, ratio, step)
        reached = 1 - replace(spec, widths=widths).backbone_weights / spec.backbone_weights
        if abs(reached - ratio) <= TOLERANCE:
            return widths, step
    raise UserError(
        f"--ratio {ratio:g} cannot be met within 2 points on {spec.backbone} {list(spec.widths)}; "
        f"the nearest is {reached:.3f}"
    )


def kept_channels(importances: Sequence[Tensor], widths: Sequence[int]) -> tuple[np.ndarray, ...]:
    """bool [channels] per width: the most important ones."""
    kept = []
    for importance, width in zip(importances, widths):
        mask = np.zeros(len(importance), bool)
        mask[importance.argsort(descending=True, stable=True)[:width].numpy()] = True
        kept.append(mask)
    return tuple(kept)


def channel_importances(model: FewShotModel, weights: Weights) -> list[Tensor]:
    """Importance [channels] per width: L2 norm over every weight tied to the channel, of mean 1 in each layer."""
    import torch_pruning

    twin = _twin(model, weights)
    graph = _dependencies(twin, model.spec)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean")
    importances = []
    for layer in _width_layers(twin):
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, list(range(layer.out_channels)))
        importances.append(importance(group).detach().cpu())
    return importances


def remove_channels(model: FewShotModel, weights: Weights, kept: Sequence[np.ndarray]) -> tuple[ModelSpec, Weights]:
    """The network of the kept channels alone, and its slice of `weights`.

    `weights` are any tensors of the model's names and shapes. φ of an update rule no longer sees the features that are
    gone.
    """
    import torch_pruning

    twin = _twin(model, weights)
    graph = _dependencies(twin, model.spec)
    for layer, mask in zip(_width_layers(twin), kept):
        if not mask.all():
            group = graph.get_pruning_group(
                layer, torch_pruning.prune_conv_out_channels, np.flatnonzero(~mask).tolist()
            )
            group.prune()
    compact = replace(model.spec, widths=tuple(int(mask.sum()) for mask in kept))
    state = twin.state_dict()
    sliced = {name: state[name].detach().clone() for name, _ in FewShotModel(compact).named_parameters()}
    return compact, sliced | without_channels(weights, torch.from_numpy(kept[-1]))


def search_widths(spec: ModelSpec, importances: Sequence[Tensor], ratio: float, step: int) -> tuple[int, ...]:
    """Widths, multiples of `step`, that keep 1 − ratio of the weights and much importance in few MACs.

    A local search from uniform widths, whose moves change one or two layers by one step. What counts first is how far
    the kept share of weights lies outside ±1 point of the wanted one; then the mean over layers of the kept importance,
    less the kept share of MACs: of two networks with as many weights, a board wants the one that is done sooner.
    """
    keep, full, full_macs = 1 - ratio, spec.widths, spec.macs
    uniform = _uniform_share(spec, keep)
    kept = [
        torch.cat([torch.zeros(1), imp.sort(descending=True).values.cumsum(0) / imp.sum()]).tolist()
        for imp in importances
    ]
    low = [max(min(step, w), _least(w), _multiple(w * uniform / BAND, step, w)) for w in full]
    high = [max(least, _multiple(w * uniform * BAND, step, w)) for least, w in zip(low, full)]

    def cost(widths: tuple[int, ...]) -> tuple[float, float]:
        compact = replace(spec, widths=widths)
        share = compact.backbone_weights / spec.backbone_weights
        importance = sum(curve[width] for curve, width in zip(kept, widths)) / len(widths)
        return max(0.0, abs(share - keep) - TOLERANCE / 2), compact.macs / full_macs - importance

    best = tuple(min(max(_multiple(w * uniform, step, w), least), most) for w, least, most in zip(full, low, high))
    moves = _moves(len(full), step)
    while True:
        neighbours = [_moved(best, move) for move in moves]
        neighbours = [w for w in neighbours if all(least <= x <= most for least, x, most in zip(low, w, high))]
        candidate = min(neighbours, key=cost, default=best)
        if cost(candidate) >= cost(best):
            return best
        best = candidate


def _least(width: int) -> int:
    return min(width, max(LEAST_CHANNELS, int(width * LEAST_SHARE)))


# (layer, change of its width) for one or two layers.
_Move = tuple[tuple[int, int], ...]


def _moves(layers: int, step: int) -> list[_Move]:
    single = [(layer, change) for layer in range(layers) for change in (-step, step)]
    moves: list[_Move] = [(change,) for change in single]
    return moves + [pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0]]


def _moved(widths: tuple[int, ...], move: _Move) -> tuple[int, ...]:
    changed = list(widths)
    for layer, change in move:
        changed[layer] += change
    return tuple(changed)


def _multiple(width: float, step: int, most: int) -> int:
    return min(most, max(step, round(width / step) * step))


def _uniform_share(spec: ModelSpec, keep: float) -> float:
    """The share of channels in every layer that keeps the share `keep` of the weights (bisection)."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        layers = spec.convolutions()
        weights = sum(w.weights * middle * (1 if n == 0 else middle) for n, w in enumerate(layers))
        low, high = (middle, high) if weights < keep * spec.backbone_weights else (low, middle)
    return (low + high) / 2


def _twin(model: FewShotModel, weights: Weights) -> FewShotModel:
    """The model out of layers that torch-pruning knows, under the same names."""
    twin = copy.deepcopy(model).cpu()
    twin.load_state_dict(network_weights(weights))
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Normalization):
                norm = _TracedNorm(child.weight.numel())
                norm.load_state_dict(norm.state_dict() | child.state_dict())
                setattr(parent, name, norm)
    head = nn.Linear(model.spec.feature_size, model.head.weight.shape[0])
    head.load_state_dict(twin.head.state_dict())
    twin.head = head  # type: ignore[assignment]  # for torch-pruning, which does not know Head
    return twin.eval()


def _dependencies(twin: FewShotModel, spec: ModelSpec) -> Any:
    """torch-pruning's graph of which channels of which tensors go together."""
    import torch_pruning

    example = torch.rand(2, spec.channels, spec.image_size, spec.image_size)
    return torch_pruning.DependencyGraph().build_dependency(
        twin, example, forward_fn=lambda module, images: module.head(module.backbone(images, None)), verbose=False
    )


def _width_layers(twin: FewShotModel) -> list[nn.Conv2d]:
    """The 3×3 convolutions in forward order: one per entry of ModelSpec.widths."""
    return [
        module for module in twin.backbone.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
