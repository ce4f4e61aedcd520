"""The one way from an image file to pixels, used alike by training data and by the board (Pillow and numpy only)."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gems_edge.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# The same for Pillow, which goes by content: it knows 40 formats more, of which EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# A decoded 50-megapixel photo takes 150 MB; a 512 MB board cannot hold more beside the model.
MAX_PIXELS = 50_000_000


def decode_image(
    source: Path | str | bytes, size: int, channels: int, *, invert: bool = False, name: str = ""
) -> np.ndarray:
    """Decode one still image to uint8 [size, size, channels].

    The orientation tag is applied, the largest centred square is cut out and resized (bilinear with antialiasing);
    grey, palette, CMYK and transparent images are converted to `channels` (1: luminance, 3: RGB; transparency on
    white). `invert` gives 255 − x, for dark ink on white paper.

    Raises UserError for a file that is missing, not one of FORMATS, truncated, animated, or above MAX_PIXELS.
    """
    label = name or (str(source) if not isinstance(source, bytes) else "image")
    with open_image(source, label) as image:
        return _to_pixels(image, label, size, channels, invert)


@contextmanager
def open_image(source: Path | str | bytes, label: str) -> Iterator[Image.Image]:
    """Pillow's image of a file or of a file's bytes, in one of FORMATS and not decoded yet.

    Raises UserError, naming `label`, for what cannot be opened, and in place of Pillow's errors while it is open.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                yield image
    except FileNotFoundError:
        raise UserError(f"{label} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{label} is a directory; name an image file") from None
    except PermissionError:
        raise UserError(f"{label} cannot be read: permission denied") from None
    except UnidentifiedImageError:
        raise UserError(f"{label} is not an image that can be read; use {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise UserError(_too_large(label)) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{label} is damaged and cannot be decoded ({error}); replace it") from None


def _to_pixels(image: Image.Image, label: str, size: int, channels: int, invert: bool) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(_too_large(label, f"{image.width}×{image.height}"))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a phone's JPEG with a preview behind it
        raise UserError(f"{label} is animated ({frames} frames); give a still image")
    mode = {1: "L", 3: "RGB"}[channels]
    if image.format == "JPEG" and image.mode in ("L", "RGB", "YCbCr"):
        image.draft(None, (2 * size, 2 * size))  # decodes at 1/2, 1/4 or 1/8: a phone photo in a fraction of the time
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert(mode)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(size, size, channels)
    return 255 - pixels if invert else pixels.copy()


def _too_large(label: str, size: str = "far") -> str:
    return f"{label} is too large ({size}, above {MAX_PIXELS // 1_000_000} megapixels); shrink it first"


def to_input(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] → the network's input, float32 [N, C, H, W] in 0…1."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) * np.float32(1 / 255)


def list_images(directory: Path) -> list[Path]:
    """The image files of a directory by extension, sorted by name; hidden files are left out."""
    return sorted(
        p for p in directory.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file()
    )
