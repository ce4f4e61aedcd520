"""What photos are taken for when each is left out: cheap, by class means of what the trunk made of them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from gems_edge.device.album import Album, Photo
from gems_edge.device.photos import Kept
from gems_edge.device.representative import vector

_UNLIKE = 3  # so many photos of a class, those least like the others, may pull it away


@dataclass(frozen=True)
class Pull:
    """A photo without which more of the others would be right: so many more."""

    photo: Photo
    righted: int


@dataclass(frozen=True)
class LeaveOneOut:
    """Each photo of a class that has others, asked of the class means (cosine) of all photos but itself."""

    asked: int
    confused: tuple[tuple[Photo, Hashable], ...]  # photos, and what they were taken for
    pull: Pull | None = None  # the one photo whose loss would help most; None: that of no photo would

    @property
    def accuracy(self) -> float:
        return 1 - len(self.confused) / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.asked - len(self.confused), self.asked)


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) where nothing was asked."""
    if not asked:
        return 0.0, 1.0
    z2, share = 1.96**2, right / asked
    centre, half = share + z2 / (2 * asked), (z2 * (share * (1 - share) + z2 / (4 * asked)) / asked) ** 0.5
    low, high = (centre - half) / (1 + z2 / asked), (centre + half) / (1 + z2 / asked)
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # it holds the share, but for rounding


def leave_one_out(album: Album, kept: Mapping[str, Kept]) -> LeaveOneOut | None:
    """None where no class has two photos, and where there are fewer than two classes."""
    labels = np.array([album.classes.index(photo.label) for photo in album.photos], np.int64)
    counts = np.bincount(labels, minlength=1)
    if len(album.classes) < 2 or counts.max() < 2:
        return None
    vectors = np.stack([vector(kept[photo.picture].fed) for photo in album.photos])
    asked, cosines = counts[labels] > 1, _cosines(vectors, labels)
    guesses = cosines.argmax(axis=1)
    wrong = np.flatnonzero(asked & (guesses != labels))
    confused = tuple((album.photos[row], album.classes[guesses[row]]) for row in wrong)
    pull = _pull(vectors, labels, cosines, asked) if len(wrong) else None
    return LeaveOneOut(int(asked.sum()), confused, pull and Pull(album.photos[pull[0]], pull[1]))


def _cosines(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of photos [N, D], of length 1, to the mean of each class, of their own without themselves: [N, classes]."""
    sums = np.stack([vectors[labels == place].sum(axis=0) for place in range(labels.max() + 1)])
    cosines: np.ndarray = vectors @ _unit(sums).T
    cosines[np.arange(len(labels)), labels] = (vectors * _unit(sums[labels] - vectors)).sum(axis=1)
    return cosines


def _pull(vectors: np.ndarray, labels: np.ndarray, cosines: np.ndarray, asked: np.ndarray) -> tuple[int, int] | None:
    """The row of the photo without which most other photos are right that are wrong with it, and how many more."""
    right, own = cosines.argmax(axis=1) == labels, cosines[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(asked & ~right)
    best: tuple[int, int] | None = None
    for place in np.union1d(labels[wrong], cosines[wrong].argmax(axis=1)):  # no other class's mean may help
        rows = np.flatnonzero(labels == place)
        if len(rows) < 3:  # the others of the class are asked without it, too
            continue
        total, changed = vectors[rows].sum(axis=0), cosines.copy()
        for row in rows[own[rows].argsort(kind="stable")][:_UNLIKE]:
            rest = total - vectors[row]
            changed[:, place] = vectors @ _unit(rest)
            changed[rows, place] = (vectors[rows] * _unit(rest - vectors[rows])).sum(axis=1)
            others = asked & (np.arange(len(labels)) != row)
            gain = int((changed.argmax(axis=1) == labels)[others].sum() - right[others].sum())
            if gain > (best[1] if best else 0):
                best = int(row), gain
    return best


def _unit(values: np.ndarray) -> np.ndarray:
    """Scaled to length 1 along the last axis; zeros stay."""
    scaled: np.ndarray = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return scaled
