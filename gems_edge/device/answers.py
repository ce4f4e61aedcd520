"""What a learner answers: the class, whether it is one that was taught at all, and which others it may be."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from gems_edge.errors import UserError

NONE = "none"  # a class of this name, taught by owners with what is nothing of theirs, is never answered


@dataclass(frozen=True)
class Answer:
    """What one image is taken for. `name` is None where it is like nothing that was taught."""

    name: Hashable | None
    guess: Hashable  # the class that it is most like, of all but `none`
    shares: np.ndarray  # probabilities of all classes, in the learner's order, float32
    score: float  # how much it is like what was taught; comparable within one learner
    candidates: tuple[Hashable, ...] | None = None  # the smallest set that holds its class at the rate that was asked

    @property
    def known(self) -> bool:
        return self.name is not None


def answers_of(
    classes: Sequence[Hashable], logits: np.ndarray, coverage: float | None, accept_all: bool
) -> tuple[Answer, ...]:
    """Answers to images by their logits [N, classes]."""
    shares = softmax(logits)
    check_coverage(coverage)
    return tuple(_answer(classes, row, coverage, accept_all) for row in shares)


def check_coverage(coverage: float | None) -> float | None:
    """`coverage` itself; UserError unless it is between 0 and 1."""
    if coverage is not None and not 0 < coverage < 1:
        raise UserError(f"coverage is {coverage:g}; give a share between 0 and 1, such as 0.9")
    return coverage


def _answer(classes: Sequence[Hashable], shares: np.ndarray, coverage: float | None, accept_all: bool) -> Answer:
    order = [place for place in np.argsort(-shares, kind="stable") if classes[place] != NONE]
    guess, negative = classes[order[0]], classes[int(shares.argmax())] == NONE
    needed = 1 + int(np.searchsorted(np.cumsum(shares[order]), coverage)) if coverage else 0
    candidates = tuple(classes[place] for place in order[:needed]) if coverage else None
    return Answer(None if negative and not accept_all else guess, guess, shares, float(shares[order[0]]), candidates)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float32, of logits [N, classes]."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
