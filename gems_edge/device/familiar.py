"""How much an image is like what was taught: a score of its logits, and what scores photos of taught classes have.

An export chooses the score and measures its distribution on validation episodes, for numbers of photos and of classes
(export/unknown.py); the manifest holds both as "unknown". A prototype head's classes compete with the means of training
classes, which lie in unknown.safetensors as further rows of the head: what is nearer to them than photos of taught
classes are is foreign. Where steps move the features, they are compared with those of the photos that were taught.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gems_edge.device.manifest import Fields, trunk_of

UNKNOWN_FILE = "unknown.safetensors"  # head rows of training classes: weight [K, F], bias [K]
NONE = "none"  # a class of this name, taught by owners with what is nothing of theirs, is never answered
KEPT = 0.9  # the share of photos of taught classes that are answered
# Shares of photos with a lower score, of which a cell holds the scores.
LEVELS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
MOST_READ = 2048  # features, of which "distance" feeds unit rows: 16 MB
_MOST_CELLS = 64


@dataclass(frozen=True)
class Score:
    """A class's score is its logit less `weight` times the mean of the `nearest` largest logits of training classes.

    "energy": the logarithm of the sum of all classes' exponentials takes the place of the largest logit. "share": the
    logarithm of the class's probability. "distance": minus the squared distance of what the head reads of the image to
    the mean of that of the class's photos.
    """

    kind: str = "largest"  # of KINDS
    weight: float = 0.0
    nearest: int = 0


KINDS = ("largest", "energy", "share", "background", "distance")


@dataclass(frozen=True)
class Cell:
    """Scores of validation photos where each of `classes` was taught with `photos`, at LEVELS."""

    photos: int
    classes: int
    best: tuple[float, ...]  # of the class that is most like the photo, for photos of taught classes
    own: tuple[float, ...]  # of the photo's own class
    left_best: tuple[float, ...] = ()  # the same of the taught photos, each left out; of 2 photos of a class and more
    left_own: tuple[float, ...] = ()


@dataclass(frozen=True)
class Familiar:
    """A score and its distribution, over all pairs of some numbers of photos and of classes.

    `temperature`: of a cosine head that takes no steps, whose taught photos are asked, too (device/left_out.py).
    """

    score: Score
    cells: tuple[Cell, ...]
    temperature: float | None = None


def class_scores(score: Score, logits: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Scores [N, classes] of logits [N, classes] and of what a score needs beside them: for "background" the logits of
    training classes [N, K], for "distance" the squared distances [N, classes]; others read nothing of it.

    An image's score is that of its largest logit; but for "distance" that is a row's largest.
    """
    scores: np.ndarray = logits.astype(np.float64)
    if score.kind in ("energy", "share"):
        most = scores.max(axis=1, keepdims=True)
        summed = np.log(np.exp(scores - most).sum(axis=1, keepdims=True))
        scores = scores + summed if score.kind == "energy" else scores - most - summed
    elif score.kind == "background":
        nearest = np.sort(beside.astype(np.float64), axis=1)[:, ::-1][:, : score.nearest]
        scores = scores - score.weight * nearest.mean(axis=1, keepdims=True)
    elif score.kind == "distance":
        scores = -beside.astype(np.float64)
    return scores


def squared_distances(read: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Of what the head reads [N, F] to the means of classes [classes, F]: float64 [N, classes]."""
    apart: np.ndarray = np.stack([np.square(read.astype(np.float64) - mean).sum(axis=1) for mean in means], axis=1)
    return apart


def levels_of(scores: np.ndarray) -> tuple[float, ...]:
    """The scores at LEVELS of what was measured."""
    return tuple(float(value) for value in np.quantile(scores, LEVELS))


def share_below(scores: np.ndarray, at_levels: np.ndarray) -> np.ndarray:
    """The share of validation photos whose score was lower than each of `scores`, from 0 to 1."""
    rising = at_levels + 1e-12 * np.arange(len(at_levels))  # np.interp wants ascending places
    shares: np.ndarray = np.interp(scores, rising, LEVELS, left=0.0, right=1.0)
    return shares


def levels_at(familiar: Familiar, photos: float, classes: int, *names: str) -> list[np.ndarray]:
    """The cells' levels of these names for so many photos and classes: between those that were measured linear in the
    logarithms of both, and beyond them as at the nearest."""
    by = {(cell.photos, cell.classes): cell for cell in familiar.cells if getattr(cell, names[0])}
    photo_weights = _between(sorted({number for number, _ in by}), photos)
    class_weights = _between(sorted({ways for _, ways in by}), classes)
    found = []
    for name in names:
        levels = np.zeros(len(LEVELS))
        for number, first in photo_weights:
            for ways, second in class_weights:
                levels += first * second * np.array(getattr(by[number, ways], name))
        found.append(levels)
    return found


def _between(measured: Sequence[int], value: float) -> list[tuple[int, float]]:
    """The measured numbers around `value`, and how much each counts; the weights sum to 1."""
    value = min(max(value, measured[0]), measured[-1])
    above = next(place for place, number in enumerate(measured) if number >= value)
    if measured[above] == value:
        return [(measured[above], 1.0)]
    low, high = measured[above - 1], measured[above]
    part = math.log(value / low) / math.log(high / low)
    return [(low, 1 - part), (high, part)]


def familiar_of(fields: Fields) -> Familiar | None:
    """What a manifest says; None where it says nothing: of an older bundle, and of one that could not be measured."""
    if not fields.has("unknown"):
        return None
    kind = fields.text("unknown.score.kind", KINDS)
    if kind == "background":
        weight = fields.get("unknown.score.weight", int | float, "a number")
        score = Score(kind, float(weight), fields.integer("unknown.score.nearest"))
        if not fields.has_file(UNKNOWN_FILE) or not math.isfinite(score.weight):
            raise fields.error("unknown.score", f"one that fits {UNKNOWN_FILE}")
    elif kind == "distance" and fields.has("trunk"):  # whose features are kept of photos, not their pixels
        raise fields.error("unknown.score", "one of a bundle with a trunk")
    else:
        score = Score(kind)
    entries = fields.get("unknown.cells", list, "a list of measured scores")
    cells = [_cell(fields, entry) for entry in entries[: _MOST_CELLS + 1]]
    pairs = {(cell.photos, cell.classes) for cell in cells}
    whole = len({photos for photos, _ in pairs}) * len({classes for _, classes in pairs})
    if not 0 < len(cells) <= _MOST_CELLS or not len(pairs) == len(cells) == whole:
        raise fields.error("unknown.cells", "scores for every pair of some numbers of photos and of classes")
    return Familiar(score, tuple(cells), _temperature(fields, cells))


def _temperature(fields: Fields, cells: Sequence[Cell]) -> float | None:
    if not fields.has("unknown.temperature"):
        return None
    value = fields.get("unknown.temperature", int | float, "a number")
    several = [cell for cell in cells if cell.photos > 1]
    measured = bool(several) and [cell for cell in cells if cell.left_best] == several
    trunk = trunk_of(fields)
    if not 0 < value < 1e9 or not measured or trunk is None or len(trunk.features) != 1:
        raise fields.error("unknown.temperature", "above 0, of features before the head, with left_best and left_own")
    return float(value)


def _cell(fields: Fields, entry: Any) -> Cell:
    try:
        levels = (tuple(entry[name]) for name in ("best", "own"))
        left = (tuple(entry.get(name, ())) for name in ("left_best", "left_own"))
        cell = Cell(entry["photos"], entry["classes"], *levels, *left)
    except (TypeError, KeyError, AttributeError):
        raise fields.error("unknown.cells", "objects with photos, classes, best and own") from None
    counts = all(type(number) is int and 1 <= number <= 10_000 for number in (cell.photos, cell.classes))
    further = (cell.left_best, cell.left_own) if cell.left_best or cell.left_own else ()
    if not counts or not all(map(_rises, (cell.best, cell.own, *further))):
        raise fields.error("unknown.cells", f"objects with photos, classes, and {len(LEVELS)} rising scores twice")
    return cell


def _rises(values: tuple[Any, ...]) -> bool:
    numbers = len(values) == len(LEVELS) and all(type(v) in (int, float) and abs(v) < 1e9 for v in values)
    return numbers and list(values) == sorted(values)
