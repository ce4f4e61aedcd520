"""A set of labelled images in memory and what can be done to it without knowing where it came from (numpy only)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from gems_edge.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, all of one size, with every class in exactly one split."""

    name: str  # the spec the user gave
    images: np.ndarray  # uint8 [N, H, W, C], C 1 or 3, H == W; greyscale line art has a dark background
    label: np.ndarray  # int64 [N], index into classes
    classes: tuple[str, ...]
    split: np.ndarray  # <U5 [classes]: train | val | test
    # int64 [N]: near-duplicates share a number, and support and query never share a group; None: no such groups
    group: np.ndarray | None
    inverted: bool  # images were inverted on reading (255 − x): the board must do the same with its photos
    source: str  # one line: where it came from, terms

    def of_split(self, split: str) -> np.ndarray:
        """Class ids of one split, int64, ascending."""
        return np.flatnonzero(self.split == split)

    def class_sizes(self) -> np.ndarray:
        """Images per class, int64 [classes]."""
        return np.bincount(self.label, minlength=len(self.classes))


def split_classes(count: int, seed: int = 0) -> np.ndarray:
    """A seeded split of `count` classes, <U5 [count]: 64/16/20 % as in mini-ImageNet.

    Validation and test get at least five classes each (5-way episodes) from 15 classes on; below that a third each,
    so that every split has at least two. UserError for fewer than six classes.
    """
    if count < 6:
        raise UserError(
            f"{count} classes cannot be split into train, val and test with at least 2 each; "
            "add classes, or give the split yourself as PATH/train|val|test/CLASS"
        )
    val, test = (count // 3, count // 3) if count < 15 else (max(5, round(0.16 * count)), max(5, round(0.2 * count)))
    split = np.array(["train"] * (count - val - test) + ["val"] * val + ["test"] * test, dtype="<U5")
    return split[np.random.default_rng([seed, count]).permutation(count)]


def resize_images(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """uint8 [N, H, W, C] → [N, size, size, channels] cut and resized as by images.decode_image."""
    if images.shape[1:] == (size, size, channels):
        return images
    mode = {1: "L", 3: "RGB"}[channels]
    out = np.empty((len(images), size, size, channels), np.uint8)
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert(mode)
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        out[i] = np.asarray(image).reshape(size, size, channels)
    return out


def resized(image_set: ImageSet, size: int | None, channels: int | None) -> ImageSet:
    """The set at another size or number of channels; None keeps what it has."""
    _, own_size, _, own_channels = image_set.images.shape
    return replace(image_set, images=resize_images(image_set.images, size or own_size, channels or own_channels))


def has_bright_border(images: np.ndarray) -> bool:
    """True for line art on white paper: greyscale [N, H, W, 1] whose outermost pixels have a median above 127."""
    if images.shape[3] != 1:
        return False
    border = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
    return bool(np.median(np.concatenate([side.reshape(-1) for side in border])) > 127)


def contact_sheet(image_set: ImageSet, columns: int = 12, classes: int = 24) -> Image.Image:
    """A picture of up to `classes` classes spread over the set: one row each, `columns` images."""
    chosen = np.unique(np.linspace(0, len(image_set.classes) - 1, min(classes, len(image_set.classes))).astype(int))
    size = image_set.images.shape[1]
    sheet = Image.new("RGB", (columns * (size + 1), len(chosen) * (size + 1)), (90, 90, 90))
    for row, class_id in enumerate(chosen):
        members = np.flatnonzero(image_set.label == class_id)
        for column, index in enumerate(_spread(members, columns)):
            pixels = image_set.images[index]
            tile = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            sheet.paste(tile.convert("RGB"), (column * (size + 1), row * (size + 1)))
    factor = max(1, round(56 / size))
    return sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST)


def _spread(members: np.ndarray, count: int) -> Sequence[int]:
    if len(members) > count:
        members = members[np.linspace(0, len(members) - 1, count).astype(int)]
    return [int(member) for member in members]
