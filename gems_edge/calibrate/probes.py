"""Small ONNX graphs, written as bytes without the onnx package, whose times tell a machine's rates (calibrate.py).

Only what the probes need of the format: tensors of floats, bytes and integers, nodes with integers and graphs as
attributes. Field numbers: onnx/onnx.proto.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gems_edge.graphs.liveness import ALIASES, TensorSize
from gems_edge.predict.work import add_up, leaves_blocked, work_of

IR_VERSION, OPSET = 10, 20
_FLOAT, _UINT8, _INT64 = 1, 2, 7
_TYPES = {4: _FLOAT, 1: _UINT8, 8: _INT64}  # by bytes of an element


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
    blocked: set[str] = field(default_factory=set)  # tensors as work.leaves_blocked says
    outer: "Probe | None" = None  # of a Scan's body: the graph around it, which holds what is fed

    def __post_init__(self) -> None:
        if self.outer is None:
            self.feed("x", self.shape)

    def feed(self, name: str, shape: tuple[int, ...], item: int = 4) -> str:
        """`item`: bytes of an element."""
        if self.outer is not None:
            name = self.outer.feed(f"{self.name}.{name}", shape, item)
        else:
            self.inputs.append(name)
        self.sizes[name] = TensorSize(tuple(shape), item)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(np.random.default_rng(len(self.constants)).normal(0, 0.1, shape).astype("<f4"))

    def constant(self, values: np.ndarray) -> str:
        """An initialiser, float32, uint8 or int64."""
        name, kind = self._named(f"w{len(self.constants)}"), _TYPES[values.itemsize]
        sides = (_number(1, side) for side in values.shape)
        self.tensors.append(_join(*sides, _number(2, kind), _text(8, name), _bytes(9, values.tobytes())))
        self.sizes[name] = TensorSize(values.shape, values.itemsize)
        self.constants.add(name)
        return name

    def _named(self, name: str) -> str:
        return name if self.outer is None else f"{self.name}.{name}"

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
        name = self._named(f"t{len(self.nodes)}")
        self.sizes[name] = TensorSize(tuple(shape), item)
        given = [_bytes(5, _attribute(key, value)) for key, value in attributes.items()]
        self.nodes.append(_join(*(_text(1, x) for x in inputs), _text(2, name), _text(4, kind), *given))
        if not fused and kind != "Scan":
            moved = sum(self.sizes[t].bytes for t in {*inputs, name} if t)
            moved = 0 if kind in ALIASES else min(moved, 2 * self.sizes[name].bytes) if kind == "Slice" else moved
            weight = inputs[1] if len(inputs) > 1 else ""
            macs = self._macs(kind, inputs, name)
            self.works.append(
                work_of(
                    kind,
                    attributes,
                    weight,
                    inputs,
                    [name],
                    self.sizes,
                    self.constants,
                    macs,
                    moved,
                    not self.blocked.isdisjoint(inputs),
                )
            )
        constant = not self.constants.isdisjoint(inputs[1:2])
        at_hand = not self.blocked.isdisjoint(inputs)
        if leaves_blocked(kind, constant, at_hand) or fused and at_hand:
            self.blocked.add(name)
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
        weight = self.feed(f"f{len(self.sizes)}", form) if fed else self.weight(*form)
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
        return self.op("MaxPool", [x], shape, item=self.sizes[x].item_bytes, kernel_shape=[2, 2], strides=[2, 2])

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

    def scaled(self, x: str, kind: str = "Mul") -> str:
        """By a number per channel, as normalisation does."""
        factor = self.feed(f"f{len(self.sizes)}", (self.sizes[x].shape[1], 1, 1))
        return self.op(kind, [x, factor], self.sizes[x].shape)

    def padded(self, x: str, by: int = 1) -> str:
        images, channels, height, width = self.sizes[x].shape
        pads = self.constant(np.array([0, 0, by, by, 0, 0, by, by], "<i8"))
        return self.op("Pad", [x, pads], (images, channels, height + 2 * by, width + 2 * by))

    def columns(self, x: str, kernel: int = 3) -> str:
        """Shifted windows of a padded map, side by side: [N, k²·C, H, W]."""
        images, channels, height, width = self.sizes[x].shape
        padded, axes = self.padded(x, kernel // 2), self.constant(np.array([2, 3], "<i8"))
        parts = []
        for place in np.ndindex(kernel, kernel):
            starts, ends = (self.constant(np.array(at, "<i8")) for at in (place, (place[0] + height, place[1] + width)))
            parts.append(self.op("Slice", [padded, starts, ends, axes], (images, channels, height, width)))
        return self.op("Concat", parts, (images, kernel**2 * channels, height, width), axis=1)

    def flipped(self, x: str) -> str:
        """A kernel [O, I, kh, kw] turned by half a turn."""
        values = ((-1, -1), (np.iinfo(np.int64).min,) * 2, (2, 3), (-1, -1))
        places = [self.constant(np.array(value, "<i8")) for value in values]
        return self.op("Slice", [x, *places], self.sizes[x].shape)

    def flat(self, x: str) -> str:
        """[N, C, H·W]."""
        images, channels, *sides = self.sizes[x].shape
        shape = (images, channels, math.prod(sides))
        return self.op("Reshape", [x, self.constant(np.array([0, channels, shape[-1]], "<i8"))], shape)

    def product(self, x: str, y: str) -> str:
        """[N, A, D] · [N, B, D]ᵀ: onnxruntime reads the second one as it lies."""
        (images, first, depth), (_, second, _) = self.sizes[x].shape, self.sizes[y].shape
        turned = self.op("Transpose", [y], (images, depth, second), fused=True, perm=[0, 2, 1])
        made = self.op("MatMul", [x, turned], (images, first, second), fused=True)
        maps = {x, y, made}
        self.works.append(work_of("MatMul", {}, y, [x, y], [made], self.sizes, self.constants,
                                  images * first * depth * second, sum(self.sizes[name].bytes for name in maps)))  # fmt: skip
        return made

    def is_equal(self, x: str, y: str) -> str:
        return self.op("Equal", [x, y], self.sizes[x].shape, item=1)

    def where(self, mask: str, x: str) -> str:
        """`x` or 0."""
        zero = np.zeros((), "<f4" if self.sizes[x].item_bytes == 4 else "u1")
        return self.op("Where", [mask, x, self.constant(zero)], self.sizes[mask].shape, item=zero.itemsize)

    def doubled(self, x: str) -> str:
        images, channels, height, width = self.sizes[x].shape
        scales = self.constant(np.array([1, 1, 2, 2], "<f4"))
        return self.op(
            "Resize",
            [x, "", scales],
            (images, channels, 2 * height, 2 * width),
            item=self.sizes[x].item_bytes,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def sums(self, x: str, axes: tuple[int, ...], kind: str = "ReduceSum") -> str:
        shape = self.sizes[x].shape
        kept = tuple(side for axis, side in enumerate(shape) if axis not in axes)
        return self.op(kind, [x, self.constant(np.array(axes, "<i8"))], kept, keepdims=0)

    def unpooled(self, gradient: str, x: str) -> str:
        """The gradient of a 2×2 pool at its input x, as export/backward.py writes it."""
        places = self.constant(np.tile(np.array([[4, 3], [2, 1]], np.uint8), [side // 2 for side in self.sizes[x].shape[2:]])[None, None])  # fmt: skip
        candidates = self.where(self.is_equal(x, self.doubled(self.pool(x))), places)
        first = self.is_equal(candidates, self.doubled(self.pool(candidates)))
        return self.where(first, self.doubled(gradient))

    def each_image(self, x: str, build: Callable[["Probe", str], str]) -> str:
        """A Scan over the images of x, whose body `build` makes."""
        images, *shape = self.sizes[x].shape
        axis = self.constant(np.array([1], "<i8"))
        apart = self.op("Unsqueeze", [x, axis], (images, 1, *shape))
        body = Probe(f"each{len(self.nodes)}", (1, *shape), outer=self)
        start = body._named("x")
        body.sizes[start] = TensorSize((1, *shape), 4)
        end = build(body, start)
        body.inputs.append(start)
        made = self.op("Scan", [apart], (images, *body.sizes[end].shape), num_scan_inputs=1, body=body._graph(end))
        self.works.append({term: images * amount for term, amount in add_up([{"ops": 1}, *body.works]).items()})
        return made

    @property
    def work(self) -> dict[str, float]:
        return add_up(self.works)

    def feeds(self) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0)
        made = {}
        for name in self.inputs:
            size = self.sizes[name]
            small = size.item_bytes == 1
            made[name] = (
                noise.integers(0, 5, size.shape, np.uint8) if small else noise.standard_normal(size.shape, np.float32)
            )
        return made

    def model(self, output: str) -> bytes:
        return _join(_number(1, IR_VERSION), _bytes(7, self._graph(output)), _bytes(8, _number(2, OPSET)))

    def _graph(self, output: str) -> bytes:
        nodes = [_bytes(1, node) for node in self.nodes]
        tensors = [_bytes(5, tensor) for tensor in self.tensors]
        given, made = ([_bytes(place, _value(name, self.sizes[name])) for name in names]
                       for place, names in ((11, self.inputs), (12, [output])))  # fmt: skip
        return _join(*nodes, _text(2, self.name), *tensors, *given, *made)


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


def _attribute(name: str, value: int | str | bytes | Sequence[int]) -> bytes:
    integer, string, graph, integers = 2, 3, 5, 7
    if isinstance(value, str):
        return _join(_text(1, name), _text(4, value), _number(20, string))
    if isinstance(value, bytes):
        return _join(_text(1, name), _bytes(6, value), _number(20, graph))
    if isinstance(value, int):
        return _join(_text(1, name), _number(3, value), _number(20, integer))
    return _join(_text(1, name), *(_number(8, item) for item in value), _number(20, integers))


def _value(name: str, size: TensorSize) -> bytes:
    sides = _join(*(_bytes(1, _number(1, side)) for side in size.shape))
    kind = _TYPES[size.item_bytes]
    return _join(_text(1, name), _bytes(2, _bytes(1, _join(_number(1, kind), _bytes(2, sides)))))
