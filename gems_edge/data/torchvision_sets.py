"""Public few-shot data sets by name: torchvision downloads and reads them, the class splits are the published ones."""

import contextlib
import importlib.util
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.folder import decode_files
from gems_edge.data.imageset import ImageSet, resize_images
from gems_edge.data.packed import cached_set
from gems_edge.data.published import read_split, split_of
from gems_edge.errors import MachineError, UserError
from gems_edge.files import cache_directory, sha256_bytes
from gems_edge.refusals import check_readable

# Part of the caches' names: raise it when the decoding changes.
VERSION = 1
# A server that says nothing for so long is not there.
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class PublicSet:
    """What is known of a set before it is here."""

    dataset: str  # name of the class in torchvision.datasets
    parts: tuple[dict[str, Any], ...]  # arguments of that class, all of whose images together are the set
    size: int
    files: tuple[str, ...]  # what torchvision puts below the root
    terms: str
    channels: int = 3
    inverted: bool = False


PUBLIC_SETS = {
    "omniglot": PublicSet(
        dataset="Omniglot",
        parts=({"background": True}, {"background": False}),
        size=28,
        channels=1,
        inverted=True,
        files=tuple(
            f"omniglot-py/images_{part}{end}"
            for part in ("background", "evaluation")
            for end in (".zip", "/ (unpacked)")
        ),
        terms="Omniglot (Lake et al. 2015), MIT",
    ),
    "flowers102": PublicSet(
        dataset="Flowers102",
        parts=({"split": "train"}, {"split": "val"}, {"split": "test"}),
        size=84,
        files=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        terms="Oxford 102 Flowers (Nilsback and Zisserman 2008); the authors state no licence",
    ),
    "fgvc-aircraft": PublicSet(
        dataset="FGVCAircraft",
        parts=({"split": "trainval"}, {"split": "test"}),
        size=84,
        files=("fgvc-aircraft-2013b/data",),
        terms="FGVC-Aircraft (Maji et al. 2013), non-commercial research only",
    ),
    "cifar100": PublicSet(
        dataset="CIFAR100",
        parts=({"train": True}, {"train": False}),
        size=32,
        files=("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
        terms="CIFAR-100 (Krizhevsky 2009); the author states no licence",
    ),
}


def default_root() -> Path:
    return cache_directory() / "torchvision"


def is_present(name: str, root: Path | None = None) -> bool:
    """True if the set's files are below the root; says nothing of their content."""
    return all(
        ((root or default_root()) / file.removesuffix(" (unpacked)")).exists() for file in PUBLIC_SETS[name].files
    )


def load_public(
    name: str, image_size: int | None = None, channels: int | None = None, root: Path | None = None
) -> ImageSet:
    """A set of PUBLIC_SETS, downloaded to `root` if it is not there; decoded photos are cached.

    Raises UserError if a needed package is missing or the files are not those of the set, MachineError if the set
    cannot be downloaded (the message says where to put the files).
    """
    public, root = PUBLIC_SETS[name], Path(root or default_root())
    parts = _open(name, public, root)
    size, channels = image_size or public.size, channels or public.channels
    if name == "cifar100":
        images = resize_images(np.concatenate([part.data for part in parts]), size, channels)
        names = [parts[0].classes[i] for part in parts for i in part.targets]
        return _labelled(name, public, images, names)
    with _one_line(name, root):
        items = [part[i] for part in parts for i in range(len(part))]
        paths = [path for path, _ in items]
        if name == "omniglot":
            names = [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]
        else:
            names = [parts[0].classes[target] for _, target in items]
        # The key changes with the files, so that another root or an altered file is decoded anew.
        listing = "\n".join(f"{path}\t{path.stat().st_size}\t{label}" for path, label in zip(paths, names))
    key = sha256_bytes((listing + json.dumps(read_split(name))).encode())[:12]

    def build() -> ImageSet:
        images, _, problems = decode_files(paths, size, channels)
        check_readable(problems, len(paths))
        return _labelled(name, public, 255 - images if public.inverted else images, names)

    return cached_set(f"{name}-{size}x{size}x{channels}-v{VERSION}-{key}.npz", name, build)


def _labelled(name: str, public: PublicSet, images: np.ndarray, names: list[str]) -> ImageSet:
    classes = tuple(sorted(set(names)))
    lists = read_split(name)
    number = {class_name: i for i, class_name in enumerate(classes)}
    return ImageSet(
        name=name,
        images=images,
        label=np.array([number[class_name] for class_name in names], dtype=np.int64),
        classes=classes,
        split=split_of(classes, lists),
        group=None,
        inverted=public.inverted,
        source=f"{public.terms}; split: {lists['source']}",
    )


def _open(name: str, public: PublicSet, root: Path) -> list[Any]:
    """torchvision's data sets for all parts; the loader hands paths through, images are decoded by our one decoder."""
    if name == "flowers102" and importlib.util.find_spec("scipy") is None:
        raise UserError("flowers102 needs the package 'scipy' to read its labels: pip install scipy")
    from torchvision import datasets

    options = {} if name == "cifar100" else {"loader": Path}

    def open_parts(download: bool) -> list[Any]:
        with _one_line(name, root):
            return [
                getattr(datasets, public.dataset)(str(root), download=download, **part, **options)
                for part in public.parts
            ]

    with contextlib.suppress(_Absent):
        return open_parts(download=False)
    with _download(name, public, root):
        root.mkdir(parents=True, exist_ok=True)
        return open_parts(download=True)


class _Absent(Exception):
    """torchvision does not find the set, or finds it incomplete."""


@contextlib.contextmanager
def _one_line(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _Absent(str(error)) from None
    except (FileNotFoundError, KeyError, ValueError, EOFError) as error:
        raise UserError(
            f"{name}: the files in {root} are incomplete or damaged ({error}); remove them and run the command again"
        ) from None


@contextlib.contextmanager
def _download(name: str, public: PublicSet, root: Path) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    print(f"downloading {name} to {root}", file=sys.stderr)
    try:
        # torchvision prints; stdout belongs to the result.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except PermissionError:
        raise
    except (OSError, _Absent) as error:
        reason = getattr(error, "reason", None) or error
        wanted = ", ".join(public.files)
        raise MachineError(f"{name} cannot be downloaded ({reason}); put {wanted} into {root} yourself") from None
    finally:
        socket.setdefaulttimeout(before)
