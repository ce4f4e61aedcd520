"""An accuracy over episodes with its interval (numpy only)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """Mean share of right queries over episodes, and the half-width of its 95 % interval (1.96 standard errors)."""

    accuracy: float
    ci95: float
    episodes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_accuracy(per_episode: Sequence[float]) -> Accuracy:
    shares = np.asarray(per_episode, float)
    deviation = shares.std(ddof=1) if len(shares) > 1 else math.nan
    return Accuracy(float(shares.mean()), float(1.96 * deviation / math.sqrt(len(shares))), len(shares))


def mean_over_distributions(accuracies: Sequence[Accuracy]) -> Accuracy:
    """Each distribution counts alike; the interval is that of their episodes alone. `episodes`: of each."""
    count = len(accuracies)
    mean = sum(each.accuracy for each in accuracies) / count
    return Accuracy(mean, math.hypot(*(each.ci95 for each in accuracies)) / count, accuracies[0].episodes)
