"""What a learner is given, checked: images, and their labels."""

from collections.abc import Hashable, Sequence

import numpy as np

from gems_edge.device.album import check_name
from gems_edge.device.bundle import Bundle
from gems_edge.device.pictures import Picture, is_file_or_pillow, pixels_of
from gems_edge.errors import UserError
from gems_edge.images import to_input

Images = np.ndarray | Sequence[Picture]


def checked_images(bundle: Bundle, images: Images) -> np.ndarray:
    """The images as an array [N, S, S, C], uint8 or floating point in 0…1; files, their bytes and Pillow's images are
    read. UserError for others."""
    size, channels = bundle.image_size, bundle.channels
    if is_file_or_pillow(images) or isinstance(images, list | tuple) and any(map(is_file_or_pillow, images)):
        return pixels_of(images, bundle, "RGB")
    try:
        images = np.asarray(images)
    except ValueError:
        raise UserError("images differ in shape; make them one array, e.g. with Learner.read_images") from None
    shape = list(images.shape)
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != (size, size, channels):
        grey = f" or [N, {size}, {size}]" if channels == 1 else ""
        raise UserError(
            f"images have shape {shape} and must be [N, {size}, {size}, {channels}]{grey}; "
            "Learner.read_images makes them from files and camera frames"
        )
    if not len(images):
        raise UserError("no images were given; give at least one")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise UserError(
            f"images are {images.dtype} and must be uint8, or floating point in 0…1; convert them with astype"
        )
    if not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise UserError("floating-point images must lie in 0…1; divide by 255, or give uint8")
    return images


def together(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Images [S, S, C] as one array [N, S, S, C], also where some are uint8 and some floating point."""
    if len({image.dtype for image in pixels}) == 1:
        return np.stack(pixels)
    return np.stack([image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1) for image in pixels])


def network_input(pixels: np.ndarray) -> np.ndarray:
    """Images [N, S, S, C] as graphs are fed them: float32 [N, C, S, S] in 0…1."""
    if pixels.dtype == np.uint8:
        return to_input(pixels)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def _check_text(name: Hashable) -> None:
    """UserError for a text that no file can hold: a name on disk that is not UTF-8."""
    if isinstance(name, str) and not name.isprintable():
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UserError(f"the class name {shown} is not UTF-8 text; rename it") from None


def numbered(labels: Sequence[Hashable], images: int) -> tuple[tuple[Hashable, ...], np.ndarray]:
    """The classes in order of first appearance, and for each image the index of its class."""
    if isinstance(labels, str):
        raise UserError("labels must be a list with one class name per image, not one text")
    labels = list(labels)
    if len(labels) != images:
        raise UserError(f"{images} images came with {len(labels)} labels; give one label per image")
    labels = [label.item() if isinstance(label, np.generic) else label for label in labels]
    classes: dict[Hashable, int] = {}
    try:
        index = [classes.setdefault(label, len(classes)) for label in labels]
    except TypeError as error:
        raise UserError(f"class names must be text, numbers or other hashable values ({error})") from None
    if any(name != name or name is None or name == "" for name in classes):
        raise UserError("a class name is empty or not a number; name every class")
    for name in classes:
        _check_text(name)
        check_name(name)
    return tuple(classes), np.array(index)
