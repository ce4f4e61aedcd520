"""Files in safetensors' format without copies of their tensors: the library makes one on reading and two on writing,
for which a board has neither the memory nor, at every start, the time.

The form: 8 bytes that say how long the header is, the header in JSON (name → dtype, shape, data_offsets), the values.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from gems_edge.errors import UserError
from gems_edge.files import parse_json

_KINDS: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in (("F32", "<f4"), ("F64", "<f8"), ("F16", "<f2"), ("I64", "<i8"), ("U8", "|u1"))
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_LENGTH_BYTES = 8


def tensor_views(content: bytes, what: str) -> dict[str, np.ndarray]:
    """The tensors in `content` by name; they cannot be written to. UserError, naming `what`, for what holds none, and
    for types other than those above."""
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or start > len(content):
        raise _unreadable(what, "it ends too early")
    header = parse_json(content[_LENGTH_BYTES:start], f"{what} cannot be read as safetensors: its header")
    if not isinstance(header, dict):
        raise _unreadable(what, "its header is no object")
    header.pop("__metadata__", None)
    return {name: _view(content, start, name, entry, what) for name, entry in header.items()}


def tensor_parts(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A file that holds `tensors` (of the types above), in parts that take no memory beside them."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    values, end = [], 0
    # Those of large numbers first, so that all begin at a multiple of their size.
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        value = np.ascontiguousarray(tensors[name]).reshape(tensors[name].shape)
        start, end = end, end + value.nbytes
        header[name] = {"dtype": _NAMES[value.dtype], "shape": value.shape, "data_offsets": (start, end)}
        values.append(value.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return [len(text).to_bytes(_LENGTH_BYTES, "little"), text, *values]


def _view(content: bytes, start: int, name: str, entry: Any, what: str) -> np.ndarray:
    parts: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind, shape, place = _KINDS.get(str(parts.get("dtype"))), parts.get("shape"), parts.get("data_offsets")
    if kind is None or not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise _unreadable(what, f"tensor {name} has another form")
    count, (low, high) = math.prod(shape), place
    if high - low != count * kind.itemsize or high > len(content) - start:
        raise _unreadable(what, f"tensor {name} has not the bytes of its shape")
    try:
        return np.frombuffer(content, kind, count, start + low).reshape(shape)
    except (ValueError, OverflowError) as error:  # of more axes than numpy has, or none of their sizes
        raise _unreadable(what, f"tensor {name}: {error}") from None


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _unreadable(what: str, reason: str) -> UserError:
    return UserError(f"{what} cannot be read as safetensors ({reason}); export the bundle again")
