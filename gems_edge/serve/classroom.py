"""The learner that is asked and taught at once, and its state on disk: what is answered with is what is saved."""

import contextlib
import copy
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gems_edge.device import Explanation, Learner
from gems_edge.device.album import Album, check_name
from gems_edge.device.answers import Answer
from gems_edge.device.changing import saved_change
from gems_edge.device.state import SLOTS, Overtaken, check_destination
from gems_edge.errors import UserError
from gems_edge.predict.room import check_room
from gems_edge.serve.waiting import MOST, Waiting, read_waiting, write_waiting
from gems_edge.wording import count_text

NOTHING_TAUGHT = "nothing was taught yet; show two kinds of things, and teach each"

_GONE = "photo {} is not there any more; somebody has changed the classes meanwhile"


@dataclass(frozen=True)
class Lesson:
    """What is answered with, as a whole: a change makes the next one."""

    learner: Learner
    generation: int  # of the saved state; 0: nothing was taught yet
    waiting: Waiting = Waiting()
    explanation: Explanation | None = None  # None: nothing was taught yet

    @property
    def album(self) -> Album:
        taught = self.learner.taught
        return Album() if taught is None else taught.album


class Classroom:
    """Threads may share it. Changes come one after the other; each is made on a copy, saved, and only then answered
    with, so a change that fails (a full disk, no photo) leaves everything as it was, and no answer mixes two."""

    def __init__(self, learner: Learner, state: Path):
        """Raises UserError for a state of another bundle, and for a place where none can be."""
        self.state = state
        self._changing = threading.Lock()
        self._read = _stamp(state)  # of what was last read: another process may write
        check_destination(state, learner.bundle.hash)
        waiting, generation = read_waiting(state), 0
        if any((state / slot).exists() for slot in SLOTS):
            generation = learner.load_state(state).generation
            waiting = Waiting()
            write_waiting(state, waiting)  # the power may have gone between a save and this
            _warm(learner)
        self.lesson = Lesson(learner, generation, waiting, _explained(learner) if generation else None)

    def answer(self, photo: bytes, accept_all: bool = False, coverage: float | None = None) -> tuple[Lesson, Answer]:
        """What an image file shows, and by which lesson. Raises UserError for no image, and before any teaching."""
        lesson = self.current()  # once: another thread may teach meanwhile
        image = lesson.learner.read_images([photo])
        if not lesson.generation:
            raise UserError(NOTHING_TAUGHT)
        return lesson, lesson.learner.answers(image, coverage=coverage, accept_all=accept_all)[0]

    def current(self) -> Lesson:
        """What is answered with; where another process has taught the state meanwhile, what that taught."""
        if _stamp(self.state) != self._read and self._changing.acquire(blocking=False):
            try:
                self._read_again()
            finally:
                self._changing.release()
        return self.lesson

    @contextlib.contextmanager
    def _changes(self) -> Iterator[None]:
        """Nobody else here changes anything meanwhile, and the lesson is the newest."""
        with self._changing:
            if _stamp(self.state) != self._read:
                self._read_again()
            yield

    def _read_again(self) -> None:
        """A state that is gone, damaged or another bundle's changes nothing: the next change says so."""
        self._read, learner = _stamp(self.state), copy.copy(self.lesson.learner)
        try:
            generation = learner.load_state(self.state).generation
        except (UserError, OSError):
            return
        if generation != self.lesson.generation:
            _warm(learner)
            self.lesson = Lesson(learner, generation, self.lesson.waiting, _explained(learner))

    def teach(self, name: str, photos: Sequence[bytes], sources: Sequence[str] = ()) -> str:
        """Learn image files as that class; what was done, in words. The photos of a first class wait for a second."""
        name = plain_name(name)
        if not photos:
            raise UserError(f"no photo came with {name}; hold the button while the camera sees it")
        images = self.lesson.learner.read_images(photos)
        with self._changes():
            lesson = self.lesson
            waiting = lesson.waiting
            if lesson.generation == 0 and waiting.name in ("", name):
                return self._wait(Waiting(name, (*waiting.photos, *photos)[-MOST:]))
            labels, names = [name] * len(images), list(sources)
            if waiting.photos:
                images = np.concatenate([lesson.learner.read_images(waiting.photos), images])
                labels = [waiting.name] * len(waiting.photos) + labels
                names = [""] * len(waiting.photos) + names if names else []
            said = self._changed(lambda at: at.teach(images, labels, sources=names), len(images))
            if waiting.photos:
                write_waiting(self.state, Waiting())
            return said

    def forget(self, name: str) -> str:
        with self._changes():
            if self.lesson.waiting.photos and name == self.lesson.waiting.name:
                return self._wait(Waiting())
            return self._changed(lambda at: at.forget(name))

    def rename(self, old: str, new: str) -> str:
        new = plain_name(new)
        with self._changes():
            if self.lesson.waiting.photos and old == self.lesson.waiting.name:
                return self._wait(Waiting(new, self.lesson.waiting.photos))
            return self._changed(lambda at: at.rename(old, new))

    def move(self, photo: int, name: str) -> str:
        name = plain_name(name)
        return self._of_photo(photo, lambda at: at.move(photo, name))

    def drop(self, photo: int) -> str:
        return self._of_photo(photo, lambda at: at.drop(photo))

    def undo(self, changes: int = 1) -> str:
        with self._changes():
            if self.lesson.waiting.photos:
                return self._wait(Waiting())
            undone = _last_change(self.lesson.learner) if changes == 1 else count_text(changes, "change")
            self._changed(lambda at: at.undo(changes))
            return f"undone: {undone}"

    def photo(self, number: int, picture: str) -> bytes:
        """A small JPEG of a taught photo, whose hash is `picture`. UserError if there is none, or it is lost."""
        lesson = self.lesson
        if (number, picture) not in {(each.number, each.picture) for each in lesson.album.photos}:
            raise UserError(_GONE.format(number))
        return lesson.learner.thumbnail(number)

    def saved(self, read: Callable[[Path], bytes]) -> bytes:
        """What `read` makes of the state's directory while nothing changes it. UserError where there is none yet."""
        with self._changing:
            if not self.lesson.generation:
                raise UserError(NOTHING_TAUGHT)
            return read(self.state)

    def _of_photo(self, photo: int, change: Callable[[Learner], object]) -> str:
        with self._changes():
            if photo not in {each.number for each in self.lesson.album.photos}:
                raise UserError(_GONE.format(photo))
            return self._changed(change)

    def _wait(self, waiting: Waiting) -> str:
        """Let these photos wait for a second class."""
        before = self.lesson.waiting
        write_waiting(self.state, waiting)
        self.lesson = replace(self.lesson, waiting=waiting)
        if not waiting.photos:
            return f"forgot {before.name}"
        return f"{waiting.name} has {count_text(len(waiting.photos), 'photo')}; now teach something else"

    def _changed(self, change: Callable[[Learner], object], more: int = 0) -> str:
        """Make a change on a copy of the learner, save it, and answer with it from then on; in words, what it did."""
        if not self.lesson.generation and not more:
            raise UserError(NOTHING_TAUGHT)
        learner = copy.copy(self.lesson.learner)
        cost = learner.bundle.manifest["cost"]

        def checked(at: Learner) -> None:
            check_room(cost, more + (at.taught.images if at.taught else 0), "adapt")
            change(at)

        saved = saved_change(learner, self.state, checked)[1]
        _warm(learner)
        self.lesson = Lesson(learner, saved.generation, explanation=_explained(learner))
        return _last_change(learner)


def _stamp(state: Path) -> list[tuple[int, int, int] | None]:
    """Another one after every save to the state, which replaces a slot."""
    stamps: list[tuple[int, int, int] | None] = []
    for slot in SLOTS:
        try:
            found = os.stat(state / slot)
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return stamps


def plain_name(name: str) -> str:
    """A class's name as it is kept: no breaks, tabs or spaces around it. UserError for none and for a long one."""
    name = " ".join(name.split())
    if not name.isprintable():
        raise UserError("a name has letters, digits and signs that can be seen; type it again")
    check_name(name)
    return name


def _last_change(learner: Learner) -> str:
    taught = learner.taught
    return taught.versions[-1].change if taught is not None and taught.versions else "loaded"


def _explained(learner: Learner) -> Explanation | None:
    try:
        return learner.explain()
    except UserError:  # a state without photos still answers
        return None


def _warm(learner: Learner) -> None:
    """Load the graph and compare the taught photos now, so that no answer waits for it."""
    bundle = learner.bundle
    size = bundle.image_size
    with contextlib.suppress(Overtaken):  # then the next answer reads what another process taught
        learner.answers(np.zeros((1, size, size, bundle.channels), np.uint8))
