"""Heads: what makes logits of features, and the rows that a task begins with.

Every head is linear in what it compares: logits = features · weightᵀ + bias, with a row per class, so that an inner
step moves its rows as it moves any weight. Heads differ in where a task's rows come from.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gems_edge.device.bundle import HEAD
from gems_edge.models.spec import ModelSpec
from gems_edge.models.tensor_names import TEMPERATURE

# What differences between classes are multiplied with before anything was learned.
START_TEMPERATURE = 10.0
_TINY = 1e-12


class LinearHead(nn.Module):
    """ "per-class": one learned row per way (the papers'); "shared": one learned row for all.

    The shared row is copied to each class before the inner loop moves the copies apart (UNICORN-MAML, Ye & Chao 2022),
    so one model serves any number of classes.
    """

    def __init__(self, features: int, rows: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, features))
        self.bias = nn.Parameter(torch.zeros(rows))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")


class PrototypeHead(nn.Module):
    """ "prototype": rows are made of a task's own support features (`prototypes`); learned is the temperature alone.

    It is stored as its logarithm: positive whatever the optimiser does, and a step of it is a share of it.
    """

    def __init__(self, features: int, metric: str):
        super().__init__()
        # A squared distance is a sum over the features: from their number on it starts as a mean.
        start = START_TEMPERATURE if metric == "cosine" else START_TEMPERATURE / features
        self.temperature = nn.Parameter(torch.tensor(math.log(start)))


def make_head(spec: ModelSpec) -> LinearHead | PrototypeHead:
    if spec.head == "prototype":
        return PrototypeHead(spec.feature_size, spec.metric)
    return LinearHead(spec.feature_size, 1 if spec.head == "shared" else spec.ways)


def logits_of(spec: ModelSpec, weights: dict[str, Tensor], features: Tensor) -> Tensor:
    """Features [N, feature_size] → logits [N, classes], with the rows of `weights`.

    Of a prototype head with metric "cosine" features have the length of the temperature.
    """
    if spec.head == "prototype" and spec.metric == "cosine":
        features = _unit(features) * weights[TEMPERATURE].exp()
    return F.linear(features, *(weights[name] for name in HEAD))


def prototypes(spec: ModelSpec, weights: dict[str, Tensor], features: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The rows that a task begins with (Proto-MAML, Triantafillou et al. 2020): weight [classes, feature_size], bias.

    `features` [N, feature_size] and one-hot `targets` [N, classes] of the support set, at least one image of each
    class. cosine: means of features of length 1, brought to length 1, biases 0. euclidean: means c and temperature τ
    as 2τc and −τ|c|², so that logits are −τ times the squared distance, but for what is alike for all classes.

    A mean of more photos is nearer to every query of its class, and of the others, too. What it is nearer on average is
    taken back, so that classes of unequal numbers of photos attract alike; equal numbers change nothing.
    """
    counts = targets.sum(0)
    if spec.metric == "cosine":
        means = targets.T @ _unit(features) / counts[:, None]
        return dict(zip(HEAD, (_unit(means) * _lengths(means, counts)[:, None], 0 * counts)))
    temperature, means = weights[TEMPERATURE].exp(), targets.T @ features / counts[:, None]
    apart = features - targets @ means
    variance = (apart * apart).sum() / _at_least_one((counts - 1).sum())
    return dict(zip(HEAD, (2 * temperature * means, temperature * (variance / counts - (means * means).sum(1)))))


def _lengths(means: Tensor, counts: Tensor) -> Tensor:
    """How long the means of so many vectors of length 1 are on average, as multiples of their own average [classes].

    A mean of n has the squared length ρ + (1 − ρ) / n on average, with ρ the cosine of two photos of a class: here of
    all pairs within a class.
    """
    pairs = (counts * (means * means).sum(1) - 1).sum() / _at_least_one((counts - 1).sum())
    cosine = F.relu(pairs)
    squares = cosine - (cosine - 1) / counts
    lengths = squares * torch.rsqrt(squares)
    return lengths / lengths.mean()


def _at_least_one(number: Tensor) -> Tensor:
    return F.relu(number - 1) + 1


def feature_distance(spec: ModelSpec, features: Tensor, wanted: Tensor) -> Tensor:
    """How far what a head reads of `features` [N, feature_size] is from what it reads of those that are `wanted`.

    The mean squared distance over the images: of a cosine head between directions, of others in units of the mean
    squared length of what is wanted. It differentiates in `features`.
    """
    if spec.head == "prototype" and spec.metric == "cosine":
        return (_unit(features) - _unit(wanted)).square().sum(1).mean()
    return (features - wanted).square().sum(1).mean() / wanted.square().sum(1).mean().clamp_min(_TINY)


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length 1; one of zeros stays so."""
    return vectors * torch.rsqrt((vectors * vectors).sum(1, keepdim=True) + _TINY)
