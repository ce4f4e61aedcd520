"""What one board learned, on disk: two checksummed slots written in turn.

A state is a directory with `a.safetensors` and `b.safetensors`. A save goes to the slot that does not hold the newest
valid generation, through a temporary file and a rename, so a power cut at any instant leaves the old state or the new.
Saves of several processes come one after the other: each is a generation of its own.

Of a tensor that differs from the bundle's start in few places a slot holds only the change: NAME.changed (uint8,
numpy.packbits in C order: the places whose bits differ) and NAME.values (float32, the values there). The metadata
lists these names as `delta`.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gems_edge.errors import MachineError, UserError
from gems_edge.files import locked, read_plain, sync_directory, write_atomic

FORMAT = "gems-edge-state"
FORMAT_VERSION = 2
SLOTS = ("a.safetensors", "b.safetensors")
# What a delta takes in the header of the file: one more name, type, shape and place, and the name in `delta`.
_ENTRY_BYTES = 192
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class State:
    """Adapted weights and support statistics (float32, by name), and what they belong to.

    The tensors named by `delta` are held as the change from the bundle's start: see as_delta and restored.
    """

    bundle: str  # Bundle.hash
    classes: tuple[Hashable, ...]  # on disk text and numbers only
    steps: int
    images: int
    tensors: Mapping[str, np.ndarray]
    generation: int = 0  # counted up by save_state
    delta: tuple[str, ...] = ()


class _Damaged(Exception):
    pass


def as_delta(state: State, start: Mapping[str, np.ndarray]) -> State:
    """`state`, its tensors in full, with those as their change from `start` (float32, same shapes) that get smaller."""
    tensors: dict[str, np.ndarray] = {}
    delta = []
    for name, value in state.tensors.items():
        value = np.asarray(value, np.float32)
        differs = (value.view(np.uint32) != start[name].view(np.uint32)).ravel()  # bits: 0.0 equals −0.0
        changed, values = np.packbits(differs), value.ravel()[differs]
        if changed.nbytes + values.nbytes + _ENTRY_BYTES < value.nbytes:
            delta.append(name)
            tensors |= {f"{name}.changed": changed, f"{name}.values": values}
        else:
            tensors[name] = value
    return replace(state, tensors=tensors, delta=tuple(delta))


def restored(state: State, start: Mapping[str, np.ndarray]) -> State:
    """`state` with all its tensors in full, to the bit what as_delta was given.

    Raises ValueError unless they are float32 of the names and shapes of `start`.
    """
    tensors = dict(state.tensors)
    try:
        for name in state.delta:
            tensors[name] = _changed(start[name], tensors.pop(f"{name}.changed"), tensors.pop(f"{name}.values"))
    except KeyError as error:
        raise ValueError(f"no tensor {error}") from None
    if tensors.keys() != start.keys() or any(not _is_float32(tensors[name], start[name].shape) for name in start):
        raise ValueError("other tensors")
    return replace(state, tensors=tensors, delta=())


def _changed(start: np.ndarray, changed: np.ndarray, values: np.ndarray) -> np.ndarray:
    if changed.dtype != np.uint8 or changed.shape != ((start.size + 7) // 8,):
        raise ValueError("a change of another size")
    differs = np.unpackbits(changed).astype(bool)
    if differs[start.size :].any() or not _is_float32(values, (int(differs.sum()),)):
        raise ValueError("as many values as places do not change")
    value = start.flatten()
    value[differs[: start.size]] = values
    return value.reshape(start.shape)


def _is_float32(value: np.ndarray, shape: tuple[int, ...]) -> bool:
    return value.dtype == np.float32 and value.shape == shape


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
        for slot in SLOTS:
            if os.path.lexists(path / slot) and not stat.S_ISREG(os.lstat(path / slot).st_mode):
                raise UserError(f"{path / slot} is not a plain file, as a state's must be; choose a new name")
        slots, damaged = read_slots(path)
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

    Raises UserError as check_destination; MachineError if the write fails (disk full), and if another process is at it
    for long, with the state there intact.
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
            return _save(path, state)
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


def _save(path: Path, state: State) -> State:
    """As save_state, into a directory that no other process writes meanwhile."""
    check_destination(path, state.bundle)
    slots = read_slots(path)[0]
    newest = max(slots, key=lambda slot: slots[slot].generation, default=None)
    slot = SLOTS[1] if newest == SLOTS[0] else SLOTS[0]
    state = replace(state, generation=slots[newest].generation + 1 if newest else 1)
    content = _encode(state)
    for left_over in path.glob(f".{slot}.*.tmp"):  # of a save that a power cut ended
        left_over.unlink()
    write_atomic(path / slot, content)
    return state


def state_bytes(path: Path | str) -> int:
    """The size of both slots together."""
    return sum((Path(path) / slot).stat().st_size for slot in SLOTS if (Path(path) / slot).is_file())


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


def _encode(state: State) -> bytes:
    tensors = {name: np.asarray(value, order="C") for name, value in state.tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "generation": str(state.generation),
        "bundle": state.bundle,
        "classes": json.dumps(list(state.classes), ensure_ascii=False),
        "steps": str(state.steps),
        "images": str(state.images),
    }
    if state.delta:
        metadata["delta"] = json.dumps(state.delta, ensure_ascii=False)
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
        delta = json.loads(metadata.get("delta", "[]"))
        if (
            metadata["format"] != FORMAT
            or version != FORMAT_VERSION
            or not all(isinstance(name, str) for name in delta)
        ):
            raise _Damaged("not a gems-edge state")
        return State(
            bundle=metadata["bundle"],
            classes=tuple(json.loads(metadata["classes"])),
            steps=int(metadata["steps"]),
            images=int(metadata["images"]),
            tensors=tensors,
            generation=int(metadata["generation"]),
            delta=tuple(delta),
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
