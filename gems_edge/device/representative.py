"""Which photos of a class represent it best."""

from collections.abc import Collection

import numpy as np

_SIDE = 8


def vector(fed: np.ndarray) -> np.ndarray:
    """What one photo is compared by, float32, of length 1: features [F], the mean over places of features [c, h, w],
    and pixels [S, S, C] (no trunk: integers, or floats in 0…1) as means over 8 × 8 fields."""
    value = np.asarray(fed, np.float32)
    if fed.ndim == 3 and fed.dtype == np.float16:
        value = value.mean(axis=(1, 2))
    elif fed.ndim == 3:
        edges = [np.linspace(0, size, min(size, _SIDE) + 1).astype(int)[:-1] for size in fed.shape[:2]]
        value = np.add.reduceat(np.add.reduceat(value, edges[0], axis=0), edges[1], axis=1).ravel()
    length = float(np.linalg.norm(value))
    return value / np.float32(length) if length > 0 else value


def representatives(vectors: np.ndarray, most: int, fixed: Collection[int] = ()) -> list[int]:
    """`most` rows of `vectors` [N, D] whose mean is close to the mean of all, `fixed` ones among them, in order.

    Herding (Rebuffi et al. 2017, iCaRL, algorithm 4): one after the other the row that brings the mean of the chosen
    ones nearest to the class's. Of more fixed rows than `most` those that herding takes first.
    """
    mean, chosen = vectors.mean(axis=0), list(fixed) if len(fixed) <= most else []
    candidates = set(range(len(vectors)) if len(fixed) <= most else fixed) - set(chosen)
    while len(chosen) < most and candidates:
        total = vectors[chosen].sum(axis=0)
        rows = sorted(candidates)
        distances = np.linalg.norm(mean - (total + vectors[rows]) / (len(chosen) + 1), axis=1)
        nearest = rows[int(distances.argmin())]
        chosen.append(nearest)
        candidates.remove(nearest)
    return sorted(chosen)
