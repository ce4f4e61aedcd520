"""A state's tensors as their change from the bundle's start, where that is smaller.

Of a tensor that differs in few places a slot holds NAME.changed (uint8, numpy.packbits in C order: the places whose
bits differ) and NAME.values (float32, the values there). The slot's metadata lists these names as `delta`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gems_edge.device.state import State

# What a delta takes in the header of the file: one more name, type, shape and place, and the name in `delta`.
_ENTRY_BYTES = 192


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
