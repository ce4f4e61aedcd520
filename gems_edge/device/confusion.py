"""What photos are taken for when each is left out: cheap, by class means of what the trunk made of them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from gems_edge.device.album import Album, Photo
from gems_edge.device.photos import Kept
from gems_edge.device.representative import vector


@dataclass(frozen=True)
class LeaveOneOut:
    """Each photo of a class that has others, asked of the class means (cosine) of all photos but itself."""

    asked: int
    confused: tuple[tuple[Photo, Hashable], ...]  # photos, and what they were taken for

    @property
    def accuracy(self) -> float:
        return 1 - len(self.confused) / self.asked

    @property
    def ci95(self) -> float:
        """Half the width of Wilson's interval."""
        z2, n, p = 1.96**2, self.asked, self.accuracy
        return float(np.sqrt(z2 * (p * (1 - p) + z2 / (4 * n)) / n) / (1 + z2 / n))


def leave_one_out(album: Album, kept: Mapping[str, Kept]) -> LeaveOneOut | None:
    """None where no class has two photos."""
    vectors = np.stack([vector(kept[photo.picture].fed) for photo in album.photos])
    labels = np.array([album.classes.index(photo.label) for photo in album.photos])
    sums = np.stack([vectors[labels == place].sum(axis=0) for place in range(len(album.classes))])
    counts = np.bincount(labels)
    confused, asked = [], 0
    for photo, own, mine in zip(album.photos, vectors, labels):
        if counts[mine] < 2:
            continue
        others = sums.copy()
        others[mine] -= own
        cosines = others @ own / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
        guess, asked = int(cosines.argmax()), asked + 1
        if guess != mine:
            confused.append((photo, album.classes[guess]))
    return LeaveOneOut(asked, tuple(confused)) if asked else None
