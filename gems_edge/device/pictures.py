"""Pictures as programs have them (files, their bytes, Pillow's images, camera frames), as a bundle wants them."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gems_edge.device.bundle import Bundle
from gems_edge.errors import UserError
from gems_edge.images import decode_image

Picture = Path | str | bytes | bytearray | memoryview | Image.Image | np.ndarray
ORDERS = ("RGB", "BGR")


def is_file_or_pillow(value: object) -> bool:
    """Whether it is one picture, other than a frame."""
    return isinstance(value, Picture) and not isinstance(value, np.ndarray)


def pixels_of(pictures: Iterable[Picture], bundle: Bundle, order: str) -> np.ndarray:
    """uint8 [N, S, S, C]. `order`: of the channels of frames. Raises UserError as Learner.read_images."""
    if isinstance(pictures, Picture) and not (isinstance(pictures, np.ndarray) and pictures.ndim == 4):
        raise UserError("one picture was given where several are taken; put it into a list: [picture]")
    if order not in ORDERS:
        raise UserError(f"order is {order!r}; frames are {' or '.join(ORDERS)}")
    try:
        listed = list(pictures)
    except TypeError:
        raise UserError(f"a {type(pictures).__name__} holds no pictures; give a list of them") from None
    size, channels = bundle.image_size, bundle.channels
    pixels = [decode_image(_source(each, order), size, channels, invert=bundle.inverted) for each in listed]
    return np.stack(pixels) if pixels else np.zeros((0, size, size, channels), np.uint8)


def _source(picture: Picture, order: str) -> Path | str | bytes:
    """A file, or a file's bytes: what was decoded already is packed without loss, so that all go one way."""
    if isinstance(picture, np.ndarray):
        return _packed(Image.fromarray(_frame(picture, order)))
    if isinstance(picture, Image.Image):
        try:
            return _packed(ImageOps.exif_transpose(picture))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"a picture of Pillow's cannot be read ({error}); give another one") from None
    return bytes(picture) if isinstance(picture, bytearray | memoryview) else picture


def _packed(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    plain = image.mode in ("L", "RGB") and "transparency" not in image.info
    image.save(stream, "PPM" if plain else "PNG")
    return stream.getvalue()


def _frame(frame: np.ndarray, order: str) -> np.ndarray:
    """uint8 [H, W] or RGB [H, W, 3]; UserError for an array that is no frame."""
    shape = list(frame.shape)
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[..., 0]
    if 0 in frame.shape or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise UserError(f"a frame has shape {shape} and must be [height, width] or [height, width, 3]")
    if frame.dtype.kind == "f":
        if not (frame.min() >= 0 and frame.max() <= 1):  # false for NaN too
            raise UserError("a floating-point frame must lie in 0…1; divide by 255, or give uint8")
        frame = np.rint(255 * frame.astype(np.float32)).astype(np.uint8)
    if frame.dtype != np.uint8:
        raise UserError(f"a frame is {frame.dtype} and must be uint8, or floating point in 0…1")
    return np.ascontiguousarray(frame[..., ::-1] if frame.ndim == 3 and order == "BGR" else frame)
