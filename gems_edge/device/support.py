"""Support photos in folders: DIR/CLASS/image, one folder per class."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gems_edge.device.album import check_name
from gems_edge.device.bundle import Bundle
from gems_edge.errors import UserError
from gems_edge.images import EXTENSIONS, decode_image, list_images, warn_left_out
from gems_edge.refusals import check_readable, refuse_all


@dataclass(frozen=True)
class SupportSet:
    """images uint8 [N, S, S, C] as the bundle wants them, and each image's class name and file."""

    images: np.ndarray
    labels: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.labels))


def read_support(
    directory: Path | str, bundle: Bundle, check: Callable[[int], None] = lambda images: None, least: int = 2
) -> SupportSet:
    """Read DIR/CLASS/*.jpg|png|… ; classes and files in order of name, hidden files left out.

    `check` is called with the number of images before any is decoded, and may raise.
    Raises UserError for a layout that is not one folder of images per class, fewer than `least` classes, more than a
    per-class bundle can learn, a name that no class should have, images that cannot be read, all of which are named,
    and one picture under two class names.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory; give one with a folder of photos per class")
    visible = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in visible if entry.is_dir()]
    loose = [entry for entry in visible if entry.is_file() and entry.suffix.lower() in EXTENSIONS]
    if loose:
        raise UserError(
            f"{loose[0]} lies beside the class folders of {directory}; move it into the folder of its class"
        )
    if not folders:
        raise UserError(f"{directory} has no class folders; put the photos of each class into a folder with its name")
    listed = [(_class_name(folder), _files(folder)) for folder in folders]
    if len(listed) < least:
        raise UserError(f"{directory} holds one class ({listed[0][0]}); give a folder for each of at least two classes")
    bundle.check_classes(max(2, len(listed)))  # before minutes of decoding
    for name, _ in listed:
        check_name(name)
    files = [(name, file) for name, images in listed for file in images]
    check(len(files))
    pixels = _decoded([file for _, file in files], bundle)
    _refuse_shared_pictures(files, pixels)
    return SupportSet(pixels, tuple(name for name, _ in files), tuple(file for _, file in files))


def _decoded(files: Sequence[Path], bundle: Bundle) -> np.ndarray:
    """uint8 [N, S, S, C]; UserError names all that cannot be read."""
    pixels = np.zeros((len(files), bundle.image_size, bundle.image_size, bundle.channels), np.uint8)
    problems = []
    for number, file in enumerate(files):
        try:
            pixels[number] = decode_image(file, bundle.image_size, bundle.channels, invert=bundle.inverted)
        except UserError as error:
            problems.append(str(error))
    check_readable(problems, len(files))
    return pixels


def _class_name(folder: Path) -> str:
    """The folder's name as UTF-8, whatever the system's settings say; UserError for one that is not."""
    name = os.fsencode(folder.name)
    try:
        return name.decode()
    except UnicodeDecodeError:
        shown = name.decode(errors="backslashreplace")
        raise UserError(f"the name of the class folder {shown} is not UTF-8 text; rename it") from None


def _files(folder: Path) -> list[Path]:
    images = list_images(folder)
    warn_left_out(folder)
    inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    nested = next((entry for entry in inner if list_images(entry)), None)
    if nested:
        raise UserError(f"{nested} is a folder of images inside the class {folder.name}; the layout is DIR/CLASS/image")
    if not images:
        raise UserError(f"{folder} holds no image; add photos ({', '.join(EXTENSIONS[:3])} …) or remove the folder")
    return images


def _refuse_shared_pictures(files: list[tuple[str, Path]], pixels: np.ndarray) -> None:
    seen: dict[bytes, tuple[str, Path]] = {}
    problems = []
    for (name, file), image in zip(files, pixels):
        other = seen.setdefault(image.tobytes(), (name, file))
        if other[0] != name:
            problems.append(f"{file} and {other[1]} are the same picture in two classes; remove it from one")
    refuse_all(problems, f"{len(problems)} pictures (named above) are in two classes; remove each from one")
