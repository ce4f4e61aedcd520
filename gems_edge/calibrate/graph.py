"""Small graphs whose times tell a machine's rates: what they are made of. counting.py says what they cost,
onnx_bytes.py writes them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gems_edge.graphs.liveness import TensorSize

Attribute = int | str | Sequence[int]


@dataclass(frozen=True)
class Node:
    """One ONNX op of one output. Tensors by name, "" for an input that is left out."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Attribute]
    fused: bool = False  # onnxruntime makes it part of the op before or after it, so it adds no work
    body: "Graph | None" = None  # of a Scan


@dataclass(frozen=True)
class Graph:
    name: str
    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]  # float32, uint8 and int64
    sizes: Mapping[str, TensorSize]  # of every tensor
    output: str

    def random_feeds(self) -> dict[str, np.ndarray]:
        """Normal numbers for inputs of floats, 0 to 4 for those of bytes; the same at every call."""
        noise = np.random.default_rng(0)
        feeds: dict[str, np.ndarray] = {}
        for name in self.inputs:
            size = self.sizes[name]
            if size.item_bytes == 1:
                feeds[name] = noise.integers(0, 5, size.shape, np.uint8)
            else:
                feeds[name] = noise.standard_normal(size.shape, np.float32)
        return feeds


@dataclass
class Builder:
    """A graph under construction: every method adds one op or a few and gives the name of the result."""

    name: str
    shape: tuple[int, ...]  # of the input "x"
    inputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, TensorSize] = field(default_factory=dict)
    outer: "Builder | None" = None  # of a Scan's body: the graph around it, which holds what is fed

    def __post_init__(self) -> None:
        if self.outer is None:
            self.feed("x", self.shape)

    def graph(self, output: str) -> Graph:
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), self.constants, self.sizes, output)

    def feed(self, name: str, shape: tuple[int, ...]) -> str:
        """A further input of the graph, float32."""
        if self.outer is not None:
            name = self.outer.feed(f"{self.name}.{name}", shape)
        else:
            self.inputs.append(name)
        self.sizes[name] = TensorSize(shape, 4)
        return name

    def constant(self, values: np.ndarray) -> str:
        """An initialiser, float32, uint8 or int64."""
        name = self._named(f"w{len(self.constants)}")
        self.constants[name], self.sizes[name] = values, TensorSize(values.shape, values.itemsize)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, "<i8"))

    def weight(self, *shape: int) -> str:
        return self.constant(np.random.default_rng(len(self.constants)).normal(0, 0.1, shape).astype("<f4"))

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        *,
        fused: bool = False,
        item_bytes: int = 4,
        body: Graph | None = None,
        **attributes: Attribute,
    ) -> str:
        """A node whose output has this shape and bytes per element; see Node."""
        name = self._named(f"t{len(self.nodes)}")
        self.sizes[name] = TensorSize(tuple(shape), item_bytes)
        self.nodes.append(Node(kind, tuple(inputs), name, attributes, fused, body))
        return name

    def _named(self, name: str) -> str:
        return name if self.outer is None else f"{self.name}.{name}"

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
        """`fed`: the weight is an input of the graph, as a learning layer's is."""
        images, channels, *sides = self.sizes[x].shape
        sides = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in sides]
        form = (outputs, channels // groups, kernel, kernel)
        weight = self.feed(f"f{len(self.sizes)}", form) if fed else self.weight(*form)
        shape = (images, outputs, *sides)
        conv = self.op("Conv", [x, weight], shape, group=groups, pads=[kernel // 2] * 4, strides=[stride] * 2)
        return self.op("Relu", [conv], shape, fused=True) if relu else conv

    def transposed(self, x: str, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> str:
        """The gradient at its input of a convolution with a fed weight, of an odd kernel, whose result x is."""
        images, channels, *sides = self.sizes[x].shape
        weight = self.feed(f"f{len(self.sizes)}", (channels, outputs // groups, kernel, kernel))
        return self.op(
            "ConvTranspose",
            [x, weight],
            (images, outputs, *(side * stride for side in sides)),
            group=groups,
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
            output_padding=[stride - 1] * 2,
        )

    def pool(self, x: str) -> str:
        images, channels, height, width = self.sizes[x].shape
        shape, item_bytes = (images, channels, height // 2, width // 2), self.sizes[x].item_bytes
        return self.op("MaxPool", [x], shape, item_bytes=item_bytes, kernel_shape=[2, 2], strides=[2, 2])

    def linear(self, x: str, outputs: int) -> str:
        images, *rest = self.sizes[x].shape
        features = math.prod(rest)
        flat = self.op("Flatten", [x], (images, features)) if len(rest) > 1 else x
        weight, bias = self.weight(outputs, features), self.weight(outputs)
        return self.op("Gemm", [flat, weight, bias], (images, outputs), transB=1)

    def same(self, kind: str, *inputs: str) -> str:
        """An elementwise op."""
        return self.op(kind, inputs, self.sizes[inputs[0]].shape)

    def corner(self, x: str) -> str:
        """One channel of one image of a map: a large graph output would be paid for in fresh pages at every call."""
        shape = self.sizes[x].shape
        if len(shape) < 4 or self.sizes[x].elements < 10_000:
            return x
        cut = [self.integers(*values) for values in ((0, 0), (1, 1), (0, 1))]
        return self.op("Slice", [x, *cut], (1, 1, *shape[2:]))

    def scaled(self, x: str, kind: str = "Mul") -> str:
        """By a number per channel, as normalisation does."""
        factor = self.feed(f"f{len(self.sizes)}", (self.sizes[x].shape[1], 1, 1))
        return self.op(kind, [x, factor], self.sizes[x].shape)

    def centred(self, x: str) -> str:
        """Minus a number for every map."""
        means = self.feed(f"m{len(self.sizes)}", (*self.sizes[x].shape[:2], 1, 1))
        return self.op("Sub", [x, means], self.sizes[x].shape)

    def normalized(self, x: str, mean: str | None = None) -> str:
        """By numbers of each channel."""
        channels = self.sizes[x].shape[1]
        weight, bias = (self.feed(f"n{len(self.sizes)}", (channels,)) for _ in range(2))
        mean = mean or self.feed(f"n{len(self.sizes)}", (channels,))
        variance = self.constant(np.ones(channels, "<f4"))
        return self.op("BatchNormalization", [x, weight, bias, mean, variance], self.sizes[x].shape)

    def clipped(self, x: str) -> str:
        """As ReLU6 does."""
        return self.op("Clip", [x, *(self.constant(np.array(end, "<f4")) for end in (0, 6))], self.sizes[x].shape)

    def gathered(self, x: str) -> str:
        """The patches of 3×3 of [N, P, C], pixels as rows, as if these were one long line: [N, 9, P, C]."""
        images, pixels, channels = self.sizes[x].shape
        places = np.add.outer(np.arange(9) - 4, np.arange(pixels)) % pixels
        return self.op("Gather", [x, self.constant(places.astype("<i8"))], (images, 9, pixels, channels), axis=1)

    def split(self, x: str) -> str:
        """Its channels as one part."""
        shape = self.sizes[x].shape
        return self.op("Split", [x, self.integers(shape[1])], shape, axis=1)

    def expanded(self, x: str, images: int) -> str:
        """Of one image as many alike."""
        shape = (images, *self.sizes[x].shape[1:])
        return self.op("Expand", [x, self.integers(*shape)], shape)

    def padded(self, x: str, by: int = 1) -> str:
        images, channels, height, width = self.sizes[x].shape
        pads = self.integers(0, 0, by, by, 0, 0, by, by)
        return self.op("Pad", [x, pads], (images, channels, height + 2 * by, width + 2 * by))

    def columns(self, x: str, kernel: int = 3) -> str:
        """Shifted windows of a padded map, side by side: [N, k²·C, H, W]."""
        images, channels, height, width = self.sizes[x].shape
        padded, axes = self.padded(x, kernel // 2), self.integers(2, 3)
        windows = []
        for top, left in np.ndindex(kernel, kernel):
            starts, ends = self.integers(top, left), self.integers(top + height, left + width)
            windows.append(self.op("Slice", [padded, starts, ends, axes], (images, channels, height, width)))
        return self.op("Concat", windows, (images, kernel**2 * channels, height, width), axis=1)

    def flipped(self, x: str) -> str:
        """A kernel [O, I, kh, kw] turned by half a turn."""
        cut = [self.integers(*values) for values in ((-1, -1), (np.iinfo(np.int64).min,) * 2, (2, 3), (-1, -1))]
        return self.op("Slice", [x, *cut], self.sizes[x].shape)

    def flat(self, x: str) -> str:
        """[N, C, H·W]."""
        images, channels, *sides = self.sizes[x].shape
        return self.reshaped(x, (images, channels, math.prod(sides)))

    def reshaped(self, x: str, shape: tuple[int, ...]) -> str:
        return self.op("Reshape", [x, self.integers(*shape)], shape)

    def permuted(self, x: str, order: tuple[int, ...], *, fused: bool = False) -> str:
        """`fused`: of a product, which reads it as it lies."""
        sides = self.sizes[x].shape
        return self.op("Transpose", [x], [sides[axis] for axis in order], fused=fused, perm=order)

    def product(self, x: str, y: str, turned: tuple[bool, bool] = (False, True)) -> str:
        """[N, A, D] · [N, D, B]. Those that are `turned`, [N, D, A] and [N, B, D], onnxruntime reads as they lie."""
        left, right = (
            self.permuted(name, (0, 2, 1), fused=True) if lies else name for name, lies in zip((x, y), turned)
        )
        (images, first, _), second = self.sizes[left].shape, self.sizes[right].shape[2]
        return self.op("MatMul", [left, right], (images, first, second))

    def holds(self, kind: str, x: str, y: str) -> str:
        """A condition of two tensors, by element."""
        return self.op(kind, [x, y], self.sizes[x].shape, item_bytes=1)

    def where(self, mask: str, x: str) -> str:
        """`x` or 0."""
        zero = np.zeros((), "<f4" if self.sizes[x].item_bytes == 4 else "u1")
        return self.op("Where", [mask, x, self.constant(zero)], self.sizes[mask].shape, item_bytes=zero.itemsize)

    def doubled(self, x: str) -> str:
        """Every pixel twice in both directions."""
        images, channels, height, width = self.sizes[x].shape
        return self.op(
            "Resize",
            [x, "", self.constant(np.array([1, 1, 2, 2], "<f4"))],
            (images, channels, 2 * height, 2 * width),
            item_bytes=self.sizes[x].item_bytes,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def sums(self, x: str, axes: tuple[int, ...], kind: str = "ReduceSum") -> str:
        shape = self.sizes[x].shape
        kept = [side for axis, side in enumerate(shape) if axis not in axes]
        return self.op(kind, [x, self.integers(*axes)], kept, keepdims=0)

    def unpooled(self, gradient: str, x: str) -> str:
        """The gradient of a 2×2 pool at its input x, as export/pools.py writes it."""
        windows = [side // 2 for side in self.sizes[x].shape[2:]]
        priorities = self.constant(np.tile(np.array([[4, 3], [2, 1]], np.uint8), windows)[None, None])
        candidates = self.where(self.holds("Equal", x, self.doubled(self.pool(x))), priorities)
        first = self.holds("Equal", candidates, self.doubled(self.pool(candidates)))
        return self.where(first, self.doubled(gradient))

    def each_image(self, x: str, build: Callable[["Builder", str], str]) -> str:
        """A Scan over the images of x, whose body `build` makes."""
        images, *rest = self.sizes[x].shape
        shape = (1, *rest)
        apart = self.op("Unsqueeze", [x, self.integers(1)], (images, *shape))
        body = Builder(f"each{len(self.nodes)}", shape, outer=self)
        image = f"{body.name}.x"
        body.inputs.append(image)
        body.sizes[image] = TensorSize(shape, 4)
        end = build(body, image)
        return self.op("Scan", [apart], (images, *body.sizes[end].shape), num_scan_inputs=1, body=body.graph(end))
