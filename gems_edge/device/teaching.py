"""What a learner's verbs do with photos: from what is kept and what is new to the album that is taught next."""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gems_edge.device.album import Album, Choose, Photo, Version, shown, without
from gems_edge.device.bundle import Bundle
from gems_edge.device.photos import Kept, LostPhoto, decode, encode, file_name, picture_hash, read_photo, small_picture
from gems_edge.device.representative import representatives, vector
from gems_edge.device.state import Overtaken, State, load_state, save_state
from gems_edge.errors import UserError
from gems_edge.wording import count_text

KEEP = 50  # photos of a class that are kept and taught with, unless another number is given
_LONGEST_SOURCE = 80


@dataclass(frozen=True)
class Home:
    """Where a state was loaded from or saved to last, and as which generation."""

    path: Path
    generation: int


def lesson_of(pixels: np.ndarray, labels: Sequence[Hashable], sources: Sequence[str], first: int) -> list[Photo]:
    """Photos numbered from `first`, of images [N, S, S, C]; `sources`: the names of their files, or none."""
    if sources and len(sources) != len(labels):
        raise UserError(f"{len(labels)} images came with {len(sources)} sources; give one for each")
    names = [_printable(source) for source in sources] or [""] * len(labels)
    return [
        Photo(first + place, label, picture_hash(image), name)
        for place, (image, label, name) in enumerate(zip(pixels, labels, names))
    ]


def _printable(source: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in source)[-_LONGEST_SOURCE:]


def kept_of(bundle: Bundle, pixels: np.ndarray, features: np.ndarray | None) -> list[Kept]:
    """What is kept of images [N, S, S, C], with the trunk's features [N, …] where there is a trunk.

    Raises UserError for features beyond float16.
    """
    if features is None:
        fed = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        whole = pixels.dtype == np.uint8
        return [Kept(each, b"" if whole else small_picture(each, bundle.inverted)) for each in fed]
    with np.errstate(over="ignore"):
        halves = features.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UserError(f"the trunk of {bundle.path} gives features beyond 65504, which cannot be kept; export it anew")
    return [Kept(each, small_picture(image, bundle.inverted)) for each, image in zip(halves, pixels)]


def gathered(
    album: Album, kept: Mapping[str, Kept], home: Home | None, bundle: Bundle
) -> tuple[Album, dict[str, Kept]]:
    """`album` and, by picture, what is kept of its photos: from memory or from `home`. Photos that are damaged there
    are left out with a warning. Raises Overtaken if they are gone because another process taught that state."""
    found, lost = dict(kept), []
    for photo in album.photos:
        if photo.picture in found:
            continue
        try:
            if home is None or not photo.file:
                raise LostPhoto(photo.file)
            found[photo.picture] = decode(read_photo(home.path, photo.file), bundle)
        except LostPhoto:
            lost.append(photo)
    if lost:
        if home is not None and load_state(home.path, bundle.hash).generation != home.generation:
            raise Overtaken(f"{home.path} was taught by another process meanwhile; load it again")
        numbers = ", ".join(f"{photo.number} ({shown(photo.label)})" for photo in lost)
        warnings.warn(f"photo {numbers} is damaged or missing and is left out", stacklevel=4)
    return without(album, {photo.number for photo in lost}), found


def chosen(kept: Mapping[str, Kept]) -> Choose:
    """How album.capped chooses: by herding (device/representative.py)."""

    def choose(photos: Sequence[Photo], most: int, newest: Sequence[Photo]) -> set[int]:
        vectors = np.stack([vector(kept[photo.picture].fed) for photo in photos])
        fixed = [place for place, photo in enumerate(photos) if photo in newest]
        return {photos[place].number for place in representatives(vectors, most, fixed)}

    return choose


def check_enough(album: Album) -> None:
    """UserError for an album that a change would leave with fewer than two classes."""
    if len(album.classes) < 2:
        left = f"one class ({shown(album.classes[0])})" if album.classes else "no class"
        raise UserError(f"that would leave {left}, and one class cannot be told from anything; teach another one first")


def taught_text(news: Sequence[Photo]) -> str:
    """ "taught mug (5 photos), cup (1 photo)"."""
    labels = [photo.label for photo in news]
    each = (f"{shown(name)} ({count_text(labels.count(name), 'photo')})" for name in dict.fromkeys(labels))
    return "taught " + ", ".join(each)


def gone_back(state: State, changes: int) -> tuple[Version, ...]:
    """The versions up to the one before so many changes; UserError if there are not so many."""
    if not isinstance(changes, int) or isinstance(changes, bool) or changes < 1:
        raise UserError(f"a number of changes to undo is a whole number from 1 on, not {changes!r}")
    possible = len(state.kept_versions) - 1
    if not possible:
        raise UserError("there is no change to undo")
    if changes > possible:
        raise UserError(f"{count_text(possible, 'change')} can be undone, not {changes}")
    return state.versions[:-changes]


def save_with_photos(
    path: Path, state: State, kept: Mapping[str, Kept], home: Home | None, inverted: bool
) -> tuple[State, tuple[Version, ...]]:
    """Save `state` with its photos, which come from memory or from `home`; as saved, and its versions with their files.

    Raises as save_state. Photos that are lost are left out with a warning.
    """
    versions, contents = named_files(state.versions, kept, inverted)
    pictures = {photo.file: photo.picture for version in versions for photo in version.album.photos}
    onto = home.generation if home is not None and home.path == path else None

    def fetch(file: str) -> bytes:
        if file in contents:
            return contents[file]
        if pictures[file] in kept and file_name(again := encode(kept[pictures[file]], inverted)) == file:
            return again
        if home is None or home.path == path:
            raise LostPhoto(file)
        return read_photo(home.path, file)

    while True:
        try:
            return save_state(path, replace(state, versions=versions), fetch, onto), versions
        except LostPhoto as lost:
            warnings.warn(f"a photo of {path} is damaged or missing and is left out", stacklevel=4)
            versions = without_file(versions, str(lost))


def named_files(
    versions: Sequence[Version], kept: Mapping[str, Kept], inverted: bool
) -> tuple[tuple[Version, ...], dict[str, bytes]]:
    """`versions` with a file for each photo, and the contents of those that had none."""
    files: dict[str, str] = {}
    contents: dict[str, bytes] = {}

    def named(photo: Photo) -> Photo:
        if photo.file:
            return photo
        if photo.picture not in files:
            content = encode(kept[photo.picture], inverted)
            files[photo.picture] = file_name(content)
            contents[file_name(content)] = content
        return replace(photo, file=files[photo.picture])

    albums = (Album(version.album.classes, tuple(map(named, version.album.photos))) for version in versions)
    return tuple(replace(version, album=album) for version, album in zip(versions, albums)), contents


def without_file(versions: Sequence[Version], file: str) -> tuple[Version, ...]:
    """`versions` without the photos of that file; none where the present one would lose a class."""
    stripped = tuple(
        replace(version, album=without(version.album, {p.number for p in version.album.photos if p.file == file}))
        for version in versions
    )
    return stripped if stripped[-1].album.classes == versions[-1].album.classes else ()
