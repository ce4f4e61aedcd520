"""Installing a bundle on a board: it stays only if it is whole, trusted, right about its self-test, and on what the
owner taught no worse than the bundle in use."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.device.installation import (
    STATE,
    Slot,
    check_directory,
    copy_bundle,
    current_slot,
    new_slot,
    previous_slot,
    slot_in_use,
    slots_of,
    switch,
    write_record,
)
from gems_edge.device.state import load_state
from gems_edge.device.trial import Candidate, InUse, Limits, Say, Trial, tried
from gems_edge.device.trust import ANYBODY, Trust, check_can_remember, note_release
from gems_edge.errors import MachineError, UserError
from gems_edge.files import locked

_TRIES = 3  # where the owner teaches meanwhile


@dataclass(frozen=True)
class Options:
    """`fresh`: what was taught stays with the bundle in use, and nothing is compared with that."""

    limits: Limits = Limits()
    trust: Trust = ANYBODY
    fresh: bool = False
    threads: int | None = None

    @property
    def look(self) -> Trust:
        """How a bundle is opened that may yet be turned away."""
        return replace(self.trust, remember=False)


@dataclass(frozen=True)
class Installed:
    slot: Slot
    bundle: Bundle
    previous: Slot | None
    trial: Trial | None  # None: it was in use already


def install(source: Path, directory: Path, options: Options, say: Say) -> Installed:
    """Install the bundle at `source` into `directory`, with what the one in use there was taught.

    Raises UserError for what cannot be installed (Refused for what is worse), MachineError if the disk is full or
    another installation runs: the bundle in use stays, with all that it was taught.
    """
    check_directory(directory)
    bundle = read_bundle(source, options.look)
    if options.trust.file and bundle.product:
        check_can_remember(bundle.product, options.trust.file)
    directory.mkdir(exist_ok=True)
    with locked(directory, patience=1.0):
        in_use = None if options.fresh else _opened(directory)
        if in_use is not None and in_use.bundle.hash == bundle.hash:
            return Installed(in_use.slot, in_use.bundle, previous_slot(directory, in_use.slot), None)
        if in_use is not None:
            _check_product(bundle, in_use.bundle, options.trust)
        return _installed(bundle, directory, in_use, options, say)


def _opened(directory: Path) -> InUse | None:
    slot = current_slot(directory)
    return None if slot is None else InUse(slot, read_bundle(slot.bundle, ANYBODY))


def _check_product(bundle: Bundle, in_use: Bundle, trust: Trust) -> None:
    """UserError for another product than the one in use, and for an older release of it."""
    if in_use.product is None:
        return
    if bundle.product is None or bundle.product.id != in_use.product.id:
        name = "names no product" if bundle.product is None else f"is product {bundle.product.id!r}"
        raise UserError(
            f"{bundle.path} {name}, and {in_use.product.id!r} is installed; get the bundle of this product, or name "
            "another directory with --into"
        )
    if bundle.product.release < in_use.product.release and not trust.allow_older:
        raise UserError(
            f"{bundle.path} is release {bundle.product.release} of {bundle.product.id!r}, and release "
            f"{in_use.product.release} is installed; get a newer one, or give --allow-older"
        )


def _installed(source: Bundle, directory: Path, in_use: InUse | None, options: Options, say: Say) -> Installed:
    """Into a slot of its own, which becomes the one in use if the bundle proves good."""
    before = slot_in_use(directory)
    slot = new_slot(directory, _kept(directory, before))
    try:
        copy_bundle(source, slot)
        bundle = read_bundle(slot.bundle, options.look)  # what is used is what was checked
        for _ in range(_TRIES):
            trial = tried(Candidate(source, bundle, slot), in_use, options.limits, options.threads, say)
            write_record(slot, before, _about(bundle, trial))
            with _teaching_held(in_use, trial) as unchanged:
                if unchanged:
                    switch(directory, slot)
                    break
            say("something was taught meanwhile; once more, with that")
            shutil.rmtree(slot.path / STATE, ignore_errors=True)
        else:
            raise MachineError(f"{directory} is being taught all the time; install the bundle when that has ended")
    finally:
        if slot_in_use(directory) != slot:
            shutil.rmtree(slot.path, ignore_errors=True)
    note_release(bundle.product, options.trust)
    return Installed(slot, bundle, before, trial)


def _kept(directory: Path, slot: Slot | None) -> list[Slot]:
    """What an installation leaves alone: the slot in use and what was before it, or where nothing is in use, all."""
    if slot is None:
        return slots_of(directory)
    previous = previous_slot(directory, slot)
    return [slot, previous] if previous else [slot]


def _about(bundle: Bundle, trial: Trial) -> dict[str, Any]:
    product = asdict(bundle.product) if bundle.product else None
    return {"bundle": bundle.hash, "name": bundle.name, "product": product, "trial": asdict(trial)}


@contextmanager
def _teaching_held(in_use: InUse | None, trial: Trial) -> Iterator[bool]:
    """Meanwhile nothing is taught to the bundle in use. Whether that is what it was when it was carried over."""
    state = in_use.slot.state if in_use else None
    if in_use is None or state is None or trial.generation is None:
        yield state is None
        return
    with locked(state):
        yield load_state(state, in_use.bundle.hash).generation == trial.generation
