"""What one bundle was taught, learned anew by another: from what the state keeps of each photo.

A state keeps little of a photo (device/photos.py), so what can be carried over depends on both bundles:

- the same trunk, or no trunk and the same input: what was kept is what the new bundle is taught with, to the bit;
- an old bundle without a trunk: the pictures, at the old bundle's size;
- another trunk: what the old one made of the photos says nothing to the new one. The thumbnails are left, JPEGs of at
  most 96 pixels. Whether they are good enough is not taken on trust: device/exam.py compares both bundles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gems_edge.device.album import Album, Version, without
from gems_edge.device.bundle import Bundle
from gems_edge.device.bundle_files import TRUNK_FILE
from gems_edge.device.int8 import TRUNK_INT8_FILE
from gems_edge.device.learner import Learner
from gems_edge.device.photos import Kept, picture
from gems_edge.device.state import State, load_state
from gems_edge.device.teaching import Home, check_enough, gathered, kept_of
from gems_edge.device.trunk import trunk_features
from gems_edge.images import decode_image

AS_KEPT, PICTURES, THUMBNAILS = "as kept", "pictures", "thumbnails"


@dataclass(frozen=True)
class Lesson:
    """What a state was taught with, read from disk. `kept`: by picture, of all photos of all versions."""

    bundle: Bundle
    state: State
    versions: tuple[Version, ...]  # the present one last
    kept: Mapping[str, Kept]

    @property
    def album(self) -> Album:
        return self.versions[-1].album

    def pictures(self, wanted: Sequence[str], bundle: Bundle) -> np.ndarray:
        """These pictures as `bundle` wants images: uint8 [N, S, S, C]; thumbnails where pixels are not kept."""
        size, channels, inverted = bundle.image_size, bundle.channels, self.bundle.inverted
        files = (picture(self.kept[each], inverted) for each in wanted)
        return np.stack([decode_image(file, size, channels, invert=bundle.inverted) for file in files])


def read_lesson(bundle: Bundle, path: Path) -> Lesson:
    """What the state at `path` was taught with. Photos that are damaged are left out with a warning.

    Raises UserError as load_state, for a state that keeps no photos, and if fewer than two classes stay.
    """
    state = load_state(path, bundle.hash)
    photos = {photo.number: photo for version in state.kept_versions for photo in version.album.photos}
    every = Album(tuple(dict.fromkeys(photo.label for photo in photos.values())), tuple(photos.values()))
    whole, kept = gathered(every, {}, Home(path, state.generation), bundle)
    lost = photos.keys() - {photo.number for photo in whole.photos}
    versions = [replace(version, album=without(version.album, lost)) for version in state.versions]
    check_enough(versions[-1].album)
    return Lesson(bundle, state, tuple(each for each in versions if len(each.album.classes) > 1), kept)


def carry(lesson: Lesson, new: Bundle, threads: int | None) -> tuple[Learner, str]:
    """A learner of the bundle `new` that was taught the lesson, with all that can be undone, and by what: AS_KEPT,
    PICTURES or THUMBNAILS. Raises UserError as Learner.relearn."""
    new.check_classes(len(lesson.album.classes))
    if _takes_what_was_kept(lesson, new):
        learner, by, kept = Learner(new, threads, lesson.state.precision or None), AS_KEPT, dict(lesson.kept)
    else:
        learner = Learner(new, threads)
        by, kept = _seen_anew(lesson, learner)
    learner.relearn([_as_of(version, new) for version in lesson.versions], kept)
    return learner, by


def _takes_what_was_kept(lesson: Lesson, new: Bundle) -> bool:
    old = lesson.bundle
    if (old.image_size, old.channels, old.inverted) != (new.image_size, new.channels, new.inverted):
        return False
    if old.trunk is None or new.trunk is None:
        return old.trunk is new.trunk
    file = TRUNK_INT8_FILE if lesson.state.precision == "int8" else TRUNK_FILE
    files = [bundle.manifest["files"].get(file, {}).get("sha256") for bundle in (old, new)]
    return files[0] is not None and files[0] == files[1] and old.trunk.features == new.trunk.features


def _seen_anew(lesson: Lesson, learner: Learner) -> tuple[str, dict[str, Kept]]:
    """The pictures that are left of the photos, as the learner's bundle keeps them."""
    bundle, wanted = learner.bundle, list(lesson.kept)
    pixels = lesson.pictures(wanted, bundle)
    features = None
    if bundle.trunk is not None:
        features = trunk_features(bundle, pixels, learner.threads, learner.precision)
    whole = all(kept.fed.dtype == np.uint8 for kept in lesson.kept.values())
    return PICTURES if whole else THUMBNAILS, dict(zip(wanted, kept_of(bundle, pixels, features)))


def _as_of(version: Version, bundle: Bundle) -> Version:
    """As the bundle would have been taught it, its photos in no file yet."""
    album = version.album
    photos = tuple(replace(photo, file="") for photo in album.photos)
    steps = bundle.steps_for(len(photos) / len(album.classes))
    return replace(version, album=Album(album.classes, photos), steps=steps)
