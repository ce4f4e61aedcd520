"""What a task's own photos say of its scores, each left out of its class in turn.

The classes that an owner teaches are easier or harder than those of validation, by which scores are ranked. A photo
that was taught, asked of what the others of its class teach, is one more photo of a taught class whose score is known:
so a rank counts those beside validation's, which weigh as much as VALIDATION photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gems_edge.device.familiar import Familiar, class_scores, levels_at, share_below

VALIDATION = 12  # photos; chosen on halves of validation classes (docs/unknown.md)


@dataclass(frozen=True)
class LeftOut:
    """Photos of classes that have others, by what those teach: logits [n, classes], those of training classes [n, K],
    and the places of the photos' classes [n]."""

    logits: np.ndarray
    beside: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class OwnRanks:
    """Where such photos stand among validation's, ascending, from 0 to 1: with the score of the class that each is most
    like, and with that of its own."""

    best: np.ndarray
    own: np.ndarray


NO_RANKS = OwnRanks(np.zeros(0), np.zeros(0))


def left_out(
    features: np.ndarray, labels: np.ndarray, rows: np.ndarray, training: np.ndarray, temperature: float
) -> LeftOut:
    """Of a cosine head: what it says of the photos' features [N, F] by its rows [classes, F] and those of training
    classes [K, F], with the row of the photo's own class made of the class's other photos, as long as it is."""
    unit = _unit(features.astype(np.float64))
    sums = np.stack([unit[labels == place].sum(axis=0) for place in range(len(rows))])
    asked = np.flatnonzero(np.bincount(labels, minlength=len(rows))[labels] > 1)
    unit, labels = unit[asked], labels[asked]
    others = _unit(sums[labels] - unit) * np.linalg.norm(rows, axis=1)[labels][:, None]
    logits = temperature * unit @ rows.T.astype(np.float64)
    logits[np.arange(len(labels)), labels] = temperature * (unit * others).sum(axis=1)
    beside = temperature * unit @ training.T.astype(np.float64)
    return LeftOut(logits.astype(np.float32), beside.astype(np.float32), labels)


def own_ranks(familiar: Familiar, photos: LeftOut, counts: Sequence[float], left: Sequence[bool]) -> OwnRanks:
    """`counts`: with how many photos each class was taught; photos of the classes in `left` are looked at."""
    scores = class_scores(familiar.score, photos.logits, photos.beside)
    best, own = [], []
    for place in np.unique(photos.own):
        if not left[place]:
            continue
        rows = photos.own == place
        of_best, of_own = levels_at(familiar, counts[place], len(counts), "left_best", "left_own")
        best.append(share_below(scores[rows].max(axis=1), of_best))
        own.append(share_below(scores[rows, place], of_own))
    return OwnRanks(np.sort(np.concatenate(best)), np.sort(np.concatenate(own))) if best else NO_RANKS


def counted_in(shares: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Shares of validation photos as those of validation's and the task's own together."""
    counted: np.ndarray = (VALIDATION * shares + np.searchsorted(ranks, shares)) / (VALIDATION + len(ranks))
    return counted


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
