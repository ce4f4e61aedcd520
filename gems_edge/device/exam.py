"""How good a taught bundle is on this board: on the owner's photos, each left out once, in time and in memory.

An exam runs in a process of its own, which is what its memory is measured of, and which may be killed without harm:

    python -m gems_edge.device.exam '{"bundle": …, "state": …, "lesson": [bundle, state], "threads": …}'
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gems_edge.device.album import Album, Photo, Version, without
from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.device.carry import Lesson, read_lesson
from gems_edge.device.learner import Learner
from gems_edge.device.measure import run_child, summarise, time_calls
from gems_edge.device.selftest import enlarged, fields, run_selftest
from gems_edge.device.trust import ALLOW_OLDER_VARIABLE, ANYBODY, TRUST_VARIABLE
from gems_edge.errors import MachineError, UserError
from gems_edge.process_memory import peak_rss_mb

FOLDS = 5
_FEW_FIELDS = 2


@dataclass(frozen=True)
class Subject:
    """A bundle, and the state that it is examined with."""

    bundle: Path
    state: Path


@dataclass(frozen=True)
class Marks:
    """`right` of `asked` photos were answered right when they were left out; where no class has two photos, of all, by
    a bundle that was taught them. 0 of 0 without a state."""

    right: int
    asked: int
    predict_ms: float  # the median, of one photo
    adapt_ms: float  # to all that is taught
    peak_mb: float | None


def examined(bundle: Path, state: Path | None, lesson: Subject | None, threads: int | None) -> Marks:
    """Let a fresh process examine the bundle at `bundle`, its self-test first, with `state`; pictures to ask are those
    of `lesson`. Raises UserError or MachineError with what the process says of its failure."""
    asked = {
        "bundle": str(bundle),
        "state": None if state is None else str(state),
        "lesson": None if lesson is None else [str(lesson.bundle), str(lesson.state)],
        "threads": threads,
    }
    return Marks(**json.loads(run_child([sys.executable, "-m", "gems_edge.device.exam", json.dumps(asked)])))


def examine(bundle: Bundle, state: Path | None, lesson: Lesson | None, threads: int | None) -> Marks:
    """As `examined`, in this process."""
    run_selftest(bundle)
    if state is None or lesson is None:
        learner = Learner(bundle, threads)
        support, pictures = (enlarged(each, bundle.image_size) for each in fields(bundle.channels, _FEW_FIELDS))
        taught = learner.adapt(support, range(len(support)))
        right = asked = 0
    else:
        own = read_lesson(bundle, state)
        learner = Learner(bundle, threads, own.state.precision or None)
        pictures = lesson.pictures([photo.picture for photo in own.album.photos], bundle)
        if bundle.trunk is not None:
            learner.features(
                pictures[: learner.batch_size()]
            )  # as teaching a photo would: for the memory that it takes
        right, asked = _left_out(learner, own, pictures)
        taught = learner.relearn(own.versions[-1:], own.kept)
        if not asked:
            right, asked = _right(learner, own.album.photos, pictures), len(pictures)
    times = time_calls(lambda: learner.predict(pictures[:1]), warm_up=3, runs=30, seconds=3.0)
    predict_ms = summarise(times, {"p50": 0.5}).quantiles["p50"]
    return Marks(right, asked, predict_ms, 1e3 * taught.total_seconds, peak_rss_mb())


def folds(album: Album) -> list[list[Photo]]:
    """Photos of classes that have others, spread over at most FOLDS parts that are left out in turn: of each class some
    photo stays in every turn."""
    parts: list[list[Photo]] = [[] for _ in range(FOLDS)]
    for name in album.classes:
        photos = album.of(name)
        if len(photos) > 1:
            for place, photo in enumerate(photos):
                parts[place % FOLDS].append(photo)
    return [part for part in parts if part]


def _left_out(learner: Learner, lesson: Lesson, pictures: np.ndarray) -> tuple[int, int]:
    """How many photos are answered right by what the others teach, and how many are asked."""
    places = {photo.number: place for place, photo in enumerate(lesson.album.photos)}
    right = asked = 0
    for part in folds(lesson.album):
        rest = without(lesson.album, {photo.number for photo in part})
        learner.relearn([Version(rest, 0, "")], lesson.kept)
        right += _right(learner, part, pictures[[places[photo.number] for photo in part]])
        asked += len(part)
    return right, asked


def _right(learner: Learner, photos: Sequence[Photo], pictures: np.ndarray) -> int:
    answers = learner.predict(pictures).argmax(axis=1)
    return sum(learner.classes[answer] == photo.label for answer, photo in zip(answers, photos))


def _main(text: str) -> None:
    asked = json.loads(text)
    for name in (TRUST_VARIABLE, ALLOW_OLDER_VARIABLE):  # who made them was checked by who asks
        os.environ.pop(name, None)
    lesson = asked["lesson"] and read_lesson(read_bundle(asked["lesson"][0], ANYBODY), Path(asked["lesson"][1]))
    state = asked["state"] and Path(asked["state"])
    print(json.dumps(asdict(examine(read_bundle(asked["bundle"], ANYBODY), state, lesson, asked["threads"]))))


if __name__ == "__main__":
    try:
        _main(sys.argv[1])
    except (UserError, MachineError) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
