"""What of a packed file is whole, what is not, and what can be saved."""

from pathlib import Path

from gems_edge.data.archive import read_arrays
from gems_edge.data.packed import KEYS, read_packed
from gems_edge.device.finding import Finding, Part, reason_of
from gems_edge.errors import UserError


def inspect_packed(path: Path) -> Finding:
    """The packed file at `path`, array by array; where all are whole, every image is decoded."""
    parts = [part for key in KEYS if (part := _array(path, key))]
    rescue = "pack it anew from its images (gems-edge data pack): the archive's checksums are of whole arrays"
    if not parts:
        parts = [Part("classes", f"{path} is no packed data file; write one with gems-edge data pack")]
    elif not any(part.problem for part in parts):
        parts.append(_contents(path))
        rescue = "all other arrays are whole; pack it anew from its images (gems-edge data pack)"
    return Finding("packed file", path, tuple(parts), rescue if any(part.problem for part in parts) else "")


def _array(path: Path, key: str) -> Part | None:
    """None if it has no such array."""
    try:
        array = read_arrays(path, [key]).get(key)
    except (UserError, OSError) as error:
        return Part(key, reason_of(error))
    return None if array is None else Part(key, about=f"{array.dtype} {list(array.shape)}")


def _contents(path: Path) -> Part:
    """What the arrays say, taken together."""
    try:
        images = read_packed(path)
    except (UserError, OSError) as error:
        return Part("what they say", reason_of(error))
    return Part("what they say", about=f"{len(images.images)} images of {len(images.classes)} classes")
