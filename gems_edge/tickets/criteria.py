"""Which weights stay: pure functions from scores or sizes to masks. Every one keeps an exact number of weights.

Names are those of the maskable weights in forward order, the head last (models/ticket.py).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gems_edge.errors import UserError
from gems_edge.models.ticket import Masks, maskable

HEAD_WEIGHT = "head.weight"
# Smart ratios keep at most this many times the overall share of the head, and at most half of all that stays, so that
# it cannot starve the body.
HEAD_EXCESS = 3.0

Scores = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def kept_count(size: int, ratio: float) -> int:
    """Weights that stay of `size` when the share `ratio` goes, to one weight."""
    return size - round(ratio * size)


def magnitudes(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """|w| of every maskable weight among a model's tensors: the scores of magnitude pruning."""
    names = maskable({name: tuple(tensor.shape) for name, tensor in weights.items()})
    return {name: weights[name].detach().abs().cpu().numpy() for name in names}


def largest(scores: Scores, ratio: float, scope: str = "global") -> Masks:
    """The weights of the largest scores; of equal ones the earlier stay.

    They are ranked over all layers (scope "global", KDD'22's choice) or inside each ("layer", the same share of every
    layer).
    """
    if scope == "layer":
        return largest_in_layers(scores, equal_counts({name: score.size for name, score in scores.items()}, ratio))
    flat = np.concatenate([score.reshape(-1) for score in scores.values()])
    kept = np.zeros(flat.size, bool)
    kept[np.argsort(-flat, kind="stable")[: kept_count(flat.size, ratio)]] = True
    return _split(kept, {name: score.shape for name, score in scores.items()})


def largest_in_layers(scores: Scores, counts: Mapping[str, int]) -> Masks:
    """The `counts[name]` largest scores of each layer."""
    return {name: largest_of(score, counts[name]) for name, score in scores.items()}


def largest_of(score: np.ndarray, count: int) -> np.ndarray:
    """The mask, in the score's shape, of its `count` largest entries."""
    kept = np.zeros(score.size, bool)
    kept[np.argsort(-score.reshape(-1), kind="stable")[:count]] = True
    return kept.reshape(score.shape)


def random_over_all(shapes: Shapes, ratio: float, random: np.random.Generator) -> Masks:
    """Weights drawn over all layers alike (the baseline RM)."""
    size = sum(map(math.prod, shapes.values()))
    kept = np.zeros(size, bool)
    kept[random.choice(size, kept_count(size, ratio), replace=False)] = True
    return _split(kept, shapes)


def random_in_layers(shapes: Shapes, counts: Mapping[str, int], random: np.random.Generator) -> Masks:
    """`counts[name]` weights of each layer, drawn at random (SR, and PMT behind its first layer)."""
    return {name: random_of(shape, counts[name], random) for name, shape in shapes.items()}


def random_like(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many weights as `mask` keeps, drawn at random (OMT and PM)."""
    return random_of(mask.shape, int(mask.sum()), random)


def random_of(shape: tuple[int, ...], count: int, random: np.random.Generator) -> np.ndarray:
    """A mask of this shape that keeps `count` weights, drawn at random."""
    size = math.prod(shape)
    kept = np.zeros(size, bool)
    kept[random.choice(size, count, replace=False)] = True
    return kept.reshape(shape)


def equal_counts(sizes: Mapping[str, int], ratio: float) -> dict[str, int]:
    """Weights that each layer keeps if every layer keeps the same share (layer-wise pruning)."""
    wanted = {name: (1 - ratio) * size for name, size in sizes.items()}
    return rounded(wanted, sizes, kept_count(sum(sizes.values()), ratio))


def smart_counts(sizes: Mapping[str, int], ratio: float, head_keep: float = 0.3) -> dict[str, int]:
    """Weights that each layer keeps at the smart ratio (Su et al. 2020; KDD'22, 4.3).

    Of L layers the l-th keeps a share proportional to (L − l + 1)² + (L − l + 1), scaled so that 1 − ratio of all
    weights stays. A layer cannot keep more than all of itself: the excess goes to the others in the same proportions,
    until none is left. The head keeps the share `head_keep`.
    """
    budget = kept_count(sum(sizes.values()), ratio)
    body = {name: size for name, size in sizes.items() if name != HEAD_WEIGHT}
    head = min(min(head_keep, HEAD_EXCESS * (1 - ratio)) * sizes.get(HEAD_WEIGHT, 0), budget / 2)
    head = max(head, budget - sum(body.values()))  # a body that is full leaves the rest to the head
    depth = len(body)
    factors = {name: (depth - n) ** 2 + (depth - n) for n, name in enumerate(body)}
    keep, free, left = dict.fromkeys(body, 0.0), set(body), budget - head
    while free:  # a round per set of layers that turn out to be full
        scale = left / sum(factors[name] * body[name] for name in free)
        full = {name for name in free if scale * factors[name] >= 1}
        for name in full or free:
            keep[name] = 1.0 if full else scale * factors[name]
        left -= sum(body[name] for name in full)
        free = free - full if full else set()
    wanted = {name: keep[name] * size for name, size in body.items()}
    if HEAD_WEIGHT in sizes:
        wanted[HEAD_WEIGHT] = head
    return rounded(wanted, sizes, budget)


def rounded(wanted: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers near `wanted`, none above its size, that sum to `total` (largest remainders)."""
    counts = {name: min(sizes[name], max(0, int(value))) for name, value in wanted.items()}
    order = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    while (missing := total - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        adjustable = [name for name in order if 0 <= counts[name] + step <= sizes[name]]
        for name in adjustable[: abs(missing)]:
            counts[name] += step
    return counts


def check_layers(masks: Masks, ratio: float, hint: str = "") -> Masks:
    """`masks` if every layer keeps a weight, else UserError (`hint`: what else helps)."""
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise UserError(f"--ratio {ratio:g} leaves {empty[0]} without weights; lower the ratio{hint}")
    return masks


def _split(kept: np.ndarray, shapes: Shapes) -> Masks:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(kept, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts)}
