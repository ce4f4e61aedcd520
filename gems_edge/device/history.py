"""Albums as a state has them on disk: the present one and those that can be gone back to, as one JSON document.

{"photos": [[number, picture, file, source], …], "versions": [{"classes", "shown": [[number, class], …], "steps",
"change"}, …]}, the oldest version first and the present one last; `class` is a place in `classes`.
"""

from collections.abc import Sequence
from typing import Any

from gems_edge.device.album import Album, Photo, Version
from gems_edge.device.photos import is_file_name

STEPS_BACK = 8  # how many changes can be undone


def next_number(versions: Sequence[Version]) -> int:
    """The first number that none of their photos has."""
    return 1 + max((photo.number for version in versions for photo in version.album.photos), default=0)


def files_of(versions: Sequence[Version]) -> set[str]:
    """All that they need of a state's photos."""
    return {photo.file for version in versions for photo in version.album.photos}


def history_document(versions: Sequence[Version]) -> dict[str, Any]:
    photos = {photo.number: photo for version in versions for photo in version.album.photos}
    return {
        "photos": [[number, each.picture, each.file, each.source] for number, each in sorted(photos.items())],
        "versions": [_version_document(version) for version in versions],
    }


def _version_document(version: Version) -> dict[str, Any]:
    places = {name: place for place, name in enumerate(version.album.classes)}
    return {
        "classes": list(version.album.classes),
        "shown": [[photo.number, places[photo.label]] for photo in version.album.photos],
        "steps": version.steps,
        "change": version.change,
    }


def history_of(document: Any) -> tuple[Version, ...]:
    """What history_document was given. Raises ValueError, KeyError or TypeError for anything else."""
    photos = {}
    for number, picture, file, source in document["photos"]:
        texts = isinstance(picture, str) and isinstance(source, str)
        if type(number) is not int or not texts or not is_file_name(file) or number in photos:
            raise ValueError("not a photo")
        photos[number] = (picture, file, source)
    return tuple(_version_of(entry, photos) for entry in document["versions"])


def _version_of(entry: Any, photos: dict[int, tuple[str, str, str]]) -> Version:
    classes, steps, change = tuple(entry["classes"]), entry["steps"], entry["change"]
    if not all(isinstance(name, str | int | float) for name in classes) or len(set(classes)) != len(classes):
        raise ValueError("not classes")
    if type(steps) is not int or steps < 0 or not isinstance(change, str):
        raise ValueError("not a version")
    shown = []
    for number, place in entry["shown"]:
        if type(place) is not int or not 0 <= place < len(classes):
            raise ValueError("not a class")
        picture, file, source = photos[number]
        shown.append(Photo(number, classes[place], picture, source, file))
    album = Album(classes, tuple(shown))
    if {photo.label for photo in shown} != set(classes) or len({p.number for p in shown}) != len(shown):
        raise ValueError("a class without a photo, or a photo twice")
    return Version(album, steps, change)
