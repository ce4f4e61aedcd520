"""One adaptation: what is to be taught, and the gradient steps that teach it from the bundle's start."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from gems_edge.device.album import Album, Version
from gems_edge.device.bundle import Bundle
from gems_edge.device.history import STEPS_BACK
from gems_edge.device.inputs import network_input, together
from gems_edge.device.photos import Kept
from gems_edge.device.state import State
from gems_edge.device.steps import OnStep, Watch, take_steps


@dataclass(frozen=True)
class Adaptation:
    """What adapting did: the loss before each step, the seconds of each step and of the whole call."""

    classes: tuple[Hashable, ...]
    images: int
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    total_seconds: float
    trunk_seconds: float | None = None  # of new photos, loading counted; None: it did not run

    @property
    def steps(self) -> int:
        return len(self.losses)


@dataclass(frozen=True)
class Plan:
    """What is to be taught next."""

    album: Album
    change: str
    steps: int | None  # None: as many as the bundle takes for so many photos
    past: tuple[Version, ...]
    kept: Mapping[str, Kept]
    trunk_seconds: float | None = None


@dataclass(frozen=True)
class Learned:
    """What taking the steps of a plan gave."""

    state: State
    kept: Mapping[str, Kept]  # by picture, of photos of the state's versions
    losses: tuple[float, ...]
    seconds: tuple[float, ...]


def learned(
    bundle: Bundle, plan: Plan, precision: str, threads: int | None, on_step: OnStep | None, watch: Watch | None
) -> Learned:
    """Learn the plan's album from the bundle's start. Raises UserError as take_steps."""
    album = plan.album
    count, classes = len(album.photos), len(album.classes)
    steps = bundle.steps_for(count / classes) if plan.steps is None else bundle.check_steps(plan.steps)
    places = {name: place for place, name in enumerate(album.classes)}
    index = [places[photo.label] for photo in album.photos]
    fed = [plan.kept[photo.picture].fed for photo in album.photos]
    inputs = network_input(together(fed)) if bundle.trunk is None else np.stack(fed).astype(np.float32)
    feeds = {bundle.step_input: inputs, "targets": np.eye(classes, dtype=np.float32)[index]}
    tensors, losses, seconds = take_steps(bundle, feeds, steps, threads, on_step, watch)
    versions = (*plan.past, Version(album, steps, plan.change))[-1 - STEPS_BACK :]
    taught_in = "" if bundle.trunk is None else precision
    state = State(bundle.hash, album.classes, steps, count, tensors, versions=versions, precision=taught_in)
    pictures = {photo.picture for version in versions for photo in version.album.photos}
    kept = {picture: each for picture, each in plan.kept.items() if picture in pictures}
    return Learned(state, kept, tuple(losses), tuple(seconds))
