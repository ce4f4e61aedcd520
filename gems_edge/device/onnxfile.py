"""Checks a model's bytes; finds, reads and replaces its initialisers; without the onnx package, which boards have not.

onnxruntime's own `SessionOptions.add_initializer` cannot do the last: graph optimisation folds the values in the file
first and then drops the given ones without a word (seen with 1.31.1), so predictions would silently be those of the
untaught weights; `add_external_initializers` refuses initialisers that lie in the file. Values written into the file's
bytes are folded and packed like any others.

What is checked must be what onnxruntime reads, and nothing else may reach it. So the fields and operators that an
export writes are listed, and all others are refused: tensors in other files, functions, sparse tensors, training
graphs. So are bytes that protobuf reads in a way of its own: numbers with bits that their type has no room for (which
it drops), in more bytes than they need, fields of another wire type (which it takes for unknown), and a single field
that stands twice (of two messages it makes one).

Field numbers: onnx/onnx.proto; wire format: protobuf's encoding guide.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gems_edge.device.operators import OPERATORS
from gems_edge.errors import UserError

# TensorProto.DataType of what a board writes, as numpy types in the file's byte order.
_TYPES = {1: "<f4", 2: "|u1", 3: "|i1", 6: "<i4"}
_DEEPEST = 32
_VARINT, _LENGTH, _FIXED32 = 0, 2, 5


@dataclass(frozen=True)
class _Field:
    wires: tuple[int, ...]  # a repeated number may stand packed
    child: str = ""  # the message that it holds
    repeated: bool = False


_NUMBER, _TEXT = _Field((_VARINT,)), _Field((_LENGTH,))
_NUMBERS, _TEXTS = _Field((_VARINT, _LENGTH), repeated=True), _Field((_LENGTH,), repeated=True)
_FLOATS = _Field((_FIXED32, _LENGTH), repeated=True)
_ENTRIES = _Field((_LENGTH,), "entry", repeated=True)


def _one(child: str) -> _Field:
    return _Field((_LENGTH,), child)


def _many(child: str) -> _Field:
    return _Field((_LENGTH,), child, repeated=True)


# Message → the numbers of the fields that an export writes. Tensors are read by _tensor.
_MESSAGES: dict[str, dict[int, _Field]] = {
    "model": {
        1: _NUMBER, 2: _TEXT, 3: _TEXT, 4: _TEXT, 5: _NUMBER, 6: _TEXT, 7: _one("graph"), 8: _many("opset"),
        14: _ENTRIES,
    },
    "opset": {1: _TEXT, 2: _NUMBER},
    "entry": {1: _TEXT, 2: _TEXT},
    "graph": {
        1: _many("node"), 2: _TEXT, 5: _many("tensor"), 10: _TEXT, 11: _many("value"), 12: _many("value"),
        13: _many("value"), 16: _ENTRIES,
    },
    "node": {
        1: _TEXTS, 2: _TEXTS, 3: _TEXT, 4: _TEXT, 5: _many("attribute"), 6: _TEXT, 7: _TEXT, 9: _ENTRIES,
    },
    "attribute": {
        1: _TEXT, 2: _Field((_FIXED32,)), 3: _NUMBER, 4: _TEXT, 6: _one("graph"), 7: _FLOATS, 8: _NUMBERS, 9: _TEXTS,
        13: _TEXT, 20: _NUMBER,
    },
    "tensor": {
        1: _NUMBERS, 2: _NUMBER, 4: _Field((_LENGTH,)), 5: _NUMBERS, 7: _NUMBERS, 8: _TEXT, 9: _TEXT, 12: _TEXT,
        13: _ENTRIES, 14: _NUMBER, 16: _ENTRIES,
    },
    "value": {1: _TEXT, 2: _one("type"), 3: _TEXT, 4: _ENTRIES},
    "type": {1: _one("tensor type"), 6: _TEXT},
    "tensor type": {1: _NUMBER, 2: _one("shape")},
    "shape": {1: _many("dim")},
    "dim": {1: _NUMBER, 2: _TEXT, 3: _TEXT},
}  # fmt: skip


@dataclass(frozen=True)
class Initializer:
    """A tensor of the main graph: its shape, its type (a numpy name, "" for one that a board never writes), and where
    its values lie in the file as plain bytes (-1: they do not)."""

    shape: tuple[int, ...]
    kind: str
    offset: int
    length: int


def initializers(model: bytes, what: str) -> dict[str, Initializer]:
    """The main graph's initialisers by name, of a model in which everything is as an export writes it.

    Raises UserError, naming `what`, for bytes that are no such model.
    """
    walk = _Walk(model)
    try:
        if model[4:8] == b"ORTM":  # onnxruntime looks for this mark before it tries protobuf
            raise ValueError("it is in onnxruntime's own format")
        walk.message(0, len(model), "model", 0)
    except (IndexError, ValueError) as error:
        raise UserError(f"{what} is damaged or not an ONNX model ({error}); export or copy the bundle again") from None
    except _ExternalData as error:
        raise UserError(
            f"{what} keeps tensor {error} in another file, which is not read; export it again with its weights inside"
        ) from None
    except _ForeignOperator as error:
        raise UserError(
            f"{what} holds the operator {str(error)!r}, which no export writes; export the bundle again"
        ) from None
    return walk.tensors


def values_of(model: bytes, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """The initialisers of these names. Raises UserError, naming `what`, for one that is missing or of another type."""
    tensors, values = initializers(model, what) if names else {}, {}
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
    if not values:
        return model
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


class _ForeignOperator(Exception):
    pass


@dataclass
class _Walk:
    """What is found on the way through a model."""

    data: bytes
    tensors: dict[str, Initializer] = field(default_factory=dict)

    def message(self, start: int, end: int, kind: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        operator, domain = "", ""
        for number, _, low, high in _known(self.data, start, end, kind):
            child = _MESSAGES[kind][number].child
            if child == "tensor":
                self.tensor(low, high, depth)
            elif child:
                self.message(low, high, child, depth + 1)
            elif kind == "node" and number == 4:
                operator = self.data[low:high].decode()
            elif kind == "node" and number == 7:
                domain = self.data[low:high].decode()
        if kind == "node" and (operator not in OPERATORS or domain not in ("", "ai.onnx")):
            raise _ForeignOperator(f"{domain}.{operator}" if domain else operator)

    def tensor(self, start: int, end: int, depth: int) -> None:
        name, initializer = _tensor(self.data, start, end)
        if depth == 1:  # of the main graph
            if name in self.tensors:
                raise ValueError(f"two tensors are named {name}")
            self.tensors[name] = initializer


def _tensor(data: bytes, start: int, end: int) -> tuple[str, Initializer]:
    name, kind, offset, length, external = "", 0, -1, -1, False
    shape: list[int] = []
    for number, wire, low, high in _known(data, start, end, "tensor"):
        if number == 1:
            shape += [low] if wire == _VARINT else _packed(data, low, high)
        elif number == 2:
            kind = _enum(low)
        elif number == 8:
            name = data[low:high].decode()
        elif number in (4, 9):  # packed float_data and raw_data are the same little-endian bytes
            if offset >= 0:
                raise ValueError("a tensor holds values twice")
            offset, length = low, high - low
        elif number == 13 or (number == 14 and _enum(low) != 0):
            external = True
    if external:
        raise _ExternalData(name or "without a name")
    return name, Initializer(tuple(shape), _TYPES.get(kind, ""), offset, length)


def _packed(data: bytes, low: int, high: int) -> list[int]:
    numbers = []
    while low < high:
        number, low = _varint(data, low)
        numbers.append(number)
    if low > high:
        raise ValueError("it ends too early")
    return numbers


def _enum(value: int) -> int:
    if value >= 1 << 31:
        raise ValueError("a number is too large")
    return value


def _known(data: bytes, start: int, end: int, kind: str) -> Iterator[tuple[int, int, int, int]]:
    """As _fields, of a message of this kind. ValueError for a field that no export writes there."""
    seen: set[int] = set()
    for number, wire, low, high in _fields(data, start, end):
        known = _MESSAGES[kind].get(number)
        if known is None or wire not in known.wires:
            raise ValueError(f"field {number} of a {kind} is none that an export writes")
        if number in seen and not known.repeated:
            raise ValueError(f"field {number} of a {kind} stands twice")
        seen.add(number)
        yield number, wire, low, high


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field, wire type, start, stop) of each field; for a varint its value stands at `start`."""
    while position < end:
        key, position = _varint(data, position)
        if not 8 <= key < 1 << 32:
            raise ValueError("a field has no valid number")
        wire = key & 7
        if wire == _VARINT:
            low, position = _varint(data, position)
            high = low
        else:
            if wire == _LENGTH:
                size, position = _varint(data, position)
            elif wire in (1, _FIXED32):
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
        if byte < 0x80:
            if value >= 1 << 64 or (shift and not byte):
                break
            return value, position
    raise ValueError("a number is too long")
