"""What one board learned, on disk: two checksummed slots written in turn.

A state is a directory with `a.safetensors` and `b.safetensors`. A save goes to the slot that does not hold the newest
valid generation, through a temporary file and a rename, so a power cut at any instant leaves the old state or the new.
"""

import contextlib
import errno
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gems_edge.errors import MachineError, UserError
from gems_edge.files import sync_directory, write_atomic

FORMAT = "gems-edge-state"
FORMAT_VERSION = 1
SLOTS = ("a.safetensors", "b.safetensors")
ClassName = str | int | float


@dataclass(frozen=True)
class State:
    """Adapted weights and support statistics (float32, by name), and what they belong to."""

    bundle: str  # Bundle.hash
    classes: tuple[ClassName, ...]
    steps: int
    images: int
    tensors: Mapping[str, np.ndarray]
    generation: int = 0  # counted up by save_state


class _Damaged(Exception):
    pass


def load_state(path: Path | str, bundle_hash: str) -> State:
    """The newest valid slot of the state at `path`; a damaged slot is skipped with a warning (UserWarning).

    Raises UserError if there is no valid slot, or if it belongs to another bundle.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a state (a directory NAME.state written by gems-edge adapt)")
    slots, damaged = _read_slots(path)
    if not slots:
        if damaged:
            raise UserError(
                f"both slots of {path} are damaged ({'; '.join(damaged.values())}); run gems-edge adapt again"
            )
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
        slots, damaged = _read_slots(path)
        if any(state.bundle != bundle_hash for state in slots.values()):
            raise UserError(_foreign(path) + "; it is left as it was")
        if not slots and not damaged and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise UserError(f"{path} is a directory with other files; choose a new name for the state")
    elif path.exists() or path.is_symlink():
        raise UserError(f"{path} exists and is not a state; choose a new name")
    elif not path.parent.is_dir():
        raise UserError(f"the directory {path.parent} does not exist; create it first")


def save_state(path: Path | str, state: State) -> State:
    """Write `state` as the next generation into the slot that is not the newest; returns it with its generation.

    Raises UserError as check_destination; MachineError if the write fails (disk full), with the state there intact.
    """
    path = Path(path)
    check_destination(path, state.bundle)
    for name in state.classes:
        if not isinstance(name, str | int | float):
            raise UserError(f"class names in a state must be text or numbers, not {name!r}")
    slots = _read_slots(path)[0] if path.is_dir() else {}
    newest = max(slots, key=lambda slot: slots[slot].generation, default=None)
    slot = SLOTS[1] if newest == SLOTS[0] else SLOTS[0]
    state = replace(state, generation=slots[newest].generation + 1 if newest else 1)
    content = _encode(state)
    created = not path.is_dir()
    try:
        if created:
            path.mkdir()
            sync_directory(path.parent)
        for left_over in path.glob(f".{slot}.*.tmp"):  # of a save that a power cut ended
            left_over.unlink()
        write_atomic(path / slot, content)
    except OSError as error:
        if created:
            with contextlib.suppress(OSError):
                path.rmdir()
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        kept = "nothing was saved" if created else "what it held before is intact"
        raise MachineError(
            f"{path} could not be written ({error.strerror or error}); {kept}; free some space or choose another place"
        ) from None
    return state


def state_bytes(path: Path | str) -> int:
    """The size of both slots together."""
    return sum((Path(path) / slot).stat().st_size for slot in SLOTS if (Path(path) / slot).is_file())


def _foreign(path: Path) -> str:
    return f"{path} was taught with another bundle (or with an earlier export of this one)"


def _read_slots(path: Path) -> tuple[dict[str, State], dict[str, str]]:
    """The valid slots, and for each damaged one the reason."""
    slots, damaged = {}, {}
    for slot in SLOTS:
        try:
            content = (path / slot).read_bytes()
        except FileNotFoundError:
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


def _encode(state: State) -> bytes:
    tensors = {name: np.asarray(value, np.float32, order="C") for name, value in state.tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "generation": str(state.generation),
        "bundle": state.bundle,
        "classes": json.dumps(list(state.classes), ensure_ascii=False),
        "steps": str(state.steps),
        "images": str(state.images),
    }
    return safetensors.numpy.save(tensors, metadata | {"sha256": _checksum(tensors, metadata)})


def _decode(content: bytes, path: Path) -> State:
    """Raises _Damaged for anything that is not what _encode wrote; UserError for a newer format."""
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        tensors = safetensors.numpy.load(content)
        checksum = metadata.pop("sha256")
        if checksum != _checksum(tensors, metadata):
            raise _Damaged("wrong checksum")
        version = int(metadata["format_version"])
        if metadata["format"] == FORMAT and version > FORMAT_VERSION:
            raise UserError(
                f"{path} has state format {version}, newer than this gems-edge reads; install a newer gems-edge"
            )
        if metadata["format"] != FORMAT or version != FORMAT_VERSION:
            raise _Damaged("not a gems-edge state")
        return State(
            bundle=metadata["bundle"],
            classes=tuple(json.loads(metadata["classes"])),
            steps=int(metadata["steps"]),
            images=int(metadata["images"]),
            tensors=tensors,
            generation=int(metadata["generation"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
        raise _Damaged("truncated or overwritten") from None


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, list(value.shape), value.dtype.str]).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
