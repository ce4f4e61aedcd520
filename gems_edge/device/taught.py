"""What a learner was taught, as one record: how it answers, and how it is saved and loaded."""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.device.bundle import HEAD, Bundle
from gems_edge.device.delta import as_delta, restored
from gems_edge.device.familiar import NONE, Familiar, squared_distances
from gems_edge.device.inputs import together
from gems_edge.device.left_out import NO_RANKS, OwnRanks, left_out, own_ranks
from gems_edge.device.photos import Kept
from gems_edge.device.runtime import Session
from gems_edge.device.sessions import Arrays, answered, predict_session
from gems_edge.device.state import State, load_state
from gems_edge.device.teaching import Home, gathered, save_with_photos
from gems_edge.errors import UserError

# Logits of images [N, S, S, C], and with the second behind them those of the bundle's `background`.
Ask = Callable[[np.ndarray, bool], np.ndarray]


@dataclass
class Taught:
    """The result of one adaptation. A learner switches to the next by one assignment, so no answer mixes two.

    Of what it answers nothing changes: `session` is the predict graph with these weights, loaded under `lock` when it
    is first needed, and a save notes in `state` and `home` where the photos now lie.
    """

    classes: tuple[Hashable, ...]
    weights: Arrays  # the head, and what teaching changed
    state: State | None  # None: the bundle's start
    kept: Mapping[str, Kept] = field(default_factory=dict)  # by picture, of photos; others are read from `home`
    home: Home | None = None
    session: Session | None = None
    background: Arrays | None = None  # the bundle's, loaded when it is first needed
    means: np.ndarray | None = None  # of what the head reads of each class's photos [classes, F], when first needed
    ranks: OwnRanks | None = None  # of the photos, each left out, when first needed
    lock: AbstractContextManager[bool] = field(default_factory=threading.RLock)  # a signal's handler may answer, too

    def __reduce__(self) -> tuple[Any, ...]:  # a copy loads its own session
        return Taught, (self.classes, self.weights, self.state, self.kept, self.home)


def untaught(bundle: Bundle) -> Taught:
    """The bundle's start."""
    names = tuple(f"class {number}" for number in range(1, bundle.ways + 1))
    return Taught(names, bundle.start_head(bundle.ways), None)


def taught_by(bundle: Bundle, state: State, kept: Mapping[str, Kept], home: Home | None) -> Taught:
    """What `state` holds, with what is in memory of its photos and where the others are."""
    return Taught(state.classes, bundle.start_head(len(state.classes)) | dict(state.tensors), state, kept, home)


def logits_of(
    now: Taught,
    bundle: Bundle,
    pixels: np.ndarray,
    threads: int | None,
    precision: str,
    batch: int,
    further: bool = False,
) -> np.ndarray:
    """What the predict graph gives for images [N, S, S, C], `batch` a call: float32 [N, classes], and with `further`
    behind them the logits of the bundle's `background`."""
    with now.lock:
        if now.session is None:
            now.session = predict_session(bundle, now.weights, threads, precision)
        if further and now.background is None:
            now.background = bundle.background()
    head = {name: now.weights[name] for name in HEAD}
    if further and now.background is not None:
        head = {name: np.concatenate([rows, now.background[name]]) for name, rows in head.items()}
    parts = (pixels[i : i + batch] for i in range(0, len(pixels), batch))
    return np.concatenate([answered(now.session, part, head) for part in parts])


@dataclass(frozen=True)
class Compared:
    """Logits of images [N, classes], and what scores are made of beside them (familiar.class_scores)."""

    familiar: Familiar | None  # None: it cannot be said what is like what was taught
    logits: np.ndarray
    beside: np.ndarray
    ranks: OwnRanks = NO_RANKS  # of the photos that were taught


def compared(now: Taught, bundle: Bundle, images: np.ndarray, ask: Ask) -> Compared:
    """Images [N, S, S, C] asked, and compared with what was taught."""
    familiar = bundle.familiar if now.state is not None else None
    logits, further = np.split(ask(images, familiar is not None), [len(now.classes)], axis=1)
    if familiar is None or familiar.score.kind != "distance":
        return Compared(familiar, logits, further, NO_RANKS if familiar is None else _own_ranks(now, bundle, familiar))
    means = _class_means(now, bundle, ask)
    if means is None:
        return Compared(None, logits, further)
    return Compared(familiar, logits, squared_distances(further, means))


def _own_ranks(now: Taught, bundle: Bundle, familiar: Familiar) -> OwnRanks:
    """Of the photos that are kept, but for those of `none`, which is no class to be like."""
    if familiar.temperature is None or now.background is None:
        return NO_RANKS
    with now.lock:
        if now.ranks is None and (found := _photos(now, bundle)) is not None:
            features, labels = np.stack(found[0]), found[1]
            training, counts = now.background[HEAD[0]], photos_of(now)
            photos = left_out(features, labels, now.weights[HEAD[0]], training, familiar.temperature)
            asked = [name != NONE for name in now.classes]
            now.ranks = own_ranks(familiar, photos, [counts[name] for name in now.classes], asked)
        return now.ranks or NO_RANKS


def _photos(now: Taught, bundle: Bundle) -> tuple[list[np.ndarray], np.ndarray] | None:
    """What is fed of the photos that are kept, and the places of their classes; None where a class has none."""
    if now.state is None or not now.state.versions:
        return None
    album, kept = gathered(now.state.album, now.kept, now.home, bundle)
    labels = np.array([now.classes.index(photo.label) for photo in album.photos])
    whole = len(np.unique(labels)) == len(now.classes)
    return ([kept[photo.picture].fed for photo in album.photos], labels) if whole else None


def _class_means(now: Taught, bundle: Bundle, ask: Ask) -> np.ndarray | None:
    """Means [classes, F] of what the head reads of the photos that are kept; None where a class has none."""
    with now.lock:
        if now.means is None and (found := _photos(now, bundle)) is not None:
            read, labels = ask(together(found[0]), True)[:, len(now.classes) :], found[1]
            now.means = np.stack([read[labels == place].mean(axis=0) for place in range(len(now.classes))])
        return now.means


def write(now: Taught, path: Path, bundle: Bundle) -> State:
    """Save it to the state directory `path`, and note in it where its photos now lie. Raises as save_state."""
    taught = now.state
    if taught is None:
        raise UserError("nothing was taught yet, so there is no state to save; call adapt first")
    changed = as_delta(taught, _start(bundle, len(taught.classes)))
    saved, versions = save_with_photos(path, changed, now.kept, now.home, bundle.inverted)
    now.state = replace(taught, versions=versions, generation=saved.generation)
    now.home = Home(path, saved.generation)
    return saved


def read(path: Path, bundle: Bundle) -> Taught:
    """What was saved to `path`. Raises as load_state, and UserError for a state without this bundle's tensors."""
    state = load_state(path, bundle.hash)
    try:
        state = restored(state, _start(bundle, len(state.classes)))
    except ValueError:
        raise UserError(f"{path} does not hold the tensors of {bundle.path}; run gems-edge adapt again") from None
    return taught_by(bundle, state, {}, Home(path, state.generation))


def _start(bundle: Bundle, classes: int) -> Arrays:
    """The start values of what a state holds, to be read alone."""
    body = [name for name in (*bundle.adapted, *bundle.statistics) if name not in HEAD]
    start = bundle.start_head(classes) | bundle.views(body)
    return {name: start[name] for name in (*bundle.learned, *bundle.statistics)}


def photos_of(now: Taught) -> dict[Hashable, float]:
    """With how many photos each class was taught; of a state that keeps none their mean; {} before any teaching."""
    if now.state is None:
        return {}
    if not now.state.versions:
        return dict.fromkeys(now.classes, now.state.images / len(now.classes))
    return {name: float(count) for name, count in Counter(p.label for p in now.state.album.photos).items()}
