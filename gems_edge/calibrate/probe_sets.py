"""The graphs that `devices calibrate` times: small ones that the rates are fitted to, and whole networks and gradient
steps that tell how far off the fitted rates are."""

from collections.abc import Callable

from gems_edge.calibrate.graph import Builder, Graph
from gems_edge.calibrate.steps import gradient_step, mobile_step

Build = Callable[[Builder, str], str]  # adds ops to a graph under construction: its input → its result


def probe(name: str, shape: tuple[int, ...], build: Build, times: int = 1) -> Graph:
    """What `build` makes of an input of this shape, applied `times` in a row."""
    builder, end = Builder(name, shape), "x"
    for _ in range(times):
        end = build(builder, end)
    return builder.graph(builder.corner(end))


def one_op_probes() -> list[Graph]:
    """Graphs of one kind of op; "call" is next to nothing, so that its time is a call's."""
    return [
        probe("call", (1, 1, 2, 2), lambda b, x: b.same("Relu", x)),
        probe("ops", (1, 1, 2, 2), lambda b, x: b.same("Sin", x), times=60),
        *convolution_probes(),
        *(_gemm(*sizes) for sizes in ((256, 64), (1024, 1000), (4096, 1024))),
        *(each for sizes in ((32, 84), (64, 21), (256, 84)) for each in _add_and_pool(*sizes)),
        *gradient_probes(),
    ]


def convolution_probes() -> list[Graph]:
    # Several in a row: onnxruntime brings maps into another layout for the first, and back after the last.
    dense = ((16, 64), (24, 42), (64, 28), (100, 14), (128, 14), (256, 14), (512, 7))
    three = (
        (1, 3, 32, 84), (1, 16, 16, 42), (1, 32, 32, 42), (5, 64, 64, 21), (1, 64, 64, 10), (1, 128, 128, 14),
        (1, 256, 256, 7), (1, 40, 56, 21),
    )  # fmt: skip
    strided = ((32, 64, 42, 3, 2), (16, 32, 28, 5, 1), (3, 64, 112, 7, 2), (128, 128, 14, 3, 2))
    depthwise = ((64, 42, 3), (256, 14, 3), (128, 14, 5))
    return [
        *(_one_by_one(*sizes) for sizes in dense),
        *(_three_by_three(*sizes) for sizes in three),
        *(_strided(*sizes) for sizes in strided),
        *(_depthwise(*sizes) for sizes in depthwise),
    ]


def _one_by_one(channels: int, side: int) -> Graph:
    name = f"1x1 {channels} channels {side} px"
    return probe(name, (1, channels, side, side), lambda b, x: b.conv(x, channels), times=3)


def _three_by_three(images: int, channels: int, outputs: int, side: int) -> Graph:
    name = f"3x3 {channels} to {outputs} channels {side} px x{images}"
    return probe(name, (images, channels, side, side), lambda b, x: b.conv(x, outputs, 3), times=2)


def _strided(channels: int, outputs: int, side: int, kernel: int, stride: int) -> Graph:
    name = f"{kernel}x{kernel}/{stride} {channels} to {outputs} channels {side} px"
    return probe(name, (1, channels, side, side), lambda b, x: b.conv(x, outputs, kernel, stride))


def _depthwise(channels: int, side: int, kernel: int) -> Graph:
    name = f"depthwise {kernel}x{kernel} {channels} channels {side} px"
    return probe(name, (1, channels, side, side), lambda b, x: b.conv(x, channels, kernel, groups=channels))


def _gemm(inputs: int, outputs: int) -> Graph:
    return probe(f"gemm {inputs} to {outputs}", (1, inputs), lambda b, x: b.linear(x, outputs))


def _add_and_pool(channels: int, side: int) -> list[Graph]:
    size, shape = f"{channels} channels {side} px", (1, channels, side, side)
    return [
        probe(f"add {size}", shape, lambda b, x: b.same("Add", x, x)),
        probe(f"pool {size}", shape, lambda b, x: b.pool(x)),
    ]


def gradient_probes() -> list[Graph]:
    """The ops of gradient steps: on the maps of one image, which a cache holds, and on those of many, which stream."""
    maps = ((1, 32, 42, 42), (5, 48, 10, 10), (25, 24, 28, 28), (5, 32, 84, 84))
    columns = ((1, 32, 42, 42), (5, 48, 10, 10), (1, 3, 84, 84), (25, 24, 14, 14))
    return [
        *(each for shape in maps for each in _map_probes(*shape)),
        *(_sized("columns", shape, lambda b, x: b.columns(x)) for shape in columns),
        *fed_probes(),
        *product_probes(),
        *broadcasting_probes(),
        *(_sized("sum of images", (images, 432, 48), lambda b, x: b.sums(x, (0,))) for images in (1, 25)),
        _sized("turn a weight", (3, 3, 32, 32), lambda b, x: b.permuted(x, (3, 2, 0, 1))),
        _sized("flip a weight", (32, 32, 3, 3), lambda b, x: b.flipped(x)),
        *(_sized("patches", shape, lambda b, x: b.gathered(x)) for shape in ((1, 441, 48), (5, 36, 144))),
        _sized("split", (5, 48, 21, 21), lambda b, x: b.split(x)),
        _sized("expand", (1, 48, 21, 21), lambda b, x: b.expanded(x, 5)),
        _sized("local normalisation", (1, 32, 21, 21), lambda b, x: b.op("LRN", [x], (1, 32, 21, 21), size=5)),
        _sized("small ops", (48,), lambda b, x: small_ops(b, x, 40)),
        _sized("views", (48,), renamed),
        # The same few ops over and over find all they need in the caches; a gradient step's hundreds do not.
        *(gradient_step(*sizes, each=False) for sizes in ((1, 4, 1), (2, 8, 2), (4, 8, 5))),
        *(
            mobile_step(*sizes)
            for sizes in (
                (1, 4, 1, (1,)),
                (2, 12, 2, (2,)),
                (4, 12, 5, (1,)),
                (2, 12, 5, (1,) * 15),
                (4, 12, 5, (1,) * 8),
                (4, 24, 5, (1, 1, 2, 1)),
                (8, 6, 25, (1,) * 5),
            )
        ),
        _sized("small ops of each", (25, 48), lambda b, x: b.each_image(x, lambda body, y: small_ops(body, y, 10))),
    ]


def fed_probes() -> list[Graph]:
    """Convolutions of fed weights and their gradients: dense, strided, by groups, of single channels."""
    dense = (
        ((1, 3, 84, 84), 32), ((1, 32, 42, 42), 32), ((5, 48, 21, 21), 48), ((25, 64, 10, 10), 64),
        ((25, 24, 28, 28), 16), ((1, 128, 10, 10), 128), ((5, 64, 5, 5), 64),
    )  # fmt: skip
    points = (((5, 48, 21, 21), 64), ((5, 8, 48, 48), 48), ((25, 112, 3, 3), 336))
    strided = (((5, 3, 96, 96), 16, 3), ((5, 64, 24, 24), 128, 1), ((5, 64, 24, 24), 64, 3))
    single = (
        ((5, 16, 48, 48), 3, 1), ((25, 96, 12, 12), 3, 1), ((5, 120, 6, 6), 5, 1), ((5, 48, 48, 48), 3, 2),
        ((5, 72, 24, 24), 5, 2), ((5, 96, 12, 12), 3, 2),
    )  # fmt: skip
    transposed = (
        ((5, 32, 21, 21), 32, 3, 1, 1), ((5, 64, 21, 21), 64, 3, 1, 1), ((5, 64, 12, 12), 32, 3, 2, 1),
        ((5, 128, 12, 12), 64, 1, 2, 1), ((5, 64, 24, 24), 64, 3, 1, 4), ((5, 64, 12, 12), 64, 3, 2, 16),
        ((5, 48, 24, 24), 48, 3, 2, 48), ((25, 96, 6, 6), 96, 3, 2, 96), ((5, 72, 12, 12), 72, 5, 2, 72),
        ((1, 32, 24, 24), 32, 3, 1, 32),
    )  # fmt: skip
    return [
        *(_fed(shape, outputs, 3) for shape, outputs in dense),
        *(_fed(shape, outputs, 1) for shape, outputs in points),
        *(_fed(shape, outputs, kernel, 2) for shape, outputs, kernel in strided),
        _fed((5, 64, 24, 24), 64, 3, groups=4),
        *(_fed(shape, shape[1], kernel, stride, shape[1]) for shape, kernel, stride in single),
        *(_transposed(*form) for form in transposed),
    ]


def product_probes() -> list[Graph]:
    """Products of two computed tensors (count, rows, depth, columns; which one lies turned): large, and many small."""
    forms = (
        (5, 288, 1764, 32, "second"), (25, 432, 100, 48, "second"), (25, 576, 25, 64, "second"),
        (1, 432, 441, 48, "second"), (5, 27, 7056, 32, "second"), (25, 9, 784, 16, "second"),
        (25, 336, 9, 56, "second"), (144, 5, 36, 36, ""), (336, 25, 9, 9, ""), (48, 96, 120, 24, "first"),
        (96, 12, 275, 12, "first"), (144, 36, 25, 36, "first"), (1, 512, 225, 112, ""),
    )  # fmt: skip
    return [_product(*form) for form in forms]


def broadcasting_probes() -> list[Graph]:
    """Numbers of channels and of images with small maps and large ones."""
    shapes = ((5, 336, 3, 3), (25, 144, 6, 6), (5, 16, 48, 48))
    return [
        probe
        for shape in shapes
        for probe in (
            _sized("scale", shape, lambda b, x: b.scaled(x)),
            _sized("normalise", shape, lambda b, x: b.normalized(x)),
            _sized("centre", shape, lambda b, x: b.centred(x)),
        )
    ]


def _sized(name: str, shape: tuple[int, ...], build: Build) -> Graph:
    """A probe whose name tells its shape."""
    return probe(f"{name} {' x '.join(map(str, shape))}", shape, build)


def _map_probes(images: int, channels: int, height: int, width: int) -> list[Graph]:
    shape, half = (images, channels, height, width), (images, channels, height // 2, width // 2)
    return [
        _sized("square", shape, lambda b, x: b.same("Mul", x, x)),
        _sized("scale", shape, lambda b, x: b.scaled(x)),
        _sized("mean of each", shape, lambda b, x: b.sums(x, (2, 3), "ReduceMean")),
        _sized("sum of all", shape, lambda b, x: b.sums(x, (0, 2, 3))),
        _sized("select", shape, lambda b, x: b.where(b.holds("Equal", x, b.same("Abs", x)), x)),
        _sized("double", half, lambda b, x: b.doubled(x)),
        _sized("pad", shape, lambda b, x: b.padded(x)),
        _sized("undo a pool", shape, lambda b, x: b.unpooled(b.feed("g", half), x)),
    ]


def _fed(shape: tuple[int, ...], outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Graph:
    name = _form("fed", outputs, kernel, stride, groups)
    return _sized(name, shape, lambda b, x: b.conv(x, outputs, kernel, stride, groups=groups, fed=True, relu=False))


def _transposed(shape: tuple[int, ...], outputs: int, kernel: int, stride: int, groups: int) -> Graph:
    name = _form("transposed", outputs, kernel, stride, groups)
    return _sized(name, shape, lambda b, x: b.transposed(x, outputs, kernel, stride, groups))


def _form(what: str, outputs: int, kernel: int, stride: int, groups: int) -> str:
    return f"{what} {kernel}x{kernel}/{stride} to {outputs} in {groups} of"


def _product(count: int, rows: int, depth: int, columns: int, turned: str) -> Graph:
    left = (count, depth, rows) if turned == "first" else (count, rows, depth)
    right = (count, columns, depth) if turned == "second" else (count, depth, columns)
    name = f"product by {columns}, {turned or 'none'} turned, of"
    lies = (turned == "first", turned == "second")
    return _sized(name, left, lambda b, x: b.product(x, b.feed("y", right), lies))


def small_ops(builder: Builder, x: str, count: int) -> str:
    for number in range(count):
        x = builder.same("Neg", x) if number % 2 else builder.same("Mul", x, x)
    return x


def renamed(builder: Builder, x: str) -> str:
    shape, axis = builder.sizes[x].shape, builder.integers(0)
    for _ in range(20):
        x = builder.same("Neg", builder.op("Unsqueeze", [x, axis], (1, *shape)))
        x = builder.op("Squeeze", [x, axis], shape)
    return x


def whole_networks() -> list[Graph]:
    """Networks that no rate is fitted to: what the profile is checked on."""
    conv4 = (((32,) * 4, 28, 1), ((32,) * 4, 84, 1), ((64,) * 4, 84, 1), ((24, 40, 56, 48), 84, 5))
    return [
        *(_conv4(*sizes) for sizes in conv4),
        _separable(),
        _residual(),
        *(gradient_step(*sizes, each) for sizes in ((16, 28, 5), (48, 48, 5)) for each in (False, True)),
        *(
            mobile_step(*sizes)
            for sizes in ((8, 48, 5, (2, 1, 1, 2, 1, 1)), (8, 24, 5, (1,)), (16, 12, 25, (1, 1, 2, 1, 1, 1)))
        ),
    ]


def _conv4(widths: tuple[int, ...], side: int, images: int) -> Graph:
    builder, x = Builder(f"Conv-4 {widths[0]} filters {side} px x{images}", (images, 3, side, side)), "x"
    for width in widths:
        x = builder.pool(builder.conv(x, width, 3))
    return builder.graph(builder.linear(x, 5))


def _separable() -> Graph:
    builder = Builder("separable 96 px", (1, 3, 96, 96))
    x = builder.conv("x", 16, 3, 2)
    for outputs, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        channels = builder.sizes[x].shape[1]
        x = builder.conv(builder.conv(x, channels, 3, stride, groups=channels), outputs)
    return builder.graph(builder.linear(x, 10))


def _residual() -> Graph:
    builder = Builder("residual 64 px", (1, 3, 64, 64))
    x = builder.conv("x", 32, 3)
    for outputs in (32, 64, 128):
        skip = builder.conv(x, outputs, relu=False)
        y = builder.conv(builder.conv(x, outputs, 3), outputs, 3, relu=False)
        x = builder.pool(builder.same("Relu", builder.same("Add", y, skip)))
    return builder.graph(builder.linear(x, 10))
