"""What one board learned, on disk: two checksummed slots written in turn.

A state is a directory with `a.safetensors` and `b.safetensors`. A save goes to the slot that does not hold the newest
valid generation, through a temporary file and a rename, so a power cut at any instant leaves the old state or the new.
Saves of several processes come one after the other: each is a generation of its own.

What is kept of each taught photo lies beside the slots in `photos/` (device/photos.py), and a slot says which photos
teach which classes, and taught them in the versions before (device/history.py).
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gems_edge.device.album import Album, Version
from gems_edge.device.history import files_of, history_document, history_of
from gems_edge.device.photos import DIRECTORY, are_only_photos, photos_bytes, sweep_photos, write_photos
from gems_edge.device.tensors import tensor_parts
from gems_edge.errors import MachineError, UserError
from gems_edge.files import locked, read_plain, sync_directory, write_atomic

FORMAT = "gems-edge-state"
# Version 3: the photos are kept. A state has the least version that says all it holds.
PLAIN_VERSION, KEEPING_VERSION = 2, 3
FORMAT_VERSION = KEEPING_VERSION
SLOTS = ("a.safetensors", "b.safetensors")
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class State:
    """Adapted weights and support statistics (float32, by name), and what they belong to.

    The tensors named by `delta` are held as the change from the bundle's start: see device/delta.py.
    """

    bundle: str  # Bundle.hash
    classes: tuple[Hashable, ...]  # on disk text and numbers only
    steps: int
    images: int
    tensors: Mapping[str, np.ndarray]
    generation: int = 0  # counted up by save_state
    delta: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()  # the present one is the last; (): written before photos were kept
    precision: str = ""  # of the trunk that made the features that are kept; "" without a trunk

    @property
    def kept_versions(self) -> tuple[Version, ...]:
        """`versions`; UserError if the photos were not kept."""
        if not self.versions:
            raise UserError(
                "this state keeps no photos (it was written by an earlier gems-edge); teach it anew from photos with "
                "gems-edge adapt"
            )
        return self.versions

    @property
    def album(self) -> Album:
        """The photos that it was taught with; UserError if they were not kept."""
        return self.kept_versions[-1].album


class Overtaken(MachineError):
    """Another process has taught the state meanwhile."""


class _Damaged(Exception):
    pass


def load_state(path: Path | str, bundle_hash: str) -> State:
    """The newest valid slot of the state at `path`; a damaged slot is skipped with a warning (UserWarning).

    Raises UserError if there is no valid slot, or if it belongs to another bundle.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a state (a directory NAME.state written by gems-edge adapt)")
    slots, damaged = read_slots(path)
    if not slots:
        if damaged:
            which = "both slots" if len(damaged) > 1 else "the only slot"
            are = "are" if len(damaged) > 1 else "is"
            reasons = "; ".join(damaged.values())
            raise UserError(f"{which} of {path} {are} damaged ({reasons}); run gems-edge adapt again")
        raise UserError(f"{path} holds no state; write one with gems-edge adapt")
    state = max(slots.values(), key=lambda slot: slot.generation)
    if state.bundle != bundle_hash:
        raise UserError(_foreign(path))
    for slot, reason in damaged.items():
        warnings.warn(
            f"{path / slot} is damaged ({reason}); using generation {state.generation} of the other slot", stacklevel=2
        )
    return state


def check_destination(path: Path | str, bundle_hash: str) -> None:
    """Raises UserError unless a state of this bundle may be written to `path`."""
    path = Path(path)
    if path.is_dir():
        for slot in SLOTS:
            if os.path.lexists(path / slot) and not stat.S_ISREG(os.lstat(path / slot).st_mode):
                raise UserError(f"{path / slot} is not a plain file, as a state's must be; choose a new name")
        if os.path.lexists(path / DIRECTORY) and not stat.S_ISDIR(os.lstat(path / DIRECTORY).st_mode):
            raise UserError(f"{path / DIRECTORY} is not a directory, as a state's must be; choose a new name")
        slots, damaged = read_slots(path)
        if any(state.bundle != bundle_hash for state in slots.values()):
            raise UserError(_foreign(path) + "; it is left as it was")
        others = (entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name != DIRECTORY)
        if not slots and not damaged and (any(others) or not _may_hold_photos(path)):
            raise UserError(f"{path} is a directory with other files; choose a new name for the state")
    elif path.exists() or path.is_symlink():
        raise UserError(f"{path} exists and is not a state; choose a new name")
    elif not path.parent.is_dir():
        raise UserError(f"the directory {path.parent} does not exist; create it first")


def _may_hold_photos(path: Path) -> bool:
    return not os.path.lexists(path / DIRECTORY) or are_only_photos(path / DIRECTORY)


def save_state(
    path: Path | str, state: State, fetch: Callable[[str], bytes] | None = None, onto: int | None = None
) -> State:
    """Write `state` as the next generation into the slot that is not the newest; returns it with its generation.

    `fetch`: the content of a photo's file that is not there yet. `onto`: the generation that must be there still.
    Raises UserError as check_destination; Overtaken where another generation is there; MachineError if the write fails
    (disk full), and if another process is at it for long, with the state there intact.
    """
    path = Path(path)
    check_destination(path, state.bundle)
    for name in state.classes:
        if not isinstance(name, str | int | float):
            raise UserError(f"class names in a state must be text or numbers, not {name!r}")
    created = not path.is_dir()
    try:
        if created:
            path.mkdir(exist_ok=True)  # another process may be as far
            sync_directory(path.parent)
        with locked(path):
            return _save(path, state, fetch, onto)
    except OSError as error:
        if created:
            with contextlib.suppress(OSError):
                (path / DIRECTORY).rmdir()
            with contextlib.suppress(OSError):
                path.rmdir()
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        kept = "nothing was saved" if created else "what it held before is intact"
        raise MachineError(
            f"{path} could not be written ({error.strerror or error}); {kept}; free some space or choose another place"
        ) from None


def _save(path: Path, state: State, fetch: Callable[[str], bytes] | None, onto: int | None) -> State:
    """As save_state, into a directory that no other process writes meanwhile."""
    check_destination(path, state.bundle)
    slots = read_slots(path)[0]
    newest = max(slots, key=lambda slot: slots[slot].generation, default=None)
    generation = slots[newest].generation if newest else 0
    if onto is not None and onto != generation:
        raise Overtaken(f"{path} was taught by another process meanwhile; nothing was saved; do it again")
    slot = SLOTS[1] if newest == SLOTS[0] else SLOTS[0]
    state = replace(state, generation=generation + 1)
    content = _encode(state)
    for left_over in path.glob(f".{slot}.*.tmp"):  # of a save that a power cut ended
        left_over.unlink()
    try:
        if fetch is not None:
            write_photos(path, sorted(files_of(state.versions)), fetch)
        write_atomic(path / slot, content)
    except BaseException:
        _sweep(path, read_slots(path)[0])
        raise
    _sweep(path, slots | {slot: state})
    return state


def _sweep(path: Path, slots: Mapping[str, State]) -> None:
    sweep_photos(path, {file for state in slots.values() for file in files_of(state.versions)})


def state_bytes(path: Path | str) -> int:
    """The size of both slots and of the photos."""
    slots = sum((Path(path) / slot).stat().st_size for slot in SLOTS if (Path(path) / slot).is_file())
    return slots + photos_bytes(Path(path))


def _foreign(path: Path) -> str:
    return f"{path} was taught with another bundle (or with an earlier export of this one)"


def read_slots(path: Path) -> tuple[dict[str, State], dict[str, str]]:
    """The valid slots, and for each damaged one the reason."""
    slots: dict[str, State] = {}
    damaged: dict[str, str] = {}
    for slot in SLOTS:
        try:
            content = read_plain(path / slot, _MOST_BYTES)
        except FileNotFoundError:
            continue
        except UserError as error:
            damaged[slot] = str(error).removeprefix(f"{path / slot} ").partition(";")[0]
            continue
        except PermissionError:
            raise
        except OSError as error:  # a bad sector reads as EIO
            damaged[slot] = error.strerror or str(error)
            continue
        try:
            slots[slot] = _decode(content, path / slot)
        except _Damaged as error:
            damaged[slot] = str(error)
    return slots, damaged


def _encode(state: State) -> list[bytes | memoryview]:
    """The content of a slot, in parts."""
    tensors = {name: np.asarray(value, order="C") for name, value in state.tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(KEEPING_VERSION if state.versions else PLAIN_VERSION),
        "generation": str(state.generation),
        "bundle": state.bundle,
        "classes": json.dumps(list(state.classes), ensure_ascii=False),
        "steps": str(state.steps),
        "images": str(state.images),
    }
    if state.delta:
        metadata["delta"] = json.dumps(state.delta, ensure_ascii=False)
    if state.versions:
        metadata["history"] = json.dumps(history_document(state.versions), ensure_ascii=False)
        metadata["precision"] = state.precision
    return tensor_parts(tensors, metadata | {"sha256": _checksum(tensors, metadata)})


def _decode(content: bytes, path: Path) -> State:
    """Raises _Damaged for anything that is not what _encode wrote; UserError for a newer format."""
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        tensors = safetensors.numpy.load(content)
        checksum = metadata.pop("sha256")
        if checksum != _checksum(tensors, metadata):
            raise _Damaged("wrong checksum")
        if len(metadata["format_version"]) > 9:
            raise _Damaged("not a gems-edge state")
        version = int(metadata["format_version"])
        if metadata["format"] == FORMAT and version > FORMAT_VERSION:
            raise UserError(
                f"{path} has state format {version}, newer than this gems-edge reads; install a newer gems-edge"
            )
        delta = json.loads(metadata.get("delta", "[]"))
        if (
            metadata["format"] != FORMAT
            or version not in (PLAIN_VERSION, KEEPING_VERSION)
            or not all(isinstance(name, str) for name in delta)
        ):
            raise _Damaged("not a gems-edge state")
        classes = tuple(json.loads(metadata["classes"]))
        versions = history_of(json.loads(metadata["history"])) if version == KEEPING_VERSION else ()
        if versions and versions[-1].album.classes != classes:
            raise _Damaged("not a gems-edge state")
        return State(
            bundle=metadata["bundle"],
            classes=classes,
            steps=int(metadata["steps"]),
            images=int(metadata["images"]),
            tensors=tensors,
            generation=int(metadata["generation"]),
            delta=tuple(delta),
            versions=versions,
            precision=metadata.get("precision", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
        raise _Damaged("truncated or overwritten") from None


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, list(value.shape), value.dtype.str]).encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
