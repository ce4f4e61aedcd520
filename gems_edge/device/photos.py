"""What a state keeps of every taught photo, so that it can be taught with again: one file each, named by its hash.

A file (safetensors) holds the trunk's features in float16 and a thumbnail for people, or without a trunk the pixels at
the model's size, as PNG. It is written before the slot that names it and removed after the last that did, so a power
cut leaves at most files that nothing names, which the next save removes.
"""

import contextlib
import hashlib
import io
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image

from gems_edge.device.bundle import Bundle
from gems_edge.errors import UserError
from gems_edge.files import read_plain, sha256_bytes, write_atomic
from gems_edge.images import decode_image

DIRECTORY = "photos"
_FILE = re.compile(r"[0-9a-f]{32}\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.safetensors\..*\.tmp")
_MOST_BYTES = 64 << 20
_THUMBNAIL_SIDE, _THUMBNAIL_QUALITY = 96, 75
_BESIDE = 4096  # a thumbnail and the header of its file


@dataclass(frozen=True)
class Kept:
    """What one photo is taught with: `fed` is float16 features of the trunk, or without a trunk the pixels [S, S, C],
    uint8 or float32 in 0…1. `thumbnail`: a small picture for people, JPEG, or b"" where the pixels are one."""

    fed: np.ndarray
    thumbnail: bytes


class LostPhoto(Exception):
    """What was kept of a photo, in a file of this name, is missing or damaged."""


def as_kept(features: np.ndarray) -> np.ndarray:
    """The trunk's features, float32, rounded as they are kept: what the steps are fed."""
    return features.astype(np.float16).astype(np.float32)


def picture_hash(pixels: np.ndarray) -> str:
    """By which one picture [S, S, C] is known again."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:32]


def small_picture(pixels: np.ndarray, inverted: bool) -> bytes:
    """A JPEG of at most 96 × 96 pixels, as people saw it."""
    image = _image(pixels if pixels.dtype == np.uint8 else (255 * pixels).astype(np.uint8), inverted)
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    return _saved(image, "JPEG", quality=_THUMBNAIL_QUALITY)


def thumbnail(kept: Kept, inverted: bool) -> bytes:
    """The picture for people, JPEG."""
    return kept.thumbnail or small_picture(kept.fed, inverted)


def picture(kept: Kept, inverted: bool) -> bytes:
    """The best picture that is left of the photo: its pixels as PNG, or the thumbnail."""
    if kept.fed.dtype == np.uint8:
        return _saved(_image(kept.fed, inverted), "PNG", optimize=True)
    return kept.thumbnail


def encode(kept: Kept, inverted: bool) -> bytes:
    """The content of a photo's file."""
    if kept.fed.dtype == np.uint8:
        return safetensors.numpy.save({"picture": np.frombuffer(picture(kept, inverted), np.uint8)})
    tensors = {"fed": np.ascontiguousarray(kept.fed), "thumbnail": np.frombuffer(kept.thumbnail, np.uint8)}
    return safetensors.numpy.save(tensors)


def decode(content: bytes, bundle: Bundle) -> Kept:
    """Raises LostPhoto for what this bundle cannot be taught with."""
    size, channels = bundle.image_size, bundle.channels
    try:
        tensors = safetensors.numpy.load(content)
        if bundle.trunk is None and "picture" in tensors:
            png = tensors["picture"].tobytes()
            return Kept(decode_image(png, size, channels, invert=bundle.inverted), b"")
        fed, small = tensors["fed"], tensors["thumbnail"].tobytes()
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, UserError):
        raise LostPhoto from None
    dtype, shape = (np.float32, (size, size, channels)) if bundle.trunk is None else (np.float16, bundle.trunk.features)
    if fed.dtype != dtype or fed.shape != shape or not np.isfinite(fed).all():
        raise LostPhoto
    return Kept(fed, small)


def file_name(content: bytes) -> str:
    return f"{sha256_bytes(content)[:32]}.safetensors"


def is_file_name(name: object) -> bool:
    return isinstance(name, str) and _FILE.fullmatch(name) is not None


def read_photo(state: Path, file: str) -> bytes:
    """The content of a photo's file; LostPhoto if it is missing or not what was written."""
    try:
        content = read_plain(state / DIRECTORY / file, _MOST_BYTES)
    except (OSError, UserError):
        raise LostPhoto(file) from None
    if file_name(content) != file:
        raise LostPhoto(file)
    return content


def write_photos(state: Path, files: Collection[str], fetch: Callable[[str], bytes]) -> None:
    """Have all `files` there; the contents of those that are not come from `fetch`. Raises OSError as write_atomic."""
    if files:
        (state / DIRECTORY).mkdir(exist_ok=True)
    for file in files:
        with contextlib.suppress(LostPhoto):
            read_photo(state, file)
            continue
        write_atomic(state / DIRECTORY / file, fetch(file))


def sweep_photos(state: Path, used: Collection[str]) -> None:
    """Remove what no slot names. Other files are left alone."""
    with contextlib.suppress(OSError):
        for file in unnamed_photos(state, used):
            (state / DIRECTORY / file).unlink()


def unnamed_photos(state: Path, used: Collection[str]) -> list[str]:
    """The files of photos, and of those that were cut off while they were written, that are not `used`."""
    directory = state / DIRECTORY
    found = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    ours = (name for name in found if _FILE.fullmatch(name) or _TEMPORARY.fullmatch(name))
    return sorted(name for name in ours if name not in used)


def are_only_photos(directory: Path) -> bool:
    """Whether `directory` is what a save leaves that ended before its first slot."""
    return directory.is_dir() and all(_FILE.fullmatch(e.name) or e.name.startswith(".") for e in directory.iterdir())


def most_bytes(bundle: Bundle) -> int:
    """About the most that one photo of uint8 takes: features and a thumbnail, or pixels that do not pack."""
    if bundle.trunk is None:
        return bundle.image_size**2 * bundle.channels + _BESIDE
    return 2 * math.prod(bundle.trunk.features) + _BESIDE


def photos_bytes(state: Path) -> int:
    """The size of all of them."""
    directory = state / DIRECTORY
    return sum(entry.lstat().st_size for entry in directory.iterdir()) if directory.is_dir() else 0


def _image(pixels: np.ndarray, inverted: bool) -> Image.Image:
    seen = 255 - pixels if inverted else pixels
    return Image.fromarray(seen[..., 0] if seen.shape[-1] == 1 else seen)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
