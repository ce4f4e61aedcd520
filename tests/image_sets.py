"""Three small image sets that a network can learn, of different sizes and channels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gems_edge.data.glyphs import load_glyphs
from gems_edge.data.imageset import ImageSet
from gems_edge.data.packed import write_packed

CLASSES = 16
SPLIT = np.array(["train"] * 6 + ["val"] * 5 + ["test"] * 5)
# name → pixels on a side, channels
SHAPES = {"ink": (28, 1), "tint": (32, 3), "slant": (28, 1)}


def write_image_sets(place: Path) -> Path:
    """place/ink.npz: characters, black on white paper; tint.npz: others in colours on coloured grounds; slant.npz: a
    third lot, light on dark, turned and blurred. 16 classes each, in groups as the embedded characters."""
    glyphs = load_glyphs(60)
    for number, (name, draw) in enumerate({"ink": lambda image: image, "tint": _tinted, "slant": _slanted}.items()):
        part = _some(
            glyphs, range(number, number + 2 * CLASSES, 2) if number < 2 else range(len(glyphs.classes))[-CLASSES:]
        )
        images = np.stack([np.asarray(draw(Image.fromarray(pixels[:, :, 0]))) for pixels in part.images])
        images = images.reshape(*images.shape[:3], -1)
        write_packed(
            replace(part, images=images, inverted=name == "ink", source="made by a test"), place / f"{name}.npz"
        )
    return place


def _some(glyphs: ImageSet, classes: range) -> ImageSet:
    """Those classes as a set of their own, split by SPLIT."""
    chosen = np.isin(glyphs.label, classes)
    label = np.searchsorted(classes, glyphs.label[chosen])
    names = tuple(glyphs.classes[number] for number in classes)
    return replace(
        glyphs, images=glyphs.images[chosen], label=label, classes=names, split=SPLIT, group=glyphs.group[chosen]
    )


def _tinted(image: Image.Image) -> Image.Image:
    """Each image has colours of its own, seeded by its pixels."""
    random = np.random.default_rng(int(np.asarray(image, np.int64).sum()))
    ink, ground = (
        Image.new("RGB", image.size, tuple(color))
        for color in random.integers(((0,) * 3, (150,) * 3), ((110,) * 3, (256,) * 3)).tolist()
    )
    return Image.composite(ink, ground, image).resize((32, 32))


def _slanted(image: Image.Image) -> Image.Image:
    return image.rotate(30).filter(ImageFilter.GaussianBlur(0.7))
