"""folder:PATH: PATH/CLASS/image, or PATH/train|val|test/CLASS/image where the split is given."""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gems_edge.control_groups import available_cores
from gems_edge.data.imageset import SPLITS, ImageSet, has_bright_border, split_classes
from gems_edge.data.published import split_of_folder
from gems_edge.errors import UserError
from gems_edge.files import read_file, sha256_bytes
from gems_edge.images import MOST_FILE_BYTES, decode_image, list_images, open_image, warn_left_out
from gems_edge.refusals import SKIP, check_readable, refuse_all

GREY_MODES = ("1", "L", "LA", "I", "I;16")
# Side of the images where none is asked for: mini-ImageNet's for colour, Omniglot's for greyscale.
COLOUR_SIZE, GREY_SIZE = 84, 28
# What other tools call a split.
_SPLIT_OF = {"valid": "val", "validation": "val"}


def read_folder(
    path: Path | str,
    image_size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    name: str = "",
    skip_bad: bool = False,
) -> ImageSet:
    """Read a folder of class folders. Without given splits those of a published list apply if it names every class of
    the folder (mini-ImageNet, CUB-200); else the classes are split by `split_classes` with `seed`.

    Images become greyscale only if the first readable image of every class is; greyscale images with a bright border
    are inverted. A file that occurs twice in a class counts once; one in two classes is named in a warning.

    Raises UserError for a missing, empty or flat folder, a class without images, a class or an identical file in two
    splits, and images that cannot be decoded: all of a kind are named at once. With `skip_bad` images that cannot be
    decoded are left out, each named in a warning, and a class of which none is left is refused.
    """
    path = Path(path)
    folders = _class_folders(path)
    classes = tuple(sorted(folders))
    files = _class_files(folders)
    if channels is None:
        channels = 1 if all(_is_grey(files[class_name]) for class_name in classes) else 3
    image_size = image_size or (GREY_SIZE if channels == 1 else COLOUR_SIZE)
    split = _given_split([folders[class_name][0] for class_name in classes], classes)
    if split is None:
        split = split_classes(len(classes), seed)

    paths = [file for class_name in classes for file in files[class_name]]
    label = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files[class_name]) for class_name in classes])
    images, hashes, problems = decode_files(paths, image_size, channels)
    check_readable(problems, len(paths), skip_bad, SKIP)
    good = np.flatnonzero([digest != "" for digest in hashes])
    _check_left(label[good], [folders[class_name][1] for class_name in classes])
    keep = _without_copies(paths, label, split, hashes)
    inverted = has_bright_border(images := images[keep])
    left_out = f"; {len(problems)} unreadable images left out" if problems else ""
    left_out += f"; {len(good) - len(keep)} copies left out" if len(keep) < len(good) else ""
    return ImageSet(
        name=name or f"folder:{path}",
        images=255 - images if inverted else images,
        label=label[keep],
        classes=classes,
        split=split,
        group=None,
        inverted=inverted,
        source=f"folder {path}{left_out}",
    )


def _class_files(folders: Mapping[str, tuple[str | None, Path]]) -> dict[str, list[Path]]:
    """The image files of every class; other files are named in warnings."""
    files = {name: list_images(folder) for name, (_, folder) in folders.items()}
    for _, folder in folders.values():
        warn_left_out(folder)
    refuse_all(
        [
            f"class {name!r} ({folders[name][1]}) has no images; add JPEG or PNG files or remove it"
            for name in sorted(files)
            if not files[name]
        ],
        "classes (named above) have no images; add JPEG or PNG files or remove them",
    )
    return files


def _check_left(label: np.ndarray, folders: Sequence[Path]) -> None:
    """UserError if no image of a class could be read; `label`: of those that could."""
    count = np.bincount(label, minlength=len(folders))
    refuse_all(
        [f"no image of {folder} can be read; add others or remove it" for folder, n in zip(folders, count) if n == 0],
        "classes (named above) have no images that can be read; add others or remove them",
    )


def _given_split(parts: Sequence[str | None], classes: Sequence[str]) -> np.ndarray | None:
    """The split, <U5 [classes], by the folders (`parts`) or by a published list; None where neither says it."""
    split = None if None in parts else parts
    split = split or split_of_folder(classes)
    return None if split is None else np.array(split, dtype="<U5")


def decode_files(paths: Sequence[Path | str], size: int, channels: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Decode on all cores: uint8 [N, size, size, channels], each file's SHA-256 or "" for one that cannot be read, and
    what is wrong with each of those."""
    images = np.zeros((len(paths), size, size, channels), np.uint8)

    def decode(item: tuple[int, Path | str]) -> tuple[str, str]:
        index, path = item
        try:
            content = read_file(path, MOST_FILE_BYTES)
            images[index] = decode_image(content, size, channels, name=str(path))
        except FileNotFoundError:
            return "", f"{path} does not exist"
        except UserError as error:
            return "", str(error)
        return sha256_bytes(content), ""

    with ThreadPoolExecutor(available_cores()) as pool:
        outcomes = list(pool.map(decode, enumerate(paths)))
    return images, [digest for digest, _ in outcomes], [problem for _, problem in outcomes if problem]


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
    leaking = []
    for part in top:
        for folder in _sub_folders(part):
            if folder.name in classes:
                leaking.append(
                    f"class {folder.name!r} is in {classes[folder.name][0]} and in {part.name}: the split leaks; "
                    f"keep it in one of them, or give {part.parent / 'train'} alone, whose classes are split anew"
                )
            classes[folder.name] = (_SPLIT_OF.get(part.name, part.name), folder)
    refuse_all(
        leaking,
        f"{len(leaking)} classes (named above) are in two splits: keep each in one, or give {path / 'train'} alone",
    )
    if not classes:
        raise UserError(f"{path} has split folders but no class folders inside; expected {path}/train/CLASS/image")
    return classes


def _sub_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_grey(paths: Sequence[Path]) -> bool:
    """Of the first that can be opened; decoding names the others and what is wrong with them."""
    for path in paths:
        try:
            with open_image(path, str(path)) as image:
                return image.mode in GREY_MODES
        except UserError:
            continue
    return False


def _without_copies(paths: Sequence[Path], label: np.ndarray, split: np.ndarray, hashes: list[str]) -> np.ndarray:
    """Indices of the readable images without later copies in their class; UserError for copies in another split, a
    warning for those in another class."""
    first: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    keep, leaks, in_two = [], [], []
    for i, digest in enumerate(hashes):
        if not digest or (digest, int(label[i])) in seen:
            continue
        seen.add((digest, int(label[i])))
        keep.append(i)
        other = first.setdefault(digest, i)
        here, there = split[label[i]], split[label[other]]
        if here != there:
            leaks.append(
                f"{paths[other]} ({there}) and {paths[i]} ({here}) are the same file: the split leaks; remove one"
            )
        elif other != i:
            in_two.append(f"{paths[other]} and {paths[i]} are the same file in two classes: one of them is wrong")
    refuse_all(leaks, f"{len(leaks)} files (named above) are in two splits: the split leaks; remove one of each")
    for problem in in_two:
        warnings.warn(problem, stacklevel=3)
    return np.array(keep, dtype=np.int64)
