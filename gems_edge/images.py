"""The one way from an image file to pixels, used alike by training data and by the board (Pillow and numpy only)."""

import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from gems_edge.errors import UserError
from gems_edge.files import opened
from gems_edge.image_checks import Damaged, check_file, size_of

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# The same for Pillow, which goes by content: it knows 40 formats more, of which EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")
# What a file may have, and take while it is decoded: a 512 MB board holds the model beside it. 50 megapixels of RGB, at
# four bytes each, or 108 of a phone's JPEG, which is decoded at a smaller size.
MOST_FILE_BYTES, MOST_DECODED_BYTES, MOST_PIXELS = 100_000_000, 210_000_000, 200_000_000
# Above so many pixels (64 MB of RGB) the square is cut out and brought near its final size part by part.
_LARGE = 16_000_000
# Bytes of a pixel in Pillow's memory, by mode; others have four.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Measured: libwebp's two canvases, its answer and Pillow's image; decoders in Python, which keep a list of numbers.
_WEBP_BYTES, _PYTHON_BYTES = 17, 40
_C_DECODERS = ("raw", "jpeg", "zip", "gif", "libtiff", "packbits", "tiff_lzw")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# Where Pillow looks for the orientation; a TIFF it turns while it decodes it.
_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# Tags of TIFF 6.0.
_BITS, _ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 258, 274, 322, 323


def decode_image(
    source: Path | str | bytes, size: int, channels: int, *, invert: bool = False, name: str = ""
) -> np.ndarray:
    """Decode one still image to uint8 [size, size, channels].

    The orientation tag is applied, the largest centred square is cut out and resized (bilinear with antialiasing);
    grey, palette, CMYK and transparent images are converted to `channels` (1: luminance, 3: RGB; transparency on
    white), 16 bits and 12 in 16 to 8. `invert` gives 255 − x, for dark ink on white paper.

    Raises UserError for a file that is missing, not one of FORMATS, damaged, animated, too large, or of numbers whose
    black and white are not known.
    """
    label = name or (str(source) if isinstance(source, str | Path) else "image")
    with open_image(source, label, (2 * size, 2 * size)) as image:
        return _to_pixels(image, label, size, channels, invert)


@contextmanager
def open_image(
    source: Path | str | bytes, label: str, smallest: tuple[int, int] | None = None
) -> Iterator[ImageFile.ImageFile]:
    """Pillow's image of a file or of a file's bytes, in one of FORMATS and not decoded yet.

    `smallest`: a JPEG may be decoded at 1/2, 1/4 or 1/8, but not below that. Raises UserError, naming `label`, for what
    cannot be opened or is too large to decode, and in place of Pillow's errors while it is open.
    """
    if not isinstance(source, str | Path | bytes):
        raise UserError(
            f"a {type(source).__name__} is no image file; give a path or a file's bytes (pixels go into one array, "
            "which needs no reading)"
        )
    try:
        with _opened(source) as file, _QUIET:
            if (length := size_of(file)) > MOST_FILE_BYTES:
                raise UserError(
                    f"{label} has {length / 1e6:,.0f} MB, above {MOST_FILE_BYTES / 1e6:.0f}; shrink it first"
                )
            beside = check_file(file, length)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                pixels = image.width * image.height
                if smallest and image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB", "YCbCr"):
                    image.draft(None, smallest)  # a phone's photo in a fraction of the time and memory
                needed = beside * pixels + (image.width + 16) * image.height * _decoder_bytes(image)  # 16: a row's own
                if pixels > MOST_PIXELS or needed > MOST_DECODED_BYTES:
                    raise UserError(_too_large(label, f"{image.width}×{image.height}"))
                yield image
    except Damaged as error:
        raise UserError(f"{label} {error}") from None
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
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, LookupError, TypeError) as error:
        raise UserError(f"{label} is damaged and cannot be decoded ({error}); replace it") from None


def is_image(content: bytes) -> bool:
    """Whether these bytes open as an image file; whether all of it can be decoded is not tried."""
    try:
        with open_image(content, ""):
            return True
    except UserError:
        return False


class _Quiet:
    """Pillow's warnings are not shown while any thread decodes; those of others are.

    The filters belong to the process, and warnings.catch_warnings in two threads that leave in another order than they
    came would leave all warnings ignored for good.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module="PIL")
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.caught.__exit__(None, None, None)


_QUIET = _Quiet()


def _opened(source: Path | str | bytes) -> IO[bytes]:
    """The file, or the bytes, as a stream."""
    return io.BytesIO(source) if isinstance(source, bytes) else opened(source)


def _decoder_bytes(image: ImageFile.ImageFile) -> float:
    """Bytes that decoding takes for each pixel."""
    own = _MODE_BYTES.get(image.mode, 4)
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0) > _LARGE:
            raise Damaged("is a TIFF in tiles of more than 16 megapixels; save it in smaller ones")
        turned = own if tags.get(_ORIENTATION, 1) != 1 else 0
        return own + turned + max(4.0, float(np.sum(tags.get(_BITS, 8))) / 8)
    if image.format == "WEBP":
        return _WEBP_BYTES
    return own if all(tile[0] in _C_DECODERS for tile in image.tile) else _PYTHON_BYTES


def _to_pixels(image: ImageFile.ImageFile, label: str, size: int, channels: int, invert: bool) -> np.ndarray:
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a phone's JPEG with a preview behind it
        raise UserError(f"{label} is animated; give a still image")
    formats = [tile[3] if isinstance(tile[3], str) else str((tile[3] or ("",))[0]) for tile in image.tile]
    deep = any(";16" in form for form in formats)
    image.load()
    shift = _shift(image, label, deep)
    mode = {1: "L", 3: "RGB"}[channels]
    large = image.width * image.height > _LARGE
    small = _reduced(image, mode, shift) if large else _plain(image, mode, shift)
    small.info = {name: value for name, value in image.info.items() if name in _ORIENTED}
    image.close()
    small = ImageOps.exif_transpose(small)
    if small.size != (size, size):
        small = ImageOps.fit(small, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(small).reshape(size, size, channels)
    return 255 - pixels if invert else pixels.copy()


def _shift(image: Image.Image, label: str, deep: bool) -> int:
    """Bits by which its values are above 8 bits; UserError for numbers whose black and white are not known.

    `deep`: 16 bits per sample in the file. 16 bits of grey may hold 12, which is what cameras deliver; another number
    of bits cannot be told from a dark picture.
    """
    if image.mode == "I" and image.format == "PPM":  # which says what its white is, so Pillow has scaled it
        return 8
    if image.mode.startswith("I;16"):
        _, most = image.getextrema()
        if most < 1024 or 4096 <= most < 16_384:  # type: ignore[operator]
            raise UserError(f"{label} uses {most} of 65535 levels of grey; scale it to all of them, or to 8 bits")
        return 4 if most < 4096 else 8  # type: ignore[operator]
    if image.mode not in _MODES:
        raise UserError(f"{label} has pixels of the kind {image.mode}; save it with 8 bits per channel")
    if deep and image.mode != "1":
        colours = np.reshape(image.getextrema(), (-1, 2))[: 1 if image.mode in ("L", "LA") else 3]
        if colours.max() < 64:
            raise UserError(f"{label} uses less than a quarter of its 16 bits; scale it to all of them, or to 8 bits")
        if isinstance(key := image.info.get("transparency"), tuple):
            image.info["transparency"] = tuple(value >> 8 for value in key)
    return 0


def _plain(image: Image.Image, mode: str, shift: int) -> Image.Image:
    """8 bits in `mode` ("L" or "RGB"), what is transparent on white."""
    if shift:
        values = np.asarray(image).astype(np.int32)
        if isinstance(key := image.info.get("transparency"), int):
            values[values == key] = 65535
        image = Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _reduced(image: Image.Image, mode: str, shift: int) -> Image.Image:
    """The centred square of a large image in `mode`, some thousand pixels wide, made from strips to save memory."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    factor = math.ceil(side / math.sqrt(_LARGE))
    out = Image.new(mode, (-(-side // factor),) * 2)
    rows = max(1, 1_000_000 // side // factor) * factor
    for start in range(0, side, rows):
        strip = image.crop((left, top + start, left + side, top + min(start + rows, side)))
        out.paste(_plain(strip, mode, shift).reduce(factor), (0, start // factor))
    return out


def _too_large(label: str, size: str = "far") -> str:
    most = MOST_DECODED_BYTES // 1_000_000
    return f"{label} is too large ({size}: decoding it takes more than {most} MB); shrink it first"


def to_input(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] → the network's input, float32 [N, C, H, W] in 0…1."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) * np.float32(1 / 255)


def left_out(directory: Path) -> list[str]:
    """The names of a directory that `list_images` does not give and that are no directories: files of other kinds and
    links to nothing; hidden files and what systems keep beside pictures do not count."""
    read = {path.name for path in list_images(directory)}
    others = (p for p in directory.iterdir() if p.name not in read and not p.name.startswith(".") and not p.is_dir())
    return sorted(path.name for path in others if path.name.lower() not in _OF_SYSTEMS)


def warn_left_out(directory: Path) -> None:
    """A warning (UserWarning) that names what is `left_out`."""
    if names := left_out(directory):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warnings.warn(f"{directory}: {shown}: no pictures that are read ({', '.join(FORMATS)})", stacklevel=3)


def list_images(directory: Path) -> list[Path]:
    """The image files of a directory by extension, sorted by name; hidden files are left out."""
    return sorted(
        p for p in directory.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file()
    )
