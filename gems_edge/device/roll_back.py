"""Going back to the bundle that was in use before, with what that was taught."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.device.installation import (
    Slot,
    check_directory,
    previous_slot,
    read_record,
    slot_in_use,
    slots_of,
    switch,
    write_record,
)
from gems_edge.device.state import load_state
from gems_edge.device.trust import ANYBODY, Trust, note_release
from gems_edge.errors import UserError
from gems_edge.files import locked


@dataclass(frozen=True)
class RolledBack:
    slot: Slot
    bundle: Bundle
    left: Slot | None  # what was in use
    photos: int  # that were taught to that, and not to what is in use now


def roll_back(directory: Path, trust: Trust) -> RolledBack:
    """Use again what was in use before, with what that was taught; a second time it goes forth again.

    Raises UserError where there is nothing to go back to, or it is not whole or not to be trusted.
    """
    check_directory(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist; name a directory that gems-edge install has made")
    with locked(directory, patience=1.0):
        left = slot_in_use(directory)
        slot, bundle = _whole_one(directory, left, replace(trust, remember=False))
        write_record(slot, left, _noted(slot))
        switch(directory, slot)
    note_release(bundle.product, trust)
    return RolledBack(slot, bundle, left, _photos_left(slot, left))


def _whole_one(directory: Path, left: Slot | None, trust: Trust) -> tuple[Slot, Bundle]:
    """What is gone back to: the slot before, or where `current` leads nowhere, the newest that is whole."""
    if left is not None:
        slot = previous_slot(directory, left)
        if slot is None:
            raise UserError(f"{directory} holds no bundle to go back to; install one")
        return slot, read_bundle(slot.bundle, trust)
    problem = UserError(f"{directory} holds no bundle; install one")
    for slot in slots_of(directory):
        try:
            return slot, read_bundle(slot.bundle, trust)
        except UserError as error:
            problem = error
    raise problem


def _noted(slot: Slot) -> dict[str, Any]:
    try:
        return read_record(slot)
    except UserError:
        return {}


def _photos_left(slot: Slot, left: Slot | None) -> int:
    there, here = (_pictures(each) if each else set() for each in (left, slot))
    return len(there - here)


def _pictures(slot: Slot) -> set[str]:
    """Of the photos that are taught there, as far as they can be read."""
    try:
        if slot.state is None:
            return set()
        state = load_state(slot.state, read_bundle(slot.bundle, ANYBODY).hash)
        return {photo.picture for photo in state.album.photos}
    except UserError:
        return set()
