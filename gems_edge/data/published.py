"""The published class lists of known data sets (gems_edge/data/splits)."""

import json
from collections.abc import Sequence
from importlib import resources

import numpy as np

from gems_edge.data.imageset import SPLITS
from gems_edge.errors import UserError

# Lists of sets that people keep as one folder a class.
FOLDER_LISTS = ("mini-imagenet", "cub-200")


def read_split(name: str) -> dict[str, list[str]]:
    """The class lists of a set: {"train": […], "val": […], "test": […], "source": one line}."""
    text = resources.files("gems_edge.data").joinpath("splits", f"{name}.json").read_text(encoding="utf-8")
    lists: dict[str, list[str]] = json.loads(text)
    return lists


def split_of(classes: Sequence[str], lists: dict[str, list[str]]) -> np.ndarray:
    """The split of each class, <U5: by its name or, for Omniglot, by its alphabet; UserError for an unlisted one."""
    where = {entry: split for split in SPLITS for entry in lists[split]}
    split = [where.get(name) or where.get(name.split("/")[0]) for name in classes]
    if None in split:
        raise UserError(
            f"class {classes[split.index(None)]!r} is in no published split; "
            "the files are not those of the set, remove them"
        )
    return np.array(split, dtype="<U5")


def split_of_folder(classes: Sequence[str]) -> list[str] | None:
    """The split of each class in the first published list that names all of them and has classes of each split."""
    for lists in map(read_split, FOLDER_LISTS):
        where = {entry: split for split in SPLITS for entry in lists[split]}
        splits = [where[name] for name in classes if name in where]
        if len(splits) == len(classes) and set(splits) == set(SPLITS):
            return splits
    return None
