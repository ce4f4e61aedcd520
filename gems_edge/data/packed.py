"""packed:FILE.npz: many images in one file, as encoded bytes or as pixels.

Arrays: `classes` and `split` (text: the name of each class, and train, val or test), `label` (the class of each image,
an index), and the images. These are `images`, uint8 [N, H, W] or [N, H, W, 1 or 3], or `data`, the bytes of encoded
files one after the other, with `offset` [N + 1]. Optional: `meta`, a JSON object (source, licence or terms, size,
channels, inverted, group_kind), and `group` [N] of near-duplicates, which counts where group_kind is "track".
The images are as a camera sees them; meta.inverted says that a reader must give 255 − x.
"""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gems_edge.data.archive import check_memory, read_arrays
from gems_edge.data.imageset import SPLITS, ImageSet, has_bright_border, resize_images
from gems_edge.errors import UserError
from gems_edge.files import cache_directory, parse_json, write_atomic
from gems_edge.images import decode_image, is_image, open_image
from gems_edge.refusals import SKIP, check_readable

JPEG_QUALITY = 92
# Read if present; any other key of the file is left alone.
KEYS = ("classes", "label", "split", "data", "offset", "images", "group", "meta")


def read_packed(
    path: Path | str,
    image_size: int | None = None,
    channels: int | None = None,
    name: str = "",
    skip_bad: bool = False,
) -> ImageSet:
    """Read a packed file; size and channels are the file's own unless given.

    Greyscale images are inverted if meta.inverted says so or, where it says nothing, if their border is bright.
    Raises UserError for a file that is missing, foreign, truncated or not consistent, naming what is wrong, and for
    images that cannot be decoded: all are named. With `skip_bad` they are left out, each named in a warning.
    """
    path = Path(path)
    arrays = read_arrays(path, KEYS)
    meta = _meta(arrays, path)
    classes, label, split = _checked_classes(arrays, path)
    if "images" in arrays:
        images = _stored_pixels(arrays["images"], len(label), path)
        size, channels = image_size or min(images.shape[1:3]), channels or images.shape[3]
        images, good = resize_images(images, size, channels), np.arange(len(label))
    elif "data" in arrays and "offset" in arrays:
        images, good = _decoded(arrays, classes, label, image_size, channels, path, skip_bad)
    else:
        raise UserError(
            f"{path} holds no images (neither images nor data and offset); pack it with gems-edge data pack"
        )
    inverted = bool(meta.get("inverted", has_bright_border(images)))
    terms = str(meta.get("licence") or meta.get("terms") or "").strip()
    source = str(meta.get("source") or path.name)
    if len(good) < len(label):
        source += f"; {len(label) - len(good)} unreadable images left out"
    return ImageSet(
        name=name or f"packed:{path}",
        images=255 - images if inverted else images,
        label=label[good],
        classes=classes,
        split=split,
        group=_group(arrays, len(label), path)[good] if meta.get("group_kind") == "track" else None,
        inverted=inverted,
        source=f"{source}; {terms}" if terms else source,
    )


def write_packed(image_set: ImageSet, path: Path | str, *, encode: bool = True, source: str = "") -> None:
    """Write a packed file atomically: JPEG for colour, PNG for greyscale; `encode=False` stores the pixels."""
    images = 255 - image_set.images if image_set.inverted else image_set.images
    meta = {
        "source": source or image_set.source,
        "size": list(images.shape[1:3]),
        "channels": images.shape[3],
        "inverted": image_set.inverted,
        "group_kind": "none" if image_set.group is None else "track",
    }
    arrays = {
        "classes": np.array(image_set.classes, dtype=np.str_),
        "label": image_set.label.astype(np.int16 if len(image_set.classes) < 2**15 else np.int32),
        "split": image_set.split.astype("<U5"),
        "meta": np.array(json.dumps(meta, ensure_ascii=False)),
    }
    if image_set.group is not None:
        arrays["group"] = image_set.group.astype(np.int32)
    if encode:
        encoded = [_encode(pixels) for pixels in images]
        arrays["data"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays["offset"] = np.cumsum([0] + [len(part) for part in encoded], dtype=np.int64)
    else:
        arrays["images"] = images
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())


def cached_set(file_name: str, name: str, build: Callable[[], ImageSet]) -> ImageSet:
    """The set from the cache file, or built and cached; a damaged cache file is built anew.

    A cache that cannot be written costs time at the next use, nothing else.
    """
    path = cache_directory() / file_name
    if path.exists():
        try:
            return read_packed(path, name=name)
        except UserError:
            pass
    image_set = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_packed(image_set, path, encode=False)
    except OSError:
        pass
    return image_set


def _meta(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    if "meta" not in arrays:
        return {}
    meta = parse_json(str(arrays["meta"]).encode(errors="replace"), f"{path}: meta")
    if not isinstance(meta, dict):
        raise UserError(f"{path}: meta is not a JSON object")
    return meta


def _checked_classes(arrays: dict[str, np.ndarray], path: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    for key in ("classes", "label", "split"):
        if key not in arrays:
            raise UserError(f"{path} lacks {key!r}: it is no packed data file; write it with gems-edge data pack")
        if arrays[key].ndim != 1:
            raise UserError(f"{path}: {key} has {arrays[key].ndim} dimensions, must have 1")
    classes, label, split = arrays["classes"], arrays["label"], arrays["split"]
    if classes.dtype.kind != "U" or split.dtype.kind != "U" or label.dtype.kind not in "iu":
        raise UserError(f"{path}: classes and split must be text and label whole numbers")
    names = tuple(classes.tolist())
    if len(split) != len(names):
        raise UserError(
            f"{path}: split has {len(split)} entries for {len(names)} classes; it must name one split per class"
        )
    splits: dict[str, str] = {}
    for name, part in zip(names, split.tolist()):
        if part not in SPLITS:
            raise UserError(f"{path}: class {name!r} is in split {part!r}; use train, val or test")
        if name in splits:
            where = f"in {splits[name]} and {part}: the split leaks" if splits[name] != part else f"twice in {part}"
            raise UserError(f"{path}: class {name!r} is listed {where}; every class belongs to one split")
        splits[name] = part
    if len(label) == 0:
        raise UserError(f"{path} holds no images")
    if label.min() < 0 or label.max() >= len(names):
        raise UserError(
            f"{path}: label {label.min() if label.min() < 0 else label.max()} names no class (there are {len(names)})"
        )
    return names, label.astype(np.int64), split.astype("<U5")


def _stored_pixels(images: np.ndarray, count: int, path: Path) -> np.ndarray:
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:3]:
        raise UserError(
            f"{path}: images are {images.dtype} {list(images.shape)}; they must be uint8 [N, H, W] or [N, H, W, 1 or 3]"
        )
    if len(images) != count:
        raise UserError(f"{path}: {len(images)} images for {count} labels; the file is inconsistent, pack it anew")
    return images


def _decoded(
    arrays: dict[str, np.ndarray],
    classes: Sequence[str],
    label: np.ndarray,
    image_size: int | None,
    channels: int | None,
    path: Path,
    skip_bad: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The images that can be read, uint8 [n, S, S, C], and their numbers, int64 [n]."""
    data, offset = arrays["data"], arrays["offset"]
    count = len(label)
    sound = data.dtype == np.uint8 and data.ndim == 1 and offset.dtype.kind in "iu" and offset.shape == (count + 1,)
    if not sound or offset[0] != 0 or offset[-1] > len(data) or (np.diff(offset.astype(np.int64)) <= 0).any():
        raise UserError(f"{path}: data and offset do not hold {count} images; the file is inconsistent, pack it anew")
    parts = [data[offset[i] : offset[i + 1]].tobytes() for i in range(count)]
    if image_size is None or channels is None:
        size, own_channels = _format(parts, _meta(arrays, path), image_size, path)
        image_size, channels = image_size or size, channels or own_channels
    check_memory(count * image_size * image_size * channels, path, "decoded")
    images = np.empty((count, image_size, image_size, channels), np.uint8)
    good, problems = [], []
    for i, part in enumerate(parts):
        try:
            images[i] = decode_image(
                part, image_size, channels, name=f"{path}: image {i} (class {classes[label[i]]!r})"
            )
            good.append(i)
        except UserError as error:
            problems.append(str(error))
    check_readable(problems, count, skip_bad, SKIP)
    return images[good] if problems else images, np.array(good, dtype=np.int64)


def _format(parts: Sequence[bytes], meta: dict[str, Any], asked: int | None, path: Path) -> tuple[int, int]:
    """Size (`asked`, if any) and channels of the file: what meta says, else those of the first image that opens."""
    number = next((number for number, part in enumerate(parts) if is_image(part)), 0)
    with open_image(parts[number], f"{path}: image {number}") as image:
        size, largest = min(image.size), max(image.size)
        channels = 1 if image.mode in ("1", "L", "LA", "I;16") else 3
    sides = meta.get("size")
    if isinstance(sides, list) and sides and all(isinstance(side, int) and side > 0 for side in sides):
        size = min(sides)
        if asked is None and size > largest:
            raise UserError(
                f"{path}: meta says {size} pixels, its first image has {largest}; pack it anew, or give --image-size"
            )
    return asked or size, meta["channels"] if meta.get("channels") in (1, 3) else channels


def _group(arrays: dict[str, np.ndarray], count: int, path: Path) -> np.ndarray:
    group = arrays.get("group")
    if group is None or group.shape != (count,) or group.dtype.kind not in "iu":
        raise UserError(f"{path}: meta.group_kind is 'track', so group must hold {count} whole numbers, one per image")
    return group.astype(np.int64)


def _encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    if pixels.shape[2] == 1:
        Image.fromarray(pixels[:, :, 0]).save(buffer, "PNG", optimize=True)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
