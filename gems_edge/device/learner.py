"""Learning new classes from a few images, and telling them apart: what a bundle is for."""

import copy
import threading
import time
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.device.batching import images_per_call
from gems_edge.device.bundle import FEATURES, HEAD, IMAGES, Bundle, read_bundle
from gems_edge.device.inputs import checked_images, network_input, numbered
from gems_edge.device.manifest import Trunk
from gems_edge.device.runtime import Session, check_threads
from gems_edge.device.sessions import Arrays, check_precision, predict_session, trunk_session
from gems_edge.device.state import State, as_delta, load_state, restored, save_state
from gems_edge.device.steps import OnStep, Watch, take_steps
from gems_edge.device.trust import Trust
from gems_edge.errors import UserError
from gems_edge.images import decode_image


@dataclass(frozen=True)
class Adaptation:
    """What `Learner.adapt` did: the loss before each step, the seconds of each step and of the whole call."""

    classes: tuple[Hashable, ...]
    images: int
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    total_seconds: float
    trunk_seconds: float | None = None  # of all images, loading counted; None: the bundle has no trunk

    @property
    def steps(self) -> int:
        return len(self.losses)


@dataclass
class _Taught:
    """The result of one adaptation. A learner switches to the next by one assignment, so no answer mixes two.

    Only `session` ever changes: the predict graph with these weights, loaded under `lock` when it is first needed.
    """

    classes: tuple[Hashable, ...]
    weights: Arrays  # the head, and what teaching changed
    state: State | None  # None: the bundle's start
    session: Session | None = None
    lock: AbstractContextManager[bool] = field(default_factory=threading.RLock)  # a signal's handler may answer, too

    def __reduce__(self) -> tuple[Any, ...]:  # a copy loads its own session
        return _Taught, (self.classes, self.weights, self.state)


class Learner:
    """A bundle and what it was taught. numpy in and out.

    Images are arrays [N, S, S, C], or [N, S, S] for a one-channel bundle, where S and C are the bundle's `image_size`
    and `channels`: uint8, or floating point in 0…1. They are taken as they are, light on dark where `bundle.inverted`
    is true; `read_images` makes them from files.

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
        names = tuple(f"class {number}" for number in range(1, bundle.ways + 1))
        self._now = _Taught(names, bundle.start_head(bundle.ways), None)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.bundle, self.threads, self.precision, self._now

    def __setstate__(self, kept: tuple[Any, ...]) -> None:  # a copy has its own lock
        self.bundle, self.threads, self.precision, self._now = kept
        self._teaching = threading.RLock()

    @classmethod
    def load(
        cls, path: Path | str, threads: int | None = None, precision: str | None = None, trust: Trust | None = None
    ) -> "Learner":
        """The bundle at `path`, untaught. `threads`: None is one per core. `trust`: whose bundles are opened; None is
        what GEMS_EDGE_TRUST says. Raises UserError for a bad bundle, and for one that is not to be trusted."""
        return cls(read_bundle(path, trust), threads, precision)

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

    def read_images(self, files: Sequence[Path | str | bytes]) -> np.ndarray:
        """Image files (or their bytes) as this bundle wants them: uint8 [N, S, S, C]. UserError names a bad one."""
        size, channels, invert = self.bundle.image_size, self.bundle.channels, self.bundle.inverted
        pixels = [decode_image(file, size, channels, invert=invert) for file in files]
        return np.stack(pixels) if pixels else np.zeros((0, size, size, channels), np.uint8)

    def adapt(
        self,
        images: np.ndarray,
        labels: Sequence[Hashable],
        steps: int | None = None,
        on_step: OnStep | None = None,
        watch: Watch | None = None,
    ) -> Adaptation:
        """Learn the classes named by `labels` (text, numbers, any hashable; one per image) from the bundle's start.

        Classes are numbered by first appearance. Earlier teaching is replaced, and kept if this raises. `steps`:
        gradient steps, None for what the bundle takes for so many images; a prototype head knows its classes after 0.
        `on_step(step, loss, seconds)` is called after each, and `watch` as Watch says.
        Raises UserError for images or labels that do not fit, fewer than two classes, more than a per-class head has
        rows, steps that the bundle cannot take, and a loss that is no longer finite; MachineError if memory runs out.
        """
        started = time.perf_counter()
        pixels = checked_images(self.bundle, images)
        classes, index = numbered(labels, len(pixels))
        steps = self.bundle.steps_for(len(pixels) / len(classes)) if steps is None else self.bundle.check_steps(steps)
        self.bundle.check_classes(len(classes))
        targets = np.eye(len(classes), dtype=np.float32)[index]
        with self._teaching:
            self._now = copy.copy(self._now)  # without its session: a board has no memory for two graphs at once
            inputs, trunk_seconds = self._step_inputs(pixels)
            feeds = {self.bundle.step_input: inputs, "targets": targets}
            tensors, losses, seconds = take_steps(self.bundle, feeds, steps, self.threads, on_step, watch)
            self._teach(State(self.bundle.hash, classes, steps, len(pixels), tensors))
        total = time.perf_counter() - started
        return Adaptation(classes, len(pixels), tuple(losses), tuple(seconds), total, trunk_seconds)

    def _step_inputs(self, pixels: np.ndarray) -> tuple[np.ndarray, float | None]:
        """What every step is fed of the support images, and the seconds that the trunk took, where there is one: its
        features are computed once, and its session is gone before that of the steps is loaded."""
        if self.bundle.trunk is None:
            return network_input(pixels), None
        started = time.perf_counter()
        return self._features(self.bundle.trunk, pixels), time.perf_counter() - started

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the trunk makes of images: float32 [N, c, h, w] (of the whole body [N, F]), each image by itself.

        Raises UserError for images that do not fit, and for a bundle without a trunk.
        """
        pixels = checked_images(self.bundle, images)
        if self.bundle.trunk is None:
            raise UserError(f"{self.bundle.path} has no trunk: each of its steps runs the whole network")
        return self._features(self.bundle.trunk, pixels)

    def _features(self, trunk: Trunk, pixels: np.ndarray) -> np.ndarray:
        session = trunk_session(self.bundle, self.threads, self.precision)
        batch = images_per_call(trunk.peak_bytes)
        features: np.ndarray | None = None
        for start in range(0, len(pixels), batch):
            some = network_input(pixels[start : start + batch])
            [result] = session.run([FEATURES], {IMAGES: some})
            if result.shape != (len(some), *trunk.features):
                raise UserError(
                    f"{session.what} gives features of shape {list(result.shape[1:])}, not {list(trunk.features)} as "
                    "the manifest says; export the bundle again"
                )
            if not np.isfinite(result).all():
                raise UserError(f"{session.what} gives features that are not finite; give other images")
            if features is None:  # of a shape that the graph has proved, not of one that a manifest claims
                features = np.empty((len(pixels), *trunk.features), np.float32)
            features[start : start + batch] = result
        assert features is not None  # there is an image
        return features

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32 [N, classes], columns as `classes`.

        Normalisation uses the statistics of the support set (mode "group": of each image by itself, mode "frozen": of
        the pretraining), so one image at a time or a thousand give the same answers. Raises UserError for images that
        do not fit.
        """
        now = self._now  # once: another thread may teach meanwhile
        pixels = checked_images(self.bundle, images)
        with now.lock:
            if now.session is None:
                now.session = predict_session(self.bundle, now.weights, self.threads, self.precision)
        head = {name: now.weights[name] for name in HEAD}
        batch = self.batch_size()
        logits = [
            now.session.run(["logits"], {IMAGES: network_input(pixels[i : i + batch]), **head})[0]
            for i in range(0, len(pixels), batch)
        ]
        return _softmax(np.concatenate(logits))

    def batch_size(self) -> int:
        """Images per call of the predict graph."""
        return images_per_call(self.bundle.predict_peak_bytes)

    def save(self, path: Path | str) -> State:
        """Write what was taught to the state directory `path`: of a tensor that moved in few places only the change.

        Raises UserError before any teaching, and as save_state.
        """
        taught = self.taught
        if taught is None:
            raise UserError("nothing was taught yet, so there is no state to save; call adapt first")
        return save_state(path, as_delta(taught, self._start(len(taught.classes))))

    def load_state(self, path: Path | str) -> State:
        """Take over what was saved to `path` for this bundle.

        Raises UserError as device.state.load_state, and for a state that does not hold this bundle's tensors.
        """
        state = load_state(path, self.bundle.hash)
        try:
            state = restored(state, self._start(len(state.classes)))
        except ValueError:
            raise UserError(
                f"{path} does not hold the tensors of {self.bundle.path}; run gems-edge adapt again"
            ) from None
        self._teach(state)
        return state

    def _start(self, classes: int) -> Arrays:
        """The start values of what a state holds."""
        start = self.bundle.start_weights(classes, self.bundle.statistics)
        return {name: start[name] for name in (*self.bundle.learned, *self.bundle.statistics)}

    def _teach(self, state: State) -> None:
        weights = self.bundle.start_head(len(state.classes)) | dict(state.tensors)
        with self._teaching:
            self._now = _Taught(state.classes, weights, state)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
