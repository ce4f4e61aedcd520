"""The embedded data set: characters of matplotlib's bundled fonts, several faces each, with small jitter.

Nothing is downloaded: the fonts (DejaVu, STIX) come with matplotlib. A class is a character; a group is one face of
it, whose variants are near-duplicates. The images are cached after the first use.
"""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gems_edge.data.imageset import ImageSet
from gems_edge.data.packed import cached_set
from gems_edge.files import cache_directory

# Part of the cache's name: raise it with every change that alters a pixel, a class or a split.
VERSION = 1
SIZE = 28
SOURCE = (
    "characters rendered from matplotlib's bundled fonts (DejaVu: Bitstream Vera licence; STIX: STIX Fonts licence)"
)

# Distances of blurred shapes, chosen by looking at pairs: below the first, one outline reused by two faces; below the
# second, characters that a reader takes for one another at 28 × 28 or that differ by the form of an accent only.
SAME_FACE, SAME_CLASS = 0.04, 0.10

# The reference faces (one sans, one serif) come first: classes are compared in them.
REFERENCE_FACES = ("DejaVuSans", "DejaVuSerif")
FACES = REFERENCE_FACES + (
    *("DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"),
    *("DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSerif-Italic", "DejaVuSerif-Bold"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
)
MIN_FACES = 8
# Enough for 5 shots and 15 queries that share no face.
MIN_IMAGES = 24
# Two times 28, so that jitter samples from a finer grid than it writes.
CANVAS, INK = 2 * SIZE, 40


@dataclass(frozen=True)
class Jitter:
    """Ranges of the uniform jitter of one image."""

    rotation: float = 8.0  # degrees, either way
    shear: float = 0.10  # horizontal, either way
    scale: tuple[float, float] = (0.88, 1.08)  # each axis on its own
    shift: float = 1.5  # pixels of 28, either way
    stroke: float = 0.7  # share of a one-pixel (of 56) erosion (negative) or dilation (positive)


def load_glyphs(limit: int | None = None) -> ImageSet:
    """The glyphs set from the cache, rendered first if the cache has none that can be read.

    `limit` takes the first characters only (for tests); the cache of the full set is not touched by it.
    """
    return cached_set(glyphs_cache(limit).name, "glyphs", lambda: render_glyphs(limit))


def glyphs_cache(limit: int | None = None) -> Path:
    """Where the rendered set is cached."""
    part = "" if limit is None else f"-first{limit}"
    return cache_directory() / f"glyphs-v{VERSION}{part}.npz"


def render_glyphs(limit: int | None = None, seed: int = 0, jitter: Jitter = Jitter()) -> ImageSet:
    """Render the set: a pure function of its arguments and of the fonts that matplotlib brings."""
    characters = candidates()[:limit]
    characters = [characters[i] for i in distinct_classes(*render_faces(characters, REFERENCE_FACES))]
    canvases, present = render_faces(characters, FACES)
    keep = np.flatnonzero(present.sum(1) >= MIN_FACES)
    characters, canvases, present = [characters[i] for i in keep], canvases[keep], present[keep]
    label, face = _variants(present)
    random = np.random.default_rng([seed, VERSION])
    rows = []
    for start in range(0, len(label), 2048):
        part = slice(start, start + 2048)
        rows.append(_jittered(canvases[label[part], face[part]], random, jitter))
    return ImageSet(
        name="glyphs",
        images=np.concatenate(rows)[..., None],
        label=label,
        classes=tuple(f"U+{ord(c):04X} {unicodedata.name(c, 'UNNAMED')}" for c in characters),
        split=_split_by_base(characters, seed),
        group=len(FACES) * label + face,
        inverted=True,
        source=SOURCE,
    )


def _variants(present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and face of every image, int64 [N]: of each class as many variants of each face as MIN_IMAGES needs."""
    classes, faces = [], []
    for class_id, has in enumerate(present):
        its_faces = np.flatnonzero(has)
        variants = -(-MIN_IMAGES // len(its_faces))
        faces.append(np.repeat(its_faces, variants))
        classes.append(np.full(len(its_faces) * variants, class_id))
    return np.concatenate(classes).astype(np.int64), np.concatenate(faces).astype(np.int64)


def candidates() -> list[str]:
    """Characters that at least MIN_FACES faces map, in code point order.

    Left out are variants by definition of another character (superscripts, ligatures, full width, mathematical
    alphabets), stacked accents, patterns that only their position in the cell tells apart (Braille, box drawing),
    and everything that is no letter, number, punctuation mark or symbol.
    """
    count: dict[int, int] = {}
    for face in FACES:
        for code in _font(face).get_charmap():
            count[code] = count.get(code, 0) + 1
    return [chr(code) for code in sorted(count) if count[code] >= MIN_FACES and _is_class(chr(code))]


def _is_class(character: str) -> bool:
    if (
        unicodedata.category(character)[0] not in "LNPS"
        or 0x2500 <= ord(character) < 0x25A0
        or 0x2800 <= ord(character) < 0x2900
    ):
        return False
    parts = unicodedata.normalize("NFKD", character)
    return len(parts) == 1 and parts == character or len(parts) == 2 and unicodedata.combining(parts[1]) > 0


def render_faces(characters: list[str], faces: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Each character in each face: uint8 [characters, faces, CANVAS, CANVAS] (ink 255, longest side INK, centred), and
    bool [characters, faces]: the face has an outline for it that no earlier face of that character repeats."""
    canvases = np.zeros((len(characters), len(faces), CANVAS, CANVAS), np.uint8)
    present = np.zeros((len(characters), len(faces)), bool)
    for j, face in enumerate(faces):
        font = _font(face)
        font.set_size(INK, 72)
        charmap = font.get_charmap()
        for i, character in enumerate(characters):
            # Index 0 is the empty box that fonts show for what they lack.
            if charmap.get(ord(character), 0):
                present[i, j] = _draw(font, character, canvases[i, j])
    _drop_repeated_faces(canvases, present)
    return canvases, present


def _draw(font: Any, character: str, canvas: np.ndarray) -> bool:
    font.set_text(character, 0.0)
    font.draw_glyphs_to_bitmap(antialiased=True)
    bitmap = np.asarray(font.get_image())
    rows, columns = np.flatnonzero(bitmap.max(1, initial=0) > 64), np.flatnonzero(bitmap.max(0, initial=0) > 64)
    if not len(rows):
        return False
    bitmap = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # One longest side for all: size does not tell classes apart, as it does not in a photo either.
    factor = INK / max(bitmap.shape)
    height, width = (max(1, round(side * factor)) for side in bitmap.shape)
    image = Image.fromarray(bitmap).resize((width, height), Image.Resampling.BILINEAR)
    top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(image)
    return True


def _drop_repeated_faces(canvases: np.ndarray, present: np.ndarray) -> None:
    """Many symbols have one outline in several faces: only the first stays, or support and query would share it."""
    small = _blurred(canvases.reshape(-1, CANVAS, CANVAS)).reshape(*present.shape, -1)
    for j in range(1, present.shape[1]):
        for earlier in range(j):
            both = present[:, j] & present[:, earlier]
            a, b = small[both, j], small[both, earlier]
            present[np.flatnonzero(both)[_distance(a, b) < SAME_FACE], j] = False


def distinct_classes(canvases: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Indices of the characters that have an outline and look like no kept earlier one in any of the given faces.

    Latin A, Greek Alpha and Cyrillic A are one class: as three they would be label noise and leak between splits.
    """
    kept = np.flatnonzero(present.any(1))
    for face in range(present.shape[1]):
        shapes = _blurred(canvases[kept, face]).reshape(len(kept), -1)
        shapes /= np.linalg.norm(shapes, axis=1, keepdims=True) + 1e-6
        has = present[kept, face]
        similar = (shapes @ shapes.T > 1 - SAME_CLASS / 2) & has[:, None] & has[None, :]
        stays = np.ones(len(kept), bool)
        for i in range(len(kept)):
            if stays[i]:
                stays[i + 1 :] &= ~similar[i, i + 1 :]
        kept = kept[stays]
    return kept


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distance of normalised rows: 0 for equal shapes, whatever their amount of ink."""
    product: np.ndarray = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-6)
    return 2 * (1 - product)


def _blurred(canvases: np.ndarray) -> np.ndarray:
    """uint8 [N, CANVAS, CANVAS] → float32 [N, CANVAS/4, CANVAS/4], means of 8 × 8 windows at a stride of 4."""
    blocks = canvases.reshape(len(canvases), CANVAS // 4, 4, CANVAS // 4, 4).mean((2, 4), dtype=np.float32) / 255
    padded = np.pad(blocks, ((0, 0), (0, 1), (0, 1)))
    sums: np.ndarray = padded[:, 1:, 1:] + padded[:, :-1, 1:] + padded[:, 1:, :-1] + padded[:, :-1, :-1]
    return sums / 4


def _jittered(canvases: np.ndarray, random: np.random.Generator, jitter: Jitter) -> np.ndarray:
    """uint8 [N, CANVAS, CANVAS] → uint8 [N, SIZE, SIZE], each with its own stroke width and affine map."""
    count = len(canvases)
    angle = np.deg2rad(random.uniform(-jitter.rotation, jitter.rotation, count))
    shear = random.uniform(-jitter.shear, jitter.shear, count)
    scale = random.uniform(*jitter.scale, (2, count))
    shift = random.uniform(-jitter.shift, jitter.shift, (2, count))
    stroke = random.uniform(-jitter.stroke, jitter.stroke, count).astype(np.float32)

    halved = _halved(_thickened(canvases, stroke))
    grid = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array(
        [[cos / scale[0], (sin + shear * cos) / scale[0]], [-sin / scale[1], (cos - shear * sin) / scale[1]]],
        np.float32,
    )
    x, y = (grid - shift[i][:, None].astype(np.float32) for i in range(2))
    source_x = (
        matrix[0, 0][:, None, None] * x[:, None, :] + matrix[0, 1][:, None, None] * y[:, :, None] + (SIZE - 1) / 2
    )
    source_y = (
        matrix[1, 0][:, None, None] * x[:, None, :] + matrix[1, 1][:, None, None] * y[:, :, None] + (SIZE - 1) / 2
    )
    sampled = _sampled(halved, source_x, source_y)
    # Hairlines of light faces stay as bright as the ink of the others.
    sampled *= 255 / np.maximum(sampled.max((1, 2), keepdims=True), 1)
    pixels: np.ndarray = np.rint(sampled).astype(np.uint8)
    return pixels


def _thickened(canvases: np.ndarray, stroke: np.ndarray) -> np.ndarray:
    """Blend of each canvas with its one-pixel dilation (stroke > 0) or erosion (stroke < 0), float32."""
    out = canvases.astype(np.float32)
    for sign, extreme in ((1, np.maximum), (-1, np.minimum)):
        chosen = np.flatnonzero(np.sign(stroke) == sign)
        part = canvases[chosen]
        moved = part.copy()
        extreme(moved[:, 1:], part[:, :-1], out=moved[:, 1:])
        extreme(moved[:, :-1], part[:, 1:], out=moved[:, :-1])
        tall = moved.copy()
        extreme(moved[:, :, 1:], tall[:, :, :-1], out=moved[:, :, 1:])
        extreme(moved[:, :, :-1], tall[:, :, 1:], out=moved[:, :, :-1])
        weight = np.abs(stroke[chosen])[:, None, None]
        out[chosen] += weight * (moved.astype(np.float32) - out[chosen])
    return out


def _halved(canvases: np.ndarray) -> np.ndarray:
    sums: np.ndarray = canvases[:, ::2, ::2] + canvases[:, 1::2, ::2] + canvases[:, ::2, 1::2] + canvases[:, 1::2, 1::2]
    return sums / 4


def _sampled(images: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of float32 [N, H, W] at x, y [N, …] in pixels, 0 outside."""
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    x, y = np.clip(x + 1, 0, width + 0.999), np.clip(y + 1, 0, height + 0.999)
    left, top = x.astype(np.int32), y.astype(np.int32)
    right_share, low_share = x - left, y - top
    first = top * (width + 2) + left + (np.arange(count, dtype=np.int32) * (height + 2) * (width + 2))[:, None, None]
    upper = padded[first] * (1 - right_share) + padded[first + 1] * right_share
    lower = padded[first + width + 2] * (1 - right_share) + padded[first + width + 3] * right_share
    values: np.ndarray = upper * (1 - low_share) + lower * low_share
    return values


def _split_by_base(characters: list[str], seed: int) -> np.ndarray:
    """About 64/12/24 % of the characters; letters that differ by an accent or by case stay in one split."""
    bases = [unicodedata.normalize("NFD", character)[0].casefold() for character in characters]
    order = sorted(set(bases))
    np.random.default_rng([seed, VERSION, 1]).shuffle(order)
    size = {base: 0 for base in order}
    for base in bases:
        size[base] += 1
    ends = np.cumsum([size[base] for base in order]) / len(characters)
    of_base = {base: "train" if end <= 0.64 else "val" if end <= 0.76 else "test" for base, end in zip(order, ends)}
    return np.array([of_base[base] for base in bases], dtype="<U5")


def _font(face: str) -> Any:
    # Importing matplotlib makes a directory in the user's home unless it is told of another place.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_directory() / "matplotlib"))
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"))
