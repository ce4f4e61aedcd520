"""Finds, reads and replaces a model's initialisers without the onnx package, which boards do not have.

onnxruntime's own `SessionOptions.add_initializer` cannot do the second: graph optimisation folds the values in the
file first and then drops the given ones without a word (seen with 1.31.1), so predictions would silently be those of
the untaught weights; `add_external_initializers` refuses initialisers that lie in the file. Values written into the
file's bytes are folded and packed like any others.

Field numbers: onnx/onnx.proto; wire format: protobuf's encoding guide. protobuf drops the bits of a number that its
type has no room for, so what onnxruntime reads would not be what was checked here: such numbers are refused.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gems_edge.errors import UserError

# TensorProto.DataType of what a board writes, as numpy types in the file's byte order.
_TYPES = {1: "<f4", 2: "|u1", 3: "|i1", 6: "<i4"}
# Which fields of which message hold messages that can hold tensors.
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST = 32


@dataclass(frozen=True)
class Initializer:
    """A tensor of the main graph: its shape, its type (a numpy name, "" for one that a board never writes), and where
    its values lie in the file as plain bytes (-1: they do not)."""

    shape: tuple[int, ...]
    kind: str
    offset: int
    length: int


def initializers(model: bytes, what: str) -> dict[str, Initializer]:
    """The main graph's initialisers by name.

    Raises UserError, naming `what`, for bytes that are no ONNX model and for tensors kept in other files.
    """
    tensors: dict[str, Initializer] = {}
    try:
        if model[4:8] == b"ORTM":  # onnxruntime looks for this mark before it tries protobuf
            raise ValueError("it is in onnxruntime's own format")
        _walk(model, 0, len(model), "model", tensors, 0)
    except (IndexError, ValueError) as error:
        raise UserError(f"{what} is damaged or not an ONNX model ({error}); export or copy the bundle again") from None
    except _ExternalData as error:
        raise UserError(
            f"{what} keeps tensor {error} in another file, which is not read; export it again with its weights inside"
        ) from None
    return tensors


def values_of(model: bytes, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """The initialisers of these names. Raises UserError, naming `what`, for one that is missing or of another type."""
    tensors, values = initializers(model, what), {}
    for name in names:
        tensor = tensors.get(name)
        count = math.prod(tensor.shape) if tensor else 0
        if (
            not tensor
            or not tensor.kind
            or tensor.offset < 0
            or tensor.length != count * np.dtype(tensor.kind).itemsize
        ):
            raise UserError(
                f"{what} does not fit its bundle: no initialiser {name} that can be read; export the bundle again"
            )
        values[name] = np.frombuffer(model, tensor.kind, count, tensor.offset).reshape(tensor.shape)
    return values


def with_values(model: bytes, values: Mapping[str, np.ndarray], what: str) -> bytes:
    """`model` with the initialisers of `values` replaced; same shapes and types, so every other byte stays.

    Raises UserError, naming `what`, if an initialiser is missing or differs in shape or type.
    """
    tensors = initializers(model, what)
    changed = bytearray(model)
    for name, value in values.items():
        tensor = tensors.get(name)
        kind = value.dtype.newbyteorder("<").str
        if tensor is None or (tensor.shape, tensor.kind, tensor.length) != (value.shape, kind, value.nbytes):
            reason = "is missing"
            if tensor is not None:
                reason = f"has shape {list(tensor.shape)}, expected {value.dtype} {list(value.shape)}"
            raise UserError(f"{what} does not fit its bundle: initialiser {name} {reason}; export the bundle again")
        changed[tensor.offset : tensor.offset + tensor.length] = value.astype(kind, copy=False).tobytes()
    return bytes(changed)


class _ExternalData(Exception):
    pass


def _walk(data: bytes, start: int, end: int, kind: str, tensors: dict[str, Initializer], depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    if kind == "tensor":
        name, initializer = _tensor(data, start, end)
        if depth == 2:  # model → graph → tensor
            tensors[name] = initializer
        return
    children = _CHILDREN[kind]
    for number, wire, low, high in _fields(data, start, end):
        if wire == 2 and number in children:
            _walk(data, low, high, children[number], tensors, depth + 1)


def _tensor(data: bytes, start: int, end: int) -> tuple[str, Initializer]:
    name, kind, offset, length, external = "", 0, -1, -1, False
    shape: list[int] = []
    for number, wire, low, high in _fields(data, start, end):
        if number == 1 and wire == 0:
            shape.append(low)
        elif number == 1 and wire == 2:
            while low < high:
                size, low = _varint(data, low)
                shape.append(size)
            if low > high:
                raise ValueError("it ends too early")
        elif number == 2 and wire == 0:
            kind = _enum(low)
        elif number == 8 and wire == 2:
            name = data[low:high].decode()
        elif number in (4, 9) and wire == 2:  # packed float_data and raw_data are the same little-endian bytes
            if offset >= 0:
                raise ValueError("a tensor holds values twice")
            offset, length = low, high - low
        elif number == 13 or (number == 14 and wire == 0 and _enum(low) != 0):
            external = True
    if external:
        raise _ExternalData(name or "without a name")
    return name, Initializer(tuple(shape), _TYPES.get(kind, ""), offset, length)


def _enum(value: int) -> int:
    if value >= 1 << 31:
        raise ValueError("a number is too large")
    return value


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field, wire type, start, stop) of each field; for a varint its value stands at `start`."""
    while position < end:
        key, position = _varint(data, position)
        if not 8 <= key < 1 << 32:
            raise ValueError("a field has no valid number")
        wire = key & 7
        if wire == 0:
            low, position = _varint(data, position)
            high = low
        else:
            if wire == 2:
                size, position = _varint(data, position)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"unknown wire type {wire}")
            low, high = position, position + size
            position = high
        if position > end:
            raise ValueError("it ends too early")
        yield key >> 3, wire, low, high


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, position
    raise ValueError("a number is too long")
