"""folder:PATH: PATH/CLASS/image, or PATH/train|val|test/CLASS/image where the split is given."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gems_edge.control_groups import available_cores
from gems_edge.data.imageset import SPLITS, ImageSet, has_bright_border, split_classes
from gems_edge.data.published import split_of_folder
from gems_edge.errors import UserError
from gems_edge.files import read_file, sha256_bytes
from gems_edge.images import MOST_FILE_BYTES, decode_image, list_images, open_image, warn_left_out

GREY_MODES = ("1", "L", "LA", "I", "I;16")
# Side of the images where none is asked for: mini-ImageNet's for colour, Omniglot's for greyscale.
COLOUR_SIZE, GREY_SIZE = 84, 28
# What other tools call a split.
_SPLIT_OF = {"valid": "val", "validation": "val"}


def read_folder(
    path: Path | str, image_size: int | None = None, channels: int | None = None, seed: int = 0, name: str = ""
) -> ImageSet:
    """Read a folder of class folders. Without given splits those of a published list apply if it names every class of
    the folder (mini-ImageNet, CUB-200); else the classes are split by `split_classes` with `seed`.

    Images become greyscale only if the first image of every class is; greyscale images with a bright border are
    inverted. A file that occurs twice in a class counts once. Raises UserError for a missing, empty or flat folder,
    a class without images, a class or an identical file in two splits, and an image that cannot be decoded.
    """
    path = Path(path)
    folders = _class_folders(path)
    classes = tuple(sorted(folders))
    files = {name: list_images(folders[name][1]) for name in classes}
    for class_name in classes:
        warn_left_out(folders[class_name][1])
        if not files[class_name]:
            raise UserError(
                f"class {class_name!r} ({folders[class_name][1]}) has no images; add JPEG or PNG files or remove it"
            )
    if channels is None:
        channels = 1 if all(_is_grey(files[class_name][0]) for class_name in classes) else 3
    image_size = image_size or (GREY_SIZE if channels == 1 else COLOUR_SIZE)
    split = _given_split([folders[class_name][0] for class_name in classes], classes)
    if split is None:
        split = split_classes(len(classes), seed)

    paths = [file for class_name in classes for file in files[class_name]]
    label = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files[class_name]) for class_name in classes])
    images, hashes = decode_files(paths, image_size, channels)
    keep = _without_copies(paths, label, split, hashes)
    images, label = images[keep], label[keep]
    inverted = has_bright_border(images)
    dropped = f"; {len(paths) - len(keep)} copies left out" if len(keep) < len(paths) else ""
    return ImageSet(
        name=name or f"folder:{path}",
        images=255 - images if inverted else images,
        label=label,
        classes=classes,
        split=split,
        group=None,
        inverted=inverted,
        source=f"folder {path}{dropped}",
    )


def _given_split(parts: Sequence[str | None], classes: Sequence[str]) -> np.ndarray | None:
    """The split, <U5 [classes], by the folders (`parts`) or by a published list; None where neither says it."""
    split = None if None in parts else parts
    split = split or split_of_folder(classes)
    return None if split is None else np.array(split, dtype="<U5")


def decode_files(paths: Sequence[Path | str], size: int, channels: int) -> tuple[np.ndarray, list[str]]:
    """Decode on all cores: uint8 [N, size, size, channels] and each file's SHA-256; UserError names a bad file."""
    images = np.empty((len(paths), size, size, channels), np.uint8)

    def decode(item: tuple[int, Path | str]) -> str:
        index, path = item
        try:
            content = read_file(path, MOST_FILE_BYTES)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist") from None
        images[index] = decode_image(content, size, channels, name=str(path))
        return sha256_bytes(content)

    with ThreadPoolExecutor(available_cores()) as pool:
        return images, list(pool.map(decode, enumerate(paths)))


def _class_folders(path: Path) -> dict[str, tuple[str | None, Path]]:
    """Class name → (split or None, its folder)."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder with one sub-folder of images per class")
    if not path.is_dir():
        raise UserError(f"{path} is a file; give a folder with one sub-folder of images per class, or packed:FILE.npz")
    top = _sub_folders(path)
    if not top:
        raise UserError(f"{path} has no sub-folders; put the images into one sub-folder per class")
    if not all(folder.name in (*SPLITS, *_SPLIT_OF) for folder in top):
        return {folder.name: (None, folder) for folder in top}
    classes: dict[str, tuple[str | None, Path]] = {}
    for part in top:
        for folder in _sub_folders(part):
            if folder.name in classes:
                raise UserError(
                    f"class {folder.name!r} is in {classes[folder.name][0]} and in {part.name}: the split leaks; "
                    f"keep it in one of them, or give {part.parent / 'train'} alone, whose classes are split anew"
                )
            classes[folder.name] = (_SPLIT_OF.get(part.name, part.name), folder)
    if not classes:
        raise UserError(f"{path} has split folders but no class folders inside; expected {path}/train/CLASS/image")
    return classes


def _sub_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_grey(path: Path) -> bool:
    try:
        with open_image(path, str(path)) as image:
            return image.mode in GREY_MODES
    except UserError:
        return False  # decoding names the file and what is wrong with it


def _without_copies(paths: Sequence[Path], label: np.ndarray, split: np.ndarray, hashes: list[str]) -> np.ndarray:
    """Indices of the images without later copies in their class; UserError for a copy in another split."""
    first: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    keep = []
    for i, digest in enumerate(hashes):
        other = first.setdefault(digest, i)
        here, there = split[label[i]], split[label[other]]
        if here != there:
            raise UserError(
                f"{paths[other]} ({there}) and {paths[i]} ({here}) are the same file: the split leaks; remove one"
            )
        if (digest, int(label[i])) not in seen:
            seen.add((digest, int(label[i])))
            keep.append(i)
    return np.array(keep, dtype=np.int64)
