"""Where a board keeps the bundle in use, what it was taught, and what was in use before: one directory.

    DIR/current → 7            a link: the slot in use, changed by one rename
    DIR/7/bundle.gems          the bundle
    DIR/7/taught.state         what it was taught
    DIR/7/installed.json       {"format", "previous": 6, …}: what to go back to, and what the exam said
    DIR/6/…                    what was in use before

A slot is written whole and made durable before `current` leads to it, and an installation neither writes nor removes
what `current` leads to and its `previous`: a power cut at any instant leaves the link where it was, or where it was to
lead, and perhaps a slot that nothing leads to, which the next installation removes. A number is used again only if
nothing ever led to it.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gems_edge.device.bundle import Bundle, bundle_files
from gems_edge.errors import UserError
from gems_edge.files import parse_json, read_plain, sync_directory, write_atomic
from gems_edge.places import check_room

CURRENT, BUNDLE, STATE, RECORD = "current", "bundle.gems", "taught.state", "installed.json"
_FORMAT = "gems-edge-installed"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_NEXT = ".current.tmp"
_MOST_FILE_BYTES, _MOST_RECORD_BYTES = 1 << 40, 1 << 16


@dataclass(frozen=True)
class Slot:
    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def bundle(self) -> Path:
        return self.path / BUNDLE

    @property
    def state(self) -> Path | None:
        """What it was taught; None: nothing."""
        path = self.path / STATE
        return path if os.path.lexists(path) else None


def check_directory(directory: Path) -> None:
    """UserError unless `directory` is an installation, is empty, or can be made."""
    if not os.path.lexists(directory):
        if not directory.parent.is_dir():
            raise UserError(f"the directory {directory.parent} does not exist; create it first")
        return
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; name one that bundles are installed into")
    for entry in directory.iterdir():
        if entry.name != CURRENT and not entry.name.startswith(".") and not _is_slot(entry):
            raise UserError(f"{directory} is a directory with other files ({entry.name}); name a new one with --into")
    if os.path.lexists(directory / CURRENT) and not (directory / CURRENT).is_symlink():
        raise UserError(f"{directory / CURRENT} is not the link that an installation has; name a new directory")


def _is_slot(path: Path) -> bool:
    """Whether there is nothing in it but what an installation writes, whole or not."""
    if not _NUMBER.fullmatch(path.name) or not stat.S_ISDIR(os.lstat(path).st_mode):
        return False
    return all(entry.name in (BUNDLE, STATE, RECORD) or entry.name.startswith(".") for entry in path.iterdir())


def current_slot(directory: Path) -> Slot | None:
    """The slot in use; None where nothing is installed yet. UserError for a link that leads to no slot."""
    try:
        target = os.readlink(directory / CURRENT)
    except FileNotFoundError:
        return None
    except OSError:
        target = ""
    if not _NUMBER.fullmatch(target) or not (directory / target).is_dir():
        raise UserError(
            f"{directory / CURRENT} leads to no bundle; gems-edge rollback {directory} goes back to one that is whole"
        )
    return Slot(directory / target)


def slot_in_use(directory: Path) -> Slot | None:
    """None where `current` leads nowhere, too."""
    try:
        return current_slot(directory)
    except UserError:
        return None


def slots_of(directory: Path) -> list[Slot]:
    """All of them, the newest first."""
    found = (Slot(entry) for entry in directory.iterdir() if _is_slot(entry))
    return sorted(found, key=lambda slot: -slot.number)


def previous_slot(directory: Path, slot: Slot) -> Slot | None:
    """What was in use before `slot`; None where nothing was, or it is gone. Where the record is damaged it is the
    newest of the others."""
    try:
        number = read_record(slot).get("previous")
    except UserError:
        return next((other for other in slots_of(directory) if other.number != slot.number), None)
    path = directory / str(number)
    return Slot(path) if number is not None and path.is_dir() and _is_slot(path) else None


def read_record(slot: Slot) -> dict[str, Any]:
    """What is noted of an installation. UserError if it is damaged."""
    path = slot.path / RECORD
    damaged = UserError(f"{path} is damaged or missing; install a bundle anew")
    try:
        record = parse_json(read_plain(path, _MOST_RECORD_BYTES), str(path))
    except (UserError, FileNotFoundError):
        raise damaged from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise damaged
    number = record.get("previous")
    if number is not None and not (type(number) is int and 0 < number < 10**9):
        raise damaged
    return record


def write_record(slot: Slot, previous: Slot | None, about: Mapping[str, Any]) -> None:
    record = {"format": _FORMAT, **about, "previous": previous.number if previous else None}
    write_atomic(slot.path / RECORD, json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def new_slot(directory: Path, used: list[Slot]) -> Slot:
    """An empty slot that nothing leads to. `used`: what must stay; what else is there is removed."""
    kept = {slot.number for slot in used}
    for slot in slots_of(directory):
        if slot.number not in kept:
            shutil.rmtree(slot.path)
    (directory / _NEXT).unlink(missing_ok=True)
    path = directory / str(1 + max(kept, default=0))
    path.mkdir()
    return Slot(path)


def copy_bundle(bundle: Bundle, slot: Slot) -> None:
    """The bundle's files into the slot. Raises as check_room of the directory, and OSError."""
    sizes = {name: os.lstat(bundle.path / name).st_size for name in bundle_files(bundle)}
    check_room(slot.path, sum(sizes.values()))
    slot.bundle.mkdir()
    for name in sizes:
        write_atomic(slot.bundle / name, read_plain(bundle.path / name, _MOST_FILE_BYTES))


def switch(directory: Path, slot: Slot) -> None:
    """Make `slot`, which is whole, the one in use."""
    for place in (slot.bundle, slot.path, directory):
        sync_directory(place)
    (directory / _NEXT).unlink(missing_ok=True)
    try:
        os.symlink(slot.path.name, directory / _NEXT)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP):
            raise UserError(f"the file system of {directory} has no links; name a directory on another one") from None
        raise
    os.replace(directory / _NEXT, directory / CURRENT)
    sync_directory(directory)
