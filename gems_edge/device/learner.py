"""Learning new classes from a few images, and telling them apart: what a bundle is for."""

import copy
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.device.adapting import Adaptation, Plan, learned
from gems_edge.device.album import (
    Album,
    Photo,
    Version,
    added,
    capped,
    dropped,
    forgotten,
    in_order,
    moved,
    news_of,
    photo_numbered,
    renamed,
    shown,
)
from gems_edge.device.answers import Answer, Question, answers_to, softmax
from gems_edge.device.batching import images_per_call
from gems_edge.device.bundle import Bundle, MayRead, read_bundle
from gems_edge.device.explanation import Explanation, explained
from gems_edge.device.history import STEPS_BACK, next_number
from gems_edge.device.inputs import Images, checked_images, numbered
from gems_edge.device.photos import Kept, thumbnail
from gems_edge.device.pictures import Picture, pixels_of
from gems_edge.device.runtime import check_threads
from gems_edge.device.sessions import check_precision
from gems_edge.device.state import State
from gems_edge.device.steps import OnStep, Watch
from gems_edge.device.taught import Taught, compared, logits_of, photos_of, read, taught_by, untaught, write
from gems_edge.device.teaching import (
    KEEP,
    check_enough,
    chosen,
    gathered,
    gone_back,
    kept_of,
    lesson_of,
    taught_text,
)
from gems_edge.device.trunk import trunk_features
from gems_edge.device.trust import Trust
from gems_edge.errors import UserError


class Learner:
    """A bundle and what it was taught.

    Images are arrays [N, S, S, C], or [N, S, S] for a one-channel bundle, where S and C are the bundle's `image_size`
    and `channels`: uint8, or floating point in 0…1. They are taken as they are, light on dark where `bundle.inverted`
    is true. Or they are a list of files, their bytes and Pillow's images; of camera frames, whose order of channels
    has to be said, `read_images` makes such an array.

    Gradient steps are in float32. With `precision` "int8" it answers with the bundle's quantised graph, made anew from
    what it was taught, and teaches on what the quantised trunk gives, where there is a trunk. None is what the bundle
    was exported to. Raises UserError if the bundle has no such graph.

    Threads may share a learner. `predict` answers with the last adaptation that was complete when it was called, and
    calls of `adapt` run one after another. While one thread adapts and another predicts, both graphs are in memory.
    A learner may be pickled, for a process that is spawned; in one that is forked after a graph was loaded it raises
    UserError. `copy.copy` makes a learner that keeps what was taught so far, its `classes` with its answers, when this
    one is taught anew.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, precision: str | None = None):
        self.bundle = bundle
        self.precision = check_precision(bundle, precision)
        self.threads = check_threads(threads)
        self._teaching = threading.RLock()  # on_step may teach, too
        self._now = untaught(bundle)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.bundle, self.threads, self.precision, self._now

    def __setstate__(self, kept: tuple[Any, ...]) -> None:  # a copy has its own lock
        self.bundle, self.threads, self.precision, self._now = kept
        self._teaching = threading.RLock()

    @classmethod
    def load(
        cls,
        path: Path | str,
        threads: int | None = None,
        precision: str | None = None,
        trust: Trust | None = None,
        may_read: MayRead | None = None,
        check_all: bool = True,
    ) -> "Learner":
        """The bundle at `path`, untaught. `threads`: None is one per core. `trust`: whose bundles are opened; None is
        what GEMS_EDGE_TRUST says; `may_read` and `check_all`: as read_bundle has them. Raises UserError for a bad
        bundle, and for one that is not to be trusted."""
        return cls(read_bundle(path, trust, may_read, check_all), threads, precision)

    def in_precision(self, precision: str) -> "Learner":
        """A learner that was taught the same and answers in `precision`. UserError if the bundle has no such graph."""
        other = copy.copy(self)
        other.precision, other._now = check_precision(self.bundle, precision), copy.copy(other._now)
        return other

    @property
    def classes(self) -> tuple[Hashable, ...]:
        return self._now.classes

    @property
    def taught(self) -> State | None:
        """What was taught; None before any teaching."""
        return self._now.state

    def read_images(self, pictures: Iterable[Picture], order: str = "RGB") -> np.ndarray:
        """Pictures as this bundle wants them: uint8 [N, S, S, C].

        Each is an image file or its bytes, an image of Pillow's, or a frame [height, width] or [height, width, 3] of
        any size, uint8 or floating point in 0…1, with the channels in `order` ("RGB", or "BGR" as OpenCV has them).
        Frames show things as people see them, dark on light, too: `bundle.inverted` is seen to here.
        Raises UserError for a bad picture, and for one that is not in a list.
        """
        return pixels_of(pictures, self.bundle, order)

    def adapt(
        self,
        images: Images,
        labels: Sequence[Hashable],
        steps: int | None = None,
        on_step: OnStep | None = None,
        watch: Watch | None = None,
        keep: int | None = None,
        sources: Sequence[str] = (),
    ) -> Adaptation:
        """Learn the classes named by `labels` (text, numbers, any hashable; one per image) from the bundle's start.

        Classes are numbered by first appearance. Earlier teaching is replaced, and kept if this raises. `steps`:
        gradient steps, None for what the bundle takes for so many images; a prototype head knows its classes after 0.
        `on_step(step, loss, seconds)` is called after each, and `watch` as Watch says. `keep`: as of `teach`, None for
        all. `sources`: the names of the photos' files, for people.
        Raises UserError for images or labels that do not fit, fewer than two classes, more than a per-class head has
        rows, steps that the bundle cannot take, and a loss that is no longer finite; MachineError if memory runs out.
        """
        started = time.perf_counter()
        pixels = checked_images(self.bundle, images)
        classes, index = numbered(labels, len(pixels))
        if steps is not None:
            self.bundle.check_steps(steps)
        self.bundle.check_classes(len(classes))
        lesson = lesson_of(pixels, [classes[place] for place in index], sources, 1)
        with self._teaching:
            kept, trunk_seconds = self._kept(pixels, lesson)
            album = capped(in_order(classes, lesson), lesson, keep, chosen(kept))
            plan = Plan(album, taught_text(lesson), steps, (), kept, trunk_seconds)
            return self._adapted(plan, started, on_step, watch)

    def teach(
        self,
        images: Images,
        labels: Sequence[Hashable],
        steps: int | None = None,
        on_step: OnStep | None = None,
        keep: int | None = KEEP,
        sources: Sequence[str] = (),
    ) -> Adaptation:
        """Learn further photos beside those that were taught: of new classes, more of known ones, corrections.

        A picture that was taught under another name is moved to its new one. Then, as all these verbs, it adapts from
        the bundle's start to all photos that are kept: the trunk runs for new ones alone. `keep`: of the classes that
        are taught now at most so many photos each stay, the new ones first, then those that represent their class
        best. Raises UserError as `adapt`, for photos that are all taught already, and for a state without photos.
        """
        started = time.perf_counter()
        pixels = checked_images(self.bundle, images)
        classes, index = numbered(labels, len(pixels))
        with self._teaching:
            state = self._now.state
            if state is None:
                return self.adapt(images, labels, steps, on_step, keep=keep, sources=sources)
            album, kept = self._gathered(state.album)
            lesson = lesson_of(pixels, [classes[i] for i in index], sources, next_number(state.versions))
            news = news_of(album, lesson)
            album = added(album, news)
            self.bundle.check_classes(len(album.classes))
            new = {photo.picture for photo in news} - kept.keys()
            unseen = [place for place, photo in enumerate(lesson) if photo.picture in new]
            fresh, trunk_seconds = self._kept(pixels[unseen], [lesson[place] for place in unseen])
            kept |= fresh
            album = capped(album, news, keep, chosen(kept))
            plan = Plan(album, taught_text(news), steps, state.versions, kept, trunk_seconds)
            return self._adapted(plan, started, on_step)

    def forget(self, name: Hashable, steps: int | None = None, on_step: OnStep | None = None) -> Adaptation:
        """Forget a class and its photos. UserError if there is none of that name, and if fewer than two would stay."""
        return self._changed(lambda album: forgotten(album, name), f"forgot {shown(name)}", steps, on_step)

    def move(self, photo: int, name: Hashable, steps: int | None = None, on_step: OnStep | None = None) -> Adaptation:
        """Teach the photo of that number as another class, which may be new; a class without photos goes.

        Raises UserError if there is no such photo, and as `forget`.
        """
        words = f"moved photo {photo} to {shown(name)}"
        return self._changed(lambda album: moved(album, photo, name), words, steps, on_step)

    def drop(self, photo: int, steps: int | None = None, on_step: OnStep | None = None) -> Adaptation:
        """Forget the photo of that number. Raises UserError as `move`."""
        return self._changed(lambda album: dropped(album, photo), f"dropped photo {photo}", steps, on_step)

    def undo(self, changes: int = 1, on_step: OnStep | None = None) -> Adaptation:
        """Go back so many changes. UserError if fewer are kept (STEPS_BACK)."""
        started = time.perf_counter()
        with self._teaching:
            state = self._taught_state()
            *past, version = gone_back(state, changes)
            album, kept = self._gathered(version.album)
            check_enough(album)
            plan = Plan(album, version.change, version.steps, tuple(past), kept)
            return self._adapted(plan, started, on_step)

    def relearn(
        self, versions: Sequence[Version], kept: Mapping[str, Kept], on_step: OnStep | None = None
    ) -> Adaptation:
        """Learn the album of the last of `versions` from what is kept of its photos, by picture: what another state or
        another bundle was taught. One can go back to the versions before. Raises UserError as `adapt`."""
        started = time.perf_counter()
        *past, version = versions
        self.bundle.check_classes(len(version.album.classes))
        with self._teaching:
            return self._adapted(Plan(version.album, version.change, None, tuple(past), kept), started, on_step)

    def rename(self, old: Hashable, new: Hashable) -> None:
        """Give a class another name; its answers stay. UserError if there is none, or one of the new name."""
        with self._teaching:
            now, state = self._now, self._taught_state()
            version = Version(renamed(state.album, old, new), state.steps, f"renamed {shown(old)} to {shown(new)}")
            versions = (*state.versions, version)[-1 - STEPS_BACK :]
            state = replace(state, classes=version.album.classes, versions=versions)
            self._now = replace(now, classes=state.classes, state=state)

    def thumbnail(self, photo: int) -> bytes:
        """A small JPEG of the photo of that number, for people. UserError if there is none, or it is lost."""
        found = photo_numbered(self._taught_state().album, photo)
        _, kept = self._gathered(Album((found.label,), (found,)))
        if found.picture not in kept:
            raise UserError(f"photo {photo} is damaged or missing")
        return thumbnail(kept[found.picture], self.bundle.inverted)

    def explain(self) -> Explanation:
        """Whether enough was taught: what each photo is taken for when it is left out, by class means of the trunk's
        features, and what would help. UserError before any teaching, and for a state without photos."""
        state, has_trunk = self._taught_state(), self.bundle.trunk is not None
        album, kept = state.album, dict[str, Kept]()
        if has_trunk:
            album, kept = gathered(album, self._now.kept, self._now.home, self.bundle)
        return explained(album, kept, has_trunk, state.steps)

    def _taught_state(self) -> State:
        if self._now.state is None:
            raise UserError("nothing was taught yet; call adapt or teach first")
        return self._now.state

    def _gathered(self, album: Album) -> tuple[Album, dict[str, Kept]]:
        """As teaching.gathered. UserError for features of a trunk of another precision."""
        state = self._taught_state()
        if state.precision and state.precision != self.precision:
            raise UserError(
                f"this state was taught in precision {state.precision}, so it is taught on in that, not in "
                f"{self.precision}; say so with --precision"
            )
        return gathered(album, self._now.kept, self._now.home, self.bundle)

    def _changed(
        self, change: Callable[[Album], Album], words: str, steps: int | None, on_step: OnStep | None
    ) -> Adaptation:
        """Adapt to the album that `change` makes of what was taught, which adds no photo."""
        started = time.perf_counter()
        with self._teaching:
            state = self._taught_state()
            check_enough(change(state.album))  # before photos are read
            whole, kept = self._gathered(state.album)
            album = change(whole)
            check_enough(album)
            self.bundle.check_classes(len(album.classes))
            return self._adapted(Plan(album, words, steps, state.versions, kept), started, on_step)

    def _kept(self, pixels: np.ndarray, lesson: Sequence[Photo]) -> tuple[dict[str, Kept], float | None]:
        """What is kept of new photos, by picture, and the seconds that the trunk took, where there is one: its session
        is gone before that of the steps is loaded."""
        self._now = copy.copy(self._now)  # without its session: a board has no memory for two graphs at once
        started, features = time.perf_counter(), None
        if self.bundle.trunk is not None and len(pixels):
            features = trunk_features(self.bundle, pixels, self.threads, self.precision)
        seconds = None if features is None else time.perf_counter() - started
        kept = kept_of(self.bundle, pixels, features) if len(pixels) else []
        return {photo.picture: each for photo, each in zip(lesson, kept)}, seconds

    def _adapted(self, plan: Plan, started: float, on_step: OnStep | None, watch: Watch | None = None) -> Adaptation:
        """Learn the plan's album from the bundle's start, and be what that gives."""
        self._now = copy.copy(self._now)  # without its session, as in _kept
        new = learned(self.bundle, plan, self.precision, self.threads, on_step, watch)
        self._now = taught_by(self.bundle, new.state, new.kept, self._now.home if plan.past else None)
        total = time.perf_counter() - started
        return Adaptation(new.state.classes, new.state.images, new.losses, new.seconds, total, plan.trunk_seconds)

    def features(self, images: Images) -> np.ndarray:
        """What the trunk makes of images: float32 [N, c, h, w] (of the whole body [N, F]), each image by itself.

        Raises UserError for images that do not fit, and for a bundle without a trunk.
        """
        return trunk_features(self.bundle, checked_images(self.bundle, images), self.threads, self.precision)

    def predict(self, images: Images) -> np.ndarray:
        """Probabilities, float32 [N, classes], columns as `classes`.

        Normalisation uses the statistics of the support set (mode "group": of each image by itself, mode "frozen": of
        the pretraining), so one image at a time or a thousand give the same answers. Raises UserError for images that
        do not fit.
        """
        return softmax(self._logits(self._now, images))

    def answers(self, images: Images, *, coverage: float | None = None, accept_all: bool = False) -> tuple[Answer, ...]:
        """What each image is taken for, where it looks like anything that was taught.

        `coverage`: the share of photos of taught classes whose class is to be among an answer's `candidates`; None:
        there are none. `accept_all`: no image is unknown. Raises UserError as `predict`, and for a coverage that is
        not between 0 and 1.
        """
        now = self._now  # once: another thread may teach meanwhile
        pixels = checked_images(self.bundle, images)
        found = compared(now, self.bundle, pixels, lambda *asked: self._logits(now, *asked))
        question = Question(now.classes, coverage, accept_all, found.familiar, photos_of(now), found.ranks)
        return answers_to(question, found.logits, found.beside)

    def _logits(self, now: Taught, images: Images, further: bool = False) -> np.ndarray:
        """What the predict graph gives with what was taught: as taught.logits_of."""
        pixels = checked_images(self.bundle, images)
        return logits_of(now, self.bundle, pixels, self.threads, self.precision, self.batch_size(), further)

    def batch_size(self) -> int:
        """Images per call of the predict graph."""
        return images_per_call(self.bundle.predict_peak_bytes)

    def save(self, path: Path | str) -> State:
        """Write what was taught to the state directory `path`: of a tensor that moved in few places only the change.

        Beside it lies what is kept of the photos. Raises UserError before any teaching, and as save_state; Overtaken if
        another process has taught this state since it was loaded or saved here.
        """
        with self._teaching:
            return write(self._now, Path(path), self.bundle)

    def load_state(self, path: Path | str) -> State:
        """Take over what was saved to `path` for this bundle.

        Raises UserError as device.state.load_state, and for a state that does not hold this bundle's tensors.
        """
        loaded = read(Path(path), self.bundle)
        assert loaded.state is not None
        with self._teaching:
            self._now = loaded
        return loaded.state
