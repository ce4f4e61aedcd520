"""What a learner answers: the class, whether it is one that was taught at all, and which others it may be."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gems_edge.device.familiar import KEPT, NONE, Familiar, class_scores, levels_at, share_below
from gems_edge.device.left_out import NO_RANKS, OwnRanks, counted_in
from gems_edge.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What one image is taken for. `name` is None where it is like nothing that was taught.

    `score`: the share of photos of taught classes that are less like their classes, from 0 to 1, as measured at export
    and on the photos that were taught, each left out; below 1 − KEPT an image is unknown. Of a bundle that was not
    measured it is the likeliest class's probability, no image is unknown, and candidates are the likeliest classes up
    to the probability that was asked for.
    """

    name: Hashable | None
    guess: Hashable  # the class that it is most like, of all but `none`
    shares: np.ndarray  # probabilities of all classes, in the learner's order, float32
    score: float
    candidates: tuple[Hashable, ...] | None = None  # likeliest first; (): at that rate it is none of the classes

    @property
    def known(self) -> bool:
        return self.name is not None


@dataclass(frozen=True)
class Question:
    """What is asked of logits."""

    classes: Sequence[Hashable]
    coverage: float | None = None
    accept_all: bool = False
    familiar: Familiar | None = None
    photos: Mapping[Hashable, float] = field(default_factory=dict)  # with which each class was taught
    ranks: OwnRanks = NO_RANKS  # of the photos that were taught


def answers_to(question: Question, logits: np.ndarray, beside: np.ndarray | None = None) -> tuple[Answer, ...]:
    """Answers to images by their logits [N, classes], and by what scores are made of beside them, where it is anything.

    Raises UserError for a coverage that is not between 0 and 1.
    """
    check_coverage(question.coverage)
    shares = softmax(logits)
    if question.familiar is None:
        return tuple(_by_shares(question, row) for row in shares)
    none = np.zeros((len(logits), 0), np.float32)
    scores = class_scores(question.familiar.score, logits, none if beside is None else beside)
    ranks = _Ranks(question.familiar, question)
    return tuple(_measured(question, ranks, *rows) for rows in zip(shares, scores))


def check_coverage(coverage: float | None) -> None:
    """UserError unless it is between 0 and 1."""
    if coverage is not None and not 0 < coverage < 1:
        raise UserError(f"coverage is {coverage:g}; give a share between 0 and 1, such as 0.9")


class _Ranks:
    """Where scores stand among those of validation photos, by class: each with its own number of photos; and among
    those of the photos that were taught."""

    def __init__(self, familiar: Familiar, question: Question):
        counts = [question.photos.get(name, 1.0) for name in question.classes]
        cells = {count: levels_at(familiar, count, len(counts), "best", "own") for count in set(counts)}
        self.cells, self.ranks = [cells[count] for count in counts], question.ranks

    def best(self, place: int, score: float) -> float:
        return self._counted(score, self.cells[place][0], self.ranks.best)

    def own(self, place: int, score: float) -> float:
        return self._counted(score, self.cells[place][1], self.ranks.own)

    def _counted(self, score: float, at_levels: np.ndarray, ranks: np.ndarray) -> float:
        return float(counted_in(share_below(np.array([score]), at_levels), ranks)[0])


def _answerable(question: Question, shares: np.ndarray) -> tuple[list[int], bool]:
    """The places of all classes but `none`, likeliest first, and whether that one is likelier than they are."""
    order = [int(place) for place in np.argsort(-shares, kind="stable")]
    return [place for place in order if question.classes[place] != NONE], question.classes[order[0]] == NONE


def _measured(question: Question, ranks: _Ranks, shares: np.ndarray, scores: np.ndarray) -> Answer:
    order, negative = _answerable(question, shares)
    guess = question.classes[order[0]]
    score = ranks.best(order[0], scores[order[0]])
    known = question.accept_all or not (negative or score < 1 - KEPT)
    candidates = None
    if question.coverage is not None:
        least = 1 - question.coverage
        candidates = tuple(question.classes[place] for place in order if ranks.own(place, scores[place]) >= least)
    return Answer(guess if known else None, guess, shares, score, candidates)


def _by_shares(question: Question, shares: np.ndarray) -> Answer:
    order, negative = _answerable(question, shares)
    guess, candidates = question.classes[order[0]], None
    if question.coverage is not None:
        needed = 1 + int(np.searchsorted(np.cumsum(shares[order]), question.coverage))
        candidates = tuple(question.classes[place] for place in order[:needed])
    known = question.accept_all or not negative
    return Answer(guess if known else None, guess, shares, float(shares[order[0]]), candidates)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float32, of logits [N, classes]."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
