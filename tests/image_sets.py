"""Small image sets: three that a network can learn, of different sizes and channels, and flat-coloured icons."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gems_edge.data.glyphs import load_glyphs
from gems_edge.data.imageset import ImageSet
from gems_edge.data.mixture import Mixture
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


# Of places x, y in −1…1: whether they lie inside.
FORMS = {
    "disc": lambda x, y: x**2 + y**2 < 1,
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.8) < 0.2,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.9,
    "frame": lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.75) < 0.2,
    "diamond": lambda x, y: abs(x) + abs(y) < 1,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    "triangle": lambda x, y: (y < 0.7) & (y > 2 * abs(x) - 1),
    "half": lambda x, y: (x**2 + y**2 < 1) & (x < 0),
}


def flat_icons(size: int, seed: int, channels: int = 3, each: int = 10) -> Mixture:
    """Signs of one colour on a ground of one colour, a form a class, in the split "test": no two pixels of an area
    differ, so that values tie under every pool."""
    random = np.random.default_rng(seed)
    places = (np.arange(size) + 0.5) / size * 2 - 1
    images = []
    for inside in FORMS.values():
        colors = random.integers(0, 256, (2, channels))
        for _ in range(each):
            scale, (x, y) = random.uniform(0.4, 0.8), random.uniform(-0.2, 0.2, 2)
            form = inside((places[None, :] - x) / scale, (places[:, None] - y) / scale)
            images.append(np.where(form[..., None], *colors).astype(np.uint8))
    label, split = np.arange(len(FORMS)).repeat(each), np.array(["test"] * len(FORMS))
    icons = ImageSet("icons", np.stack(images), label, tuple(FORMS), split, None, False, "made by a test")
    return Mixture(("icons",), (icons,))
