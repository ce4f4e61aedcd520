"""Removing whole channels until a share of the backbone's weights is gone.

Which channels of which tensors go together: models/channel_groups.py. The ratio is a share of weights, as in the
papers, not one of channels, so the widths are searched for.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gems_edge.errors import UserError
from gems_edge.meta.rules.adapter import without_channels
from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.fewshot import FewShotModel, Weights, network_weights
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
    reached: float  # share of the backbone's weights that is gone
    round_to: int  # what the widths are multiples of
    kept: tuple[np.ndarray, ...]  # bool [channels] per width: which channels of the dense network stay


def check_ratio(spec: ModelSpec, ratio: float) -> None:
    """UserError for a ratio outside 0 ≤ ratio < 1 or one that leaves layers with too few channels."""
    if not 0 <= ratio < 1:
        raise UserError(f"--ratio {ratio:g}: give the share of weights to remove, 0 (none) up to below 1")
    smallest = tuple(_least(width) for width in spec.widths)
    largest = 1 - spec.topology.shape(smallest).weights / spec.backbone_weights
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
    """Importance [channels] per width: the sum of squares of every weight tied to the channel, of mean 1 in each.

    The mean over the tensors of a group: filters, what reads them, and normalisations' scales (torch-pruning's
    GroupMagnitudeImportance, which leaves depthwise filters out).
    """
    spec = model.spec
    sums = [torch.zeros(width) for width in spec.widths]
    tensors = [0] * len(sums)
    for name, number, axis in spec.topology.weight_axes:
        if name not in weights:  # the rows of a prototype head
            continue
        weight = weights[name].detach().cpu()
        squares = weight.square().movedim(number, 0).reshape(weight.shape[number], -1).sum(1)
        at = 0
        for segment in axis:
            if segment.group is None:
                at += segment.size
                continue
            width = spec.widths[segment.group] * segment.times
            sums[segment.group] += squares[at : at + width].view(-1, segment.times).sum(1)
            tensors[segment.group] += 1
            at += width
    means = [total / count for total, count in zip(sums, tensors)]
    return [mean / mean.mean() for mean in means]


def remove_channels(model: FewShotModel, weights: Weights, kept: Sequence[np.ndarray]) -> tuple[ModelSpec, Weights]:
    """The network of the kept channels alone, and its slice of `weights`.

    `weights` are any tensors of the model's names and shapes. φ of an update rule no longer sees the features that are
    gone.
    """
    spec = model.spec
    compact = replace(spec, widths=tuple(int(mask.sum()) for mask in kept))
    sliced = {name: tensor.detach().cpu().clone() for name, tensor in network_weights(weights).items()}
    for name, number, axis in spec.topology.tensor_axes:
        if name not in sliced:  # the rows of a prototype head; statistics, which only mode "frozen" has
            continue
        entries = torch.from_numpy(np.flatnonzero(kept_entries(axis, kept)))
        sliced[name] = sliced[name].index_select(number, entries)
    features = kept_entries(spec.topology.features, kept)
    channels = features[:: spec.feature_size // spec.shape.feature_channels]
    return compact, sliced | without_channels(spec.learning(weights), torch.from_numpy(channels))


def search_widths(spec: ModelSpec, importances: Sequence[Tensor], ratio: float, step: int) -> tuple[int, ...]:
    """Widths, multiples of `step`, that keep 1 − ratio of the weights and much importance in few MACs.

    A local search from uniform widths, whose moves change one or two layers by one step. What counts first is how far
    the kept share of weights lies outside ±1 point of the wanted one; then the mean over layers of the kept importance,
    less the kept share of MACs: of two networks with as many weights, a board wants the one that is done sooner. Of a
    pretrained body (mode "frozen") importance alone counts: MACs lie in its narrow lower layers, and what these see a
    user's photos cannot teach again (docs/pretrained.md has what both cost).
    """
    keep, full, topology = 1 - ratio, np.array(spec.widths), spec.topology
    counted = float(spec.normalization != "frozen")
    uniform = _uniform_share(spec, keep)
    curves = np.zeros((len(full), full.max() + 1))  # kept importance of each layer by width
    for curve, importance in zip(curves, importances):
        curve[1 : len(importance) + 1] = importance.sort(descending=True).values.cumsum(0) / importance.sum()
    low = [max(min(step, w), _least(w), _multiple(w * uniform / BAND, step, w)) for w in spec.widths]
    high = [max(least, _multiple(w * uniform * BAND, step, w)) for least, w in zip(low, spec.widths)]
    start = [min(max(_multiple(w * uniform, step, w), a), b) for w, a, b in zip(spec.widths, low, high)]

    def costs(widths: np.ndarray) -> list[tuple[float, float]]:
        amounts = topology.amounts(widths)
        share = amounts.weights / spec.backbone_weights
        importance = curves[np.arange(len(full)), widths].mean(1)
        outside = np.maximum(0.0, np.abs(share - keep) - TOLERANCE / 2)
        macs = (amounts.macs + amounts.features * spec.ways) / spec.macs
        return list(zip(outside.tolist(), (counted * macs - importance).tolist()))

    best, moves = np.array(start), _moves(len(full), step)
    least = costs(best[None])[0]
    while True:
        neighbours = best + moves
        neighbours = neighbours[((neighbours >= low) & (neighbours <= high)).all(1)]
        if not len(neighbours):
            return tuple(best.tolist())
        values = costs(neighbours)
        nearest = min(range(len(values)), key=values.__getitem__)
        if values[nearest] >= least:
            return tuple(best.tolist())
        best, least = neighbours[nearest], values[nearest]


def _least(width: int) -> int:
    return min(width, max(LEAST_CHANNELS, int(width * LEAST_SHARE)))


def _moves(layers: int, step: int) -> np.ndarray:
    """Changes of widths [moves, layers]: of one layer by one step, then of two."""
    single = [(layer, change) for layer in range(layers) for change in (-step, step)]
    pairs = [pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0]]
    moves = np.zeros((len(single) + len(pairs), layers), int)
    for row, changes in zip(moves, [*((change,) for change in single), *pairs]):
        for layer, change in changes:
            row[layer] = change
    return moves


def _multiple(width: float, step: int, most: int) -> int:
    return min(most, max(step, round(width / step) * step))


def _uniform_share(spec: ModelSpec, keep: float) -> float:
    """The share of channels in every layer that keeps the share `keep` of the weights (bisection)."""
    low, high, full = 0.0, 1.0, np.array(spec.widths)
    for _ in range(30):
        middle = (low + high) / 2
        weights = spec.topology.amounts((full * middle)[None]).weights[0]
        low, high = (middle, high) if weights < keep * spec.backbone_weights else (low, middle)
    return (low + high) / 2
