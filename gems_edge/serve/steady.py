"""Answers to the frames of one camera, steadied: a hand that moves through one frame changes no answer."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gems_edge.device.answers import Answer

_SECONDS = 0.4  # after which a frame counts 1/e of the newest
_LEAD = 0.2  # of the frames, by which another answer must be ahead of the one that is shown


@dataclass(frozen=True)
class Shown:
    """What a camera's answers come to. `shares` are of the classes and sum with `unknown` to 1."""

    classes: tuple[Hashable, ...]
    shares: np.ndarray  # float64 [classes]
    unknown: float
    guesses: np.ndarray  # float64 [classes], as if nothing were unknown
    votes: np.ndarray  # float64 [classes + 1]: the share of the frames that were answered so, the last unknown
    name: Hashable | None  # None: like nothing that was taught
    at: float  # when the newest frame was answered, seconds

    @property
    def guess(self) -> Hashable:
        return self.classes[int(self.guesses.argmax())]


def steadied(before: Shown | None, classes: Sequence[Hashable], answer: Answer, at: float) -> Shown:
    """What is shown after `answer`, at that time (seconds). `before`: None at first and after other classes."""
    known = answer.name is not None
    guesses = answer.shares.astype(np.float64)
    shares = guesses if known else np.zeros_like(guesses)
    votes = np.array([answer.name == name for name in (*classes, None)], np.float64)
    fresh = Shown(tuple(classes), shares, 0.0 if known else 1.0, guesses, votes, answer.name, at)
    if before is None or before.classes != fresh.classes:
        return fresh
    weight = 1 - math.exp(-max(at - before.at, 0.0) / _SECONDS)
    mixed = replace(
        fresh,
        shares=before.shares + weight * (fresh.shares - before.shares),
        unknown=before.unknown + weight * (fresh.unknown - before.unknown),
        guesses=before.guesses + weight * (fresh.guesses - before.guesses),
        votes=before.votes + weight * (fresh.votes - before.votes),
    )
    return replace(mixed, name=_name(mixed, before))


def _name(mixed: Shown, before: Shown) -> Hashable | None:
    """The answer to most frames; that which was shown before stays until another is well ahead of it. By frames and not
    by shares, of which the largest need not be far ahead however long it stays."""
    names = (*mixed.classes, None)
    best, held = int(mixed.votes.argmax()), names.index(before.name)
    return before.name if mixed.votes[best] < mixed.votes[held] + _LEAD else names[best]
