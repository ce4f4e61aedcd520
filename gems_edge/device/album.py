"""Which photos teach which classes, and how that changes: pure functions from an album to the next."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from gems_edge.errors import UserError

# Of a class's photos so many that represent it best, with certain ones among them: their numbers.
Choose = Callable[[Sequence["Photo"], int, Sequence["Photo"]], set[int]]
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Photo:
    """One photo that was taught; what is kept of it lies elsewhere (device/photos.py)."""

    number: int  # by which people name it; a state's history has it once
    label: Hashable  # the name of its class
    picture: str  # hash of its pixels
    source: str = ""  # the name of its file, for people
    file: str = ""  # where a state keeps it; "" before it was saved


@dataclass(frozen=True)
class Album:
    """Classes in the order in which they were taught, and their photos: class by class, in the order of numbers."""

    classes: tuple[Hashable, ...] = ()
    photos: tuple[Photo, ...] = ()

    def of(self, name: Hashable) -> tuple[Photo, ...]:
        return tuple(photo for photo in self.photos if photo.label == name)


@dataclass(frozen=True)
class Version:
    """An album as it once was taught, and the change that led to it, in words."""

    album: Album
    steps: int
    change: str


def check_name(name: Hashable) -> Hashable:
    """`name` itself; UserError for a blank text and for one of more letters than a name has."""
    if not isinstance(name, str):
        return name
    if not name.strip():
        raise UserError("a class name is empty or not a number; name every class")
    if len(name) > _LONGEST_NAME:
        raise UserError(f"the class name {name[:20]}… has {len(name)} letters; take at most {_LONGEST_NAME}")
    return name


def class_named(album: Album, name: Hashable) -> Hashable:
    """The class of that name, or of a name that is written so; UserError if there is none."""
    alike = [known for known in album.classes if known == name] or [k for k in album.classes if str(k) == str(name)]
    if not alike:
        raise UserError(f"there is no class {shown(name)}; there are {', '.join(map(shown, album.classes))}")
    return alike[0]


def news_of(album: Album, lesson: Sequence[Photo]) -> list[Photo]:
    """What `lesson` says that `album` does not, each picture once.

    A name that is written as that of a class there is the same. Raises UserError if there are no news, for a name that
    no class should have, and for one picture under two names.
    """
    written = {str(name): name for name in album.classes}
    lesson = [replace(photo, label=written.get(str(photo.label), photo.label)) for photo in lesson]
    said: dict[str, Hashable] = {}
    for photo in lesson:
        check_name(photo.label)
        if said.setdefault(photo.picture, photo.label) != photo.label:
            names = f"{shown(said[photo.picture])} and as {shown(photo.label)}"
            raise UserError(f"{photo.source or 'one picture'} is given as {names}; give it one name")
    there = {(photo.picture, photo.label) for photo in album.photos}
    news = list({p.picture: p for p in reversed(lesson) if (p.picture, p.label) not in there}.values())[::-1]
    if not news:
        raise UserError("all these photos are taught already under these names; nothing was changed")
    return news


def added(album: Album, news: Sequence[Photo]) -> Album:
    """With the photos of `news`. A picture that is there under another class is moved to its new one."""
    moved = {photo.picture for photo in news}
    return in_order(
        [*album.classes, *(photo.label for photo in news)],
        [*(photo for photo in album.photos if photo.picture not in moved), *news],
    )


def capped(album: Album, news: Sequence[Photo], most: int | None, choose: Choose) -> Album:
    """With at most `most` photos of each class of `news`: those of `news` first, then by `choose`."""
    lost: set[int] = set()
    for name in dict.fromkeys(photo.label for photo in news):
        photos = album.of(name)
        if most is not None and len(photos) > most:
            newest = [photo for photo in news if photo.label == name]
            lost |= {photo.number for photo in photos} - choose(photos, most, newest)
    return without(album, lost) if lost else album


def forgotten(album: Album, name: Hashable) -> Album:
    """Without that class and its photos. UserError if there is none."""
    name = class_named(album, name)
    return in_order(album.classes, [photo for photo in album.photos if photo.label != name])


def renamed(album: Album, old: Hashable, new: Hashable) -> Album:
    """With another name for a class, in its place. UserError if there is none, and if another has the new name."""
    old = class_named(album, old)
    check_name(new)
    if any(str(known) == str(new) for known in album.classes):
        raise UserError(f"there is a class {shown(new)} already; move photos to it, or forget one of the two")
    return Album(
        tuple(new if known == old else known for known in album.classes),
        tuple(replace(photo, label=new) if photo.label == old else photo for photo in album.photos),
    )


def moved(album: Album, number: int, name: Hashable) -> Album:
    """With the photo of that number under another class, which may be new. UserError if there is no such photo, and if
    it is there already."""
    photo = photo_numbered(album, number)
    name = next((known for known in album.classes if str(known) == str(name)), check_name(name))
    if photo.label == name:
        raise UserError(f"photo {number} is of the class {shown(name)} already")
    return in_order(
        [*album.classes, name],
        [replace(each, label=name) if each is photo else each for each in album.photos],
    )


def dropped(album: Album, number: int) -> Album:
    """Without the photo of that number. UserError if there is none."""
    photo = photo_numbered(album, number)
    return in_order(album.classes, [each for each in album.photos if each is not photo])


def without(album: Album, lost: set[int]) -> Album:
    """Without the photos of these numbers."""
    return in_order(album.classes, [photo for photo in album.photos if photo.number not in lost])


def photo_numbered(album: Album, number: int) -> Photo:
    for photo in album.photos:
        if photo.number == number:
            return photo
    raise UserError(f"there is no photo {number}; gems-edge teach --list shows the numbers of those that there are")


def shown(name: Hashable) -> str:
    return name if isinstance(name, str) else repr(name)


def in_order(classes: Sequence[Hashable], photos: Sequence[Photo]) -> Album:
    """In order, without classes that have no photo."""
    taught = {photo.label for photo in photos}
    order = {name: place for place, name in enumerate(name for name in dict.fromkeys(classes) if name in taught)}
    return Album(tuple(order), tuple(sorted(photos, key=lambda photo: (order[photo.label], photo.number))))
