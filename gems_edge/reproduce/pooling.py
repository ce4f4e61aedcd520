"""The trainings of one row become one number, with what is known of its exactness."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# {accuracy, ci95, episodes} of one training, and its "shares" of right queries of every episode where they are stored.
Entry = Mapping[str, Any]

# How often an interval may miss what it is of.
ALPHA = 0.05


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
class Noise:
    """How far the differences of two rows scatter (standard deviations, in shares)."""

    seeds: float  # of the trainings' mean differences
    episodes: float  # of the episodes' mean differences, over the trainings


@dataclass(frozen=True)
class Difference:
    """Accuracy of one row less another's, over the seeds that both have done."""

    mean: float
    half: float  # of the interval; infinite with one training
    low: float
    high: float
    trainings: int
    alpha: float = ALPHA  # how often the interval misses at most
    noise: Noise | None = None  # of which the interval is made, where single episodes are known

    def as_dict(self) -> dict[str, Any]:
        half = self.half if math.isfinite(self.half) else None
        interval = {"points": self.mean, "half": half, "level": 1 - self.alpha}
        return {**interval, "low": self.low, "high": self.high, "trainings": self.trainings}


def paired(pairs: Sequence[tuple[Entry, Entry]], alpha: float = ALPHA) -> Difference | None:
    """First less second entry, in shares, over pairs of one seed each; None without pairs.

    Where the entries hold their episodes, which are the same for all, the interval is that of `half_width`: it knows
    that trainings differ and that episodes do. Else it is the wider of two: that of the episodes, as if the two
    were tested on different ones, and Student's over the seeds' differences.
    """
    if not pairs:
        return None
    differences = np.array([own["accuracy"] - other["accuracy"] for own, other in pairs])
    low, high, count = float(differences.min()), float(differences.max()), len(differences)
    if count == 1:
        return Difference(low, math.inf, low, high, 1, alpha)
    mean = float(differences.mean())
    if (single := _by_episode(pairs)) is not None:
        noise = Noise(float(differences.std(ddof=1)), float(single.mean(axis=0).std(ddof=1)))
        return Difference(mean, half_width(noise, count, single.shape[1], alpha), low, high, count, alpha, noise)
    episodes = math.hypot(*(pooled(side).ci95 for side in zip(*pairs))) * _normal(alpha) / _normal(ALPHA)
    trainings = student(count - 1, alpha) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(mean, max(episodes, trainings), low, high, count, alpha)


def half_width(noise: Noise, seeds: int, episodes: int, alpha: float) -> float:
    """Half the width of the interval of a mean difference over `seeds` trainings on the same `episodes`.

    Seeds and episodes are crossed: the mean's variance is at most that of the seeds' means by their number plus that
    of the episodes' means by theirs (what a single pair of both varies by is counted twice, never left out). Degrees
    of freedom are Satterthwaite's; the interval is never narrower than Student's over the seeds alone.
    """
    of_seeds, of_episodes = noise.seeds**2 / seeds, noise.episodes**2 / episodes
    total = of_seeds + of_episodes
    if not total:
        return 0.0
    share = of_seeds / total
    freedom = 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / (episodes - 1))
    alone = student(seeds - 1, alpha) * math.sqrt(of_seeds)
    return max(alone, student(freedom, alpha) * math.sqrt(total))


def _by_episode(pairs: Sequence[tuple[Entry, Entry]]) -> np.ndarray | None:
    """(seeds, episodes) of differences; None where an entry lacks its episodes, or was tested on another number."""
    if not all("shares" in entry for pair in pairs for entry in pair):
        return None
    if len({len(entry["shares"]) for pair in pairs for entry in pair}) > 1 or len(pairs[0][0]["shares"]) < 2:
        return None
    return np.array([np.subtract(own["shares"], other["shares"]) for own, other in pairs])


def student(freedom: float, alpha: float = ALPHA) -> float:
    """What Student's t exceeds in size with the probability `alpha`."""
    from scipy.stats import t

    return float(t.ppf(1 - alpha / 2, freedom))


def _normal(alpha: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - alpha / 2))
