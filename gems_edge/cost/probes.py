"""Small ONNX graphs, written as bytes without the onnx package, whose times tell a machine's rates (calibrate.py).

Only what the probes need of the format: float tensors, nodes with integer attributes. Field numbers: onnx/onnx.proto.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gems_edge.cost.liveness import ALIASES, TensorSize
from gems_edge.cost.work import add_up, work_of

IR_VERSION, OPSET = 10, 20
_FLOAT, _INT64 = 1, 7


@dataclass
class Probe:
    """A graph under construction: every method adds an op to `x` and gives the name of its result."""

    name: str
    shape: tuple[int, ...]  # of the input "x"
    sizes: dict[str, TensorSize] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    inputs: list[str] = field(default_factory=list)
    nodes: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    works: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feed("x", self.shape)

    def feed(self, name: str, shape: tuple[int, ...]) -> str:
        self.sizes[name] = TensorSize(tuple(shape), 4)
        self.inputs.append(name)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(np.random.default_rng(len(self.constants)).normal(0, 0.1, shape).astype("<f4"))

    def constant(self, values: np.ndarray) -> str:
        """An initialiser, float32 or int64."""
        name, kind = f"w{len(self.constants)}", _FLOAT if values.dtype == np.float32 else _INT64
        sides = (_number(1, side) for side in values.shape)
        self.tensors.append(_join(*sides, _number(2, kind), _text(8, name), _bytes(9, values.tobytes())))
        self.sizes[name] = TensorSize(values.shape, values.itemsize)
        self.constants.add(name)
        return name

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        *,
        fused: bool = False,
        item: int = 4,
        **attributes,
    ) -> str:
        """`fused`: onnxruntime makes the op part of the one before, so it is no work of its own. `item`: bytes."""
        name = f"t{len(self.nodes)}"
        self.sizes[name] = TensorSize(tuple(shape), item)
        given = [_bytes(5, _attribute(key, value)) for key, value in attributes.items()]
        self.nodes.append(_join(*(_text(1, x) for x in inputs), _text(2, name), _text(4, kind), *given))
        if not fused:
            moved = sum(self.sizes[t].bytes for t in {*inputs, name} if t)
            moved = 0 if kind in ALIASES else min(moved, 2 * self.sizes[name].bytes) if kind == "Slice" else moved
            weight = inputs[1] if len(inputs) > 1 else ""
            macs = self._macs(kind, inputs, name)
            self.works.append(
                work_of(kind, attributes, weight, inputs, [name], self.sizes, self.constants, macs, moved)
            )
        return name

    def _macs(self, kind: str, inputs: Sequence[str], output: str) -> int:
        if kind == "Conv":
            return self.sizes[output].elements * math.prod(self.sizes[inputs[1]].shape[1:])
        if kind == "ConvTranspose":
            return self.sizes[inputs[0]].elements * math.prod(self.sizes[inputs[1]].shape[1:])
        return self.sizes[output].elements * self.sizes[inputs[0]].shape[-1] if kind in ("Gemm", "MatMul") else 0

    def conv(
        self,
        x: str,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        fed: bool = False,
        relu: bool = True,
    ) -> str:
        images, channels, height, width = self.sizes[x].shape
        sides = ((side + 2 * (kernel // 2) - kernel) // stride + 1 for side in (height, width))
        form = (outputs, channels // groups, kernel, kernel)
        weight = self.feed(f"f{len(self.inputs)}", form) if fed else self.weight(*form)
        made = self.op(
            "Conv", [x, weight], (images, outputs, *sides), group=groups, pads=[kernel // 2] * 4, strides=[stride] * 2
        )
        return self.op("Relu", [made], self.sizes[made].shape, fused=True) if relu else made

    def transposed(self, x: str, outputs: int) -> str:
        images, channels, height, width = self.sizes[x].shape
        weight = self.weight(channels, outputs, 3, 3)
        return self.op("ConvTranspose", [x, weight], (images, outputs, height, width), pads=[1] * 4, strides=[1, 1])

    def pool(self, x: str) -> str:
        images, channels, height, width = self.sizes[x].shape
        shape = (images, channels, height // 2, width // 2)
        return self.op("MaxPool", [x], shape, kernel_shape=[2, 2], strides=[2, 2])

    def linear(self, x: str, outputs: int) -> str:
        images, *rest = self.sizes[x].shape
        flat = self.op("Flatten", [x], (images, math.prod(rest))) if len(rest) > 1 else x
        return self.op(
            "Gemm", [flat, self.weight(outputs, math.prod(rest)), self.weight(outputs)], (images, outputs), transB=1
        )

    def same(self, kind: str, *inputs: str) -> str:
        """An elementwise op."""
        return self.op(kind, inputs, self.sizes[inputs[0]].shape)

    def corner(self, x: str) -> str:
        """One channel of one image of a map: a large graph output would be paid for in fresh pages at every call."""
        shape = self.sizes[x].shape
        if len(shape) < 4 or self.sizes[x].elements < 10_000:
            return x
        places = [self.constant(np.array(values, "<i8")) for values in ((0, 0), (1, 1), (0, 1))]
        return self.op("Slice", [x, *places], (1, 1, *shape[2:]))

    def scaled(self, x: str) -> str:
        """By a number per channel, as normalisation does."""
        factor = self.feed(f"f{len(self.inputs)}", (self.sizes[x].shape[1], 1, 1))
        return self.op("Mul", [x, factor], self.sizes[x].shape)

    def where_equal(self, x: str, y: str) -> str:
        shape = self.sizes[x].shape
        return self.op("Where", [self.op("Equal", [x, y], shape, item=1), x, y], shape)

    def doubled(self, x: str) -> str:
        images, channels, height, width = self.sizes[x].shape
        scales = self.constant(np.array([1, 1, 2, 2], "<f4"))
        return self.op("Resize", [x, "", scales], (images, channels, 2 * height, 2 * width), mode="nearest")

    def channel_sums(self, x: str) -> str:
        axes = self.constant(np.array([0, 2, 3], "<i8"))
        return self.op("ReduceSum", [x, axes], (1, self.sizes[x].shape[1], 1, 1), keepdims=1)

    def shifted(self, x: str) -> str:
        """Two windows of a map, side by side: a part of the im2col of gradient graphs."""
        images, channels, height, width = self.sizes[x].shape
        window, parts = (images, channels, height - 2, width - 2), []
        for at in (0, 2):
            ends = (at + height - 2, at + width - 2)
            places = [self.constant(np.array(values, "<i8")) for values in ((at, at), ends, (2, 3))]
            parts.append(self.op("Slice", [x, *places], window))
        return self.op("Concat", parts, (images, 2 * channels, *window[2:]), axis=1)

    @property
    def work(self) -> dict[str, float]:
        return add_up(self.works)

    def feeds(self) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0)
        return {name: noise.random(self.sizes[name].shape, np.float32) for name in self.inputs}

    def model(self, output: str) -> bytes:
        inputs = [_bytes(11, _value(name, self.sizes[name].shape)) for name in self.inputs]
        parts = [_bytes(1, node) for node in self.nodes] + [_text(2, "probe")] + [_bytes(5, t) for t in self.tensors]
        graph = _join(*parts, *inputs, _bytes(12, _value(output, self.sizes[output].shape)))
        return _join(_number(1, IR_VERSION), _bytes(7, graph), _bytes(8, _number(2, OPSET)))


def _varint(value: int) -> bytes:
    written = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        written.append(low | (0x80 if value else 0))
        if not value:
            return bytes(written)


def _number(place: int, value: int) -> bytes:
    return _varint(place << 3) + _varint(value)


def _bytes(place: int, content: bytes) -> bytes:
    return _varint(place << 3 | 2) + _varint(len(content)) + content


def _text(place: int, content: str) -> bytes:
    return _bytes(place, content.encode())


def _join(*parts: bytes) -> bytes:
    return b"".join(parts)


def _attribute(name: str, value: int | str | Sequence[int]) -> bytes:
    integer, string, integers = 2, 3, 7
    if isinstance(value, str):
        return _join(_text(1, name), _text(4, value), _number(20, string))
    if isinstance(value, int):
        return _join(_text(1, name), _number(3, value), _number(20, integer))
    return _join(_text(1, name), *(_number(8, item) for item in value), _number(20, integers))


def _value(name: str, shape: Sequence[int]) -> bytes:
    sides = _join(*(_bytes(1, _number(1, side)) for side in shape))
    return _join(_text(1, name), _bytes(2, _bytes(1, _join(_number(1, _FLOAT), _bytes(2, sides)))))
