"""From what the user writes after --data to images in memory."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from gems_edge.data.folder import read_folder
from gems_edge.data.glyphs import glyphs_cache, load_glyphs
from gems_edge.data.imageset import ImageSet, resized
from gems_edge.data.packed import read_packed
from gems_edge.data.torchvision_sets import PUBLIC_SETS, default_root, is_present, load_public
from gems_edge.errors import UserError

MIN_SIZE, MAX_SIZE = 8, 512


@dataclass(frozen=True)
class ListedSource:
    """One line of `gems-edge data list`."""

    name: str
    ready: bool | None  # on this machine; None where it depends on the user's own files
    where: str


def load_images(
    spec: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    root: Path | None = None,
    skip_bad: bool = False,
) -> ImageSet:
    """Load `glyphs`, a torchvision set by name, `folder:PATH` or `packed:FILE.npz`.

    `image_size` (pixels) and `channels` (1 or 3) default to the source's own. `root` is where torchvision's sets are
    or are downloaded to (default: the cache directory). `skip_bad`: images of folders and packed files that cannot be
    read are left out, each named in a warning. Raises UserError and MachineError, each one line.
    """
    check_format(image_size, channels)
    kind, colon, path = spec.partition(":")
    if colon and kind in ("folder", "packed"):
        if not path:
            raise UserError(
                f"--data {spec} names no {'folder' if kind == 'folder' else 'file'}; write it after the colon"
            )
        read = read_folder if kind == "folder" else read_packed
        return read(Path(path).expanduser(), image_size, channels, name=spec, skip_bad=skip_bad)
    if spec == "glyphs":
        return resized(load_glyphs(), image_size, channels)
    if spec in PUBLIC_SETS:
        return load_public(spec, image_size, channels, root)
    raise UserError(f"unknown data {spec!r}; {_suggestion(spec)}")


def check_format(image_size: int | None, channels: int | None) -> None:
    """UserError for a size or a number of channels that no source can be read at."""
    if image_size is not None and not MIN_SIZE <= image_size <= MAX_SIZE:
        raise UserError(f"image size {image_size} is out of range; use {MIN_SIZE} to {MAX_SIZE} pixels")
    if channels not in (None, 1, 3):
        raise UserError(f"{channels} channels are not supported; use 1 (greyscale) or 3 (colour)")


def list_sources(root: Path | None = None) -> list[ListedSource]:
    """Every source, with whether it is on this machine."""
    directory = Path(root or default_root())
    public = [ListedSource(name, is_present(name, directory), str(directory)) for name in PUBLIC_SETS]
    cached = glyphs_cache()
    return [
        ListedSource("glyphs", True, str(cached) if cached.exists() else "rendered at the first use"),
        *public,
        ListedSource("folder:PATH", None, "your images as PATH/CLASS/image or PATH/train|val|test/CLASS/image"),
        ListedSource("packed:FILE.npz", None, "your images in one file, written by gems-edge data pack"),
    ]


def _suggestion(spec: str) -> str:
    if Path(spec).is_dir():
        return f"for a folder write folder:{spec}"
    if Path(spec).is_file():
        return f"for a packed file write packed:{spec}"
    names = ["glyphs", *PUBLIC_SETS]
    close = difflib.get_close_matches(spec.lower(), names, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}use {', '.join(names)}, folder:PATH or packed:FILE.npz"
