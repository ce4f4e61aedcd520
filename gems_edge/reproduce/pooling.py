"""The trainings of one row become one number, with what is known of its exactness."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Entry = Mapping[str, float]  # {accuracy, ci95, episodes} of one training


@dataclass(frozen=True)
class Pooled:
    """An accuracy over several trainings: mean, how well the episodes know it, how far the trainings lie apart."""

    accuracy: float
    ci95: float  # half-width over all episodes of all trainings; does not know that trainings differ
    episodes: int  # of all trainings together
    seeds_low: float  # the least and the greatest training's mean
    seeds_high: float

    as_dict = asdict


def pooled(trainings: Sequence[Entry]) -> Pooled:
    """The mean and 95 % half-width (1.96 standard errors) of all episodes of the trainings together.

    Exactly what one evaluation over the joined list of per-episode accuracies would give.
    """
    means = np.array([entry["accuracy"] for entry in trainings], float)
    counts = np.array([entry["episodes"] for entry in trainings], float)
    # Of single episodes: ci95 is 1.96 · deviation / √n.
    variances = np.array([entry["episodes"] * (entry["ci95"] / 1.96) ** 2 for entry in trainings])
    total = counts.sum()
    mean = float(counts @ means / total)
    squares = (counts - 1) @ variances + counts @ (means - mean) ** 2
    half = 1.96 * math.sqrt(squares / (total - 1) / total)
    return Pooled(mean, half, round(total), float(means.min()), float(means.max()))


@dataclass(frozen=True)
class Spread:
    """One number of several trainings."""

    mean: float
    low: float
    high: float

    as_dict = asdict


def spread(values: Iterable[float | None]) -> Spread | None:
    """None without values, and where one of them is not known."""
    values = list(values)
    known = [value for value in values if value is not None]
    return Spread(sum(known) / len(known), min(known), max(known)) if known and len(known) == len(values) else None


def times_less(pairs: Iterable[tuple[float | None, float | None]]) -> Spread | None:
    """How many times less the second costs than the first, over pairs of one seed each.

    The mean is the ratio of the sums (the mean of ratios would be larger); low and high are single seeds'. None without
    pairs, and where a cost is 0 or not known.
    """
    pairs = list(pairs)
    known = [(theirs, own) for theirs, own in pairs if theirs and own]
    if not known or len(known) < len(pairs):
        return None
    ratios = [theirs / own for theirs, own in known]
    return Spread(sum(theirs for theirs, _ in known) / sum(own for _, own in known), min(ratios), max(ratios))


@dataclass(frozen=True)
class Difference:
    """Accuracy of one row less another's, over the seeds that both have done."""

    mean: float
    half: float  # of the 95 % interval; infinite with one training
    low: float
    high: float
    trainings: int

    def as_dict(self) -> dict[str, Any]:
        half = self.half if math.isfinite(self.half) else None
        return {"points": self.mean, "ci95": half, "low": self.low, "high": self.high, "trainings": self.trainings}


def paired(pairs: Sequence[tuple[Entry, Entry]]) -> Difference | None:
    """First less second entry, in shares, over pairs of one seed each; None without pairs.

    The interval is the wider of two: that of the episodes, as if the two were tested on different ones, and Student's
    over the seeds' differences, which knows that trainings differ.
    """
    if not pairs:
        return None
    differences = np.array([own["accuracy"] - other["accuracy"] for own, other in pairs])
    low, high, count = float(differences.min()), float(differences.max()), len(differences)
    if count == 1:
        return Difference(low, math.inf, low, high, 1)
    episodes = math.hypot(*(pooled(side).ci95 for side in zip(*pairs)))
    trainings = student(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(float(differences.mean()), max(episodes, trainings), low, high, count)


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
