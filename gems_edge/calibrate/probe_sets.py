"""The graphs that `devices calibrate` times: small ones that the rates are fitted to, and whole networks and gradient
steps that tell how far off the fitted rates are."""

from collections.abc import Callable

import numpy as np

from gems_edge.calibrate.probes import Probe


def one_op_probes() -> list[tuple[Probe, str]]:
    """(graph, its output) for each; "call" is next to nothing, so that its time is a call's."""
    found = []

    def probe(name: str, shape: tuple[int, ...], *build: Callable[[Probe, str], str]) -> None:
        graph, end = Probe(name, shape), "x"
        for step in build:
            end = step(graph, end)
        found.append((graph, graph.corner(end)))

    probe("call", (1, 1, 2, 2), lambda p, x: p.same("Relu", x))
    probe("ops", (1, 1, 2, 2), *[lambda p, x: p.same("Sin", x)] * 60)
    # Several in a row: onnxruntime brings maps into another layout for the first, and back after the last.
    for channels, side in ((16, 64), (24, 42), (64, 28), (100, 14), (128, 14), (256, 14), (512, 7)):
        probe(
            f"1x1 {channels} channels {side} px",
            (1, channels, side, side),
            *[lambda p, x, c=channels: p.conv(x, c)] * 3,
        )
    for images, channels, outputs, side in (
        (1, 3, 32, 84),
        (1, 16, 16, 42),
        (1, 32, 32, 42),
        (5, 64, 64, 21),
        (1, 64, 64, 10),
        (1, 128, 128, 14),
        (1, 256, 256, 7),
        (1, 40, 56, 21),
    ):
        probe(
            f"3x3 {channels} to {outputs} channels {side} px x{images}",
            (images, channels, side, side),
            *[lambda p, x, c=outputs: p.conv(x, c, 3)] * 2,
        )
    for channels, outputs, side, kernel, stride in (
        (32, 64, 42, 3, 2),
        (16, 32, 28, 5, 1),
        (3, 64, 112, 7, 2),
        (128, 128, 14, 3, 2),
    ):
        probe(
            f"{kernel}x{kernel}/{stride} {channels} to {outputs} channels {side} px",
            (1, channels, side, side),
            lambda p, x, a=(outputs, kernel, stride): p.conv(x, *a),
        )
    for channels, side, kernel in ((64, 42, 3), (256, 14, 3), (128, 14, 5)):
        probe(
            f"depthwise {kernel}x{kernel} {channels} channels {side} px",
            (1, channels, side, side),
            lambda p, x, a=(channels, kernel): p.conv(x, *a, groups=a[0]),
        )
    for inputs, outputs in ((256, 64), (1024, 1000), (4096, 1024)):
        probe(f"gemm {inputs} to {outputs}", (1, inputs), lambda p, x, n=outputs: p.linear(x, n))
    for channels, side in ((32, 84), (64, 21), (256, 84)):
        probe(f"add {channels} channels {side} px", (1, channels, side, side), lambda p, x: p.same("Add", x, x))
        probe(f"pool {channels} channels {side} px", (1, channels, side, side), lambda p, x: p.pool(x))
    return found + gradient_probes()


def gradient_probes() -> list[tuple[Probe, str]]:
    """The ops of gradient steps: on the maps of one image, which a cache holds, and on those of many, which stream."""
    found = []

    def probe(name: str, shape: tuple[int, ...], build: Callable[[Probe, str], str]) -> None:
        graph = Probe(f"{name} {' x '.join(map(str, shape))}", shape)
        found.append((graph, graph.corner(build(graph, "x"))))

    for shape in ((1, 32, 42, 42), (5, 48, 10, 10), (25, 24, 28, 28), (5, 32, 84, 84)):
        images, channels, height, width = shape
        half = (images, channels, height // 2, width // 2)
        probe("square", shape, lambda p, x: p.same("Mul", x, x))
        probe("scale", shape, lambda p, x: p.scaled(x))
        probe("mean of each", shape, lambda p, x: p.sums(x, (2, 3), "ReduceMean"))
        probe("sum of all", shape, lambda p, x: p.sums(x, (0, 2, 3)))
        probe("select", shape, lambda p, x: p.where(p.is_equal(x, p.same("Abs", x)), x))
        probe("double", half, lambda p, x: p.doubled(x))
        probe("pad", shape, lambda p, x: p.padded(x))
        probe("undo a pool", shape, lambda p, x, half=half: p.unpooled(p.feed("g", half), x))
    for shape in ((1, 32, 42, 42), (5, 48, 10, 10), (1, 3, 84, 84), (25, 24, 14, 14)):
        probe("columns", shape, lambda p, x: p.columns(x))
    for shape, outputs in (
        ((1, 3, 84, 84), 32), ((1, 32, 42, 42), 32), ((5, 48, 21, 21), 48), ((25, 64, 10, 10), 64), ((25, 24, 28, 28), 16),
        ((1, 128, 10, 10), 128), ((5, 64, 5, 5), 64),
    ):  # fmt: skip
        probe("fed 3x3", shape, lambda p, x, n=outputs: p.conv(x, n, 3, fed=True, relu=False))
    probe("fed 1x1", (5, 48, 21, 21), lambda p, x: p.conv(x, 64, fed=True, relu=False))
    for images, first, second, depth in (
        (5, 288, 32, 1764), (25, 432, 48, 100), (25, 576, 64, 25), (1, 432, 48, 441), (5, 27, 32, 7056), (25, 9, 16, 784),
    ):  # fmt: skip
        probe("product", (images, first, depth), lambda p, x, s=(images, second, depth): p.product(x, p.feed("y", s)))
    for channels in (32, 64):
        probe("transposed 3x3", (5, channels, 21, 21), lambda p, x, c=channels: p.transposed(x, c))
    for images in (1, 25):
        probe("sum of images", (images, 432, 48), lambda p, x: p.sums(x, (0,)))
    probe("turn a weight", (3, 3, 32, 32), lambda p, x: p.op("Transpose", [x], (32, 32, 3, 3), perm=[3, 2, 0, 1]))
    probe("flip a weight", (32, 32, 3, 3), lambda p, x: p.flipped(x))
    probe("small ops", (48,), lambda p, x: small_ops(p, x, 40))
    probe("views", (48,), renamed)
    # The same few ops over and over find all they need in the caches; a gradient step's hundreds do not.
    for sizes in ((1, 4, 1), (2, 8, 2), (4, 8, 5)):
        found.append(gradient_step(*sizes, each=False))
    probe("small ops of each", (25, 48), lambda p, x: p.each_image(x, lambda body, y: small_ops(body, y, 10)))
    return found


def small_ops(probe: Probe, x: str, count: int) -> str:
    for number in range(count):
        x = probe.same("Neg", x) if number % 2 else probe.same("Mul", x, x)
    return x


def renamed(probe: Probe, x: str) -> str:
    shape, axis = probe.sizes[x].shape, probe.constant(np.array([0], "<i8"))
    for _ in range(20):
        x = probe.same("Neg", probe.op("Unsqueeze", [x, axis], (1, *shape)))
        x = probe.op("Squeeze", [x, axis], shape)
    return x


def whole_networks() -> list[tuple[Probe, str]]:
    """Networks that no rate is fitted to: what the profile is checked on."""
    found = []
    for widths, side, images in (((32,) * 4, 28, 1), ((32,) * 4, 84, 1), ((64,) * 4, 84, 1), ((24, 40, 56, 48), 84, 5)):
        probe, x = Probe(f"Conv-4 {widths[0]} filters {side} px x{images}", (images, 3, side, side)), "x"
        for width in widths:
            x = probe.pool(probe.conv(x, width, 3))
        found.append((probe, probe.linear(x, 5)))
    probe = Probe("separable 96 px", (1, 3, 96, 96))
    x = probe.conv("x", 16, 3, 2)
    for outputs, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        channels = probe.sizes[x].shape[1]
        x = probe.conv(probe.conv(x, channels, 3, stride, groups=channels), outputs)
    found.append((probe, probe.linear(x, 10)))
    probe = Probe("residual 64 px", (1, 3, 64, 64))
    x = probe.conv("x", 32, 3)
    for outputs in (32, 64, 128):
        skip = probe.conv(x, outputs, relu=False)
        y = probe.conv(probe.conv(x, outputs, 3), outputs, 3, relu=False)
        x = probe.pool(probe.same("Relu", probe.same("Add", y, skip)))
    found.append((probe, probe.linear(x, 10)))
    for width, side, images in ((16, 28, 5), (48, 48, 5)):
        for each in (False, True):
            found.append(gradient_step(width, side, images, each))
    return found


def gradient_step(width: int, side: int, images: int, each: bool) -> tuple[Probe, str]:
    """Forward and back through two normalised and pooled convolutions, as adapt.onnx does it; `each`: image by image."""
    probe = Probe(
        f"gradient step {width} filters {side} px x{images}{', image by image' * each}", (images, 3, side, side)
    )

    def step(p: Probe, x: str) -> str:
        inputs, normal = [x], []
        for _ in range(2):
            made = p.conv(inputs[-1], width, 3, fed=True, relu=False)
            means = p.sums(made, (2, 3), "ReduceMean")
            shape = (*p.sizes[means].shape, 1, 1)
            means = p.op("Reshape", [means, p.constant(np.array(shape, "<i8"))], shape)
            normal.append(p.op("Sub", [made, means], p.sizes[made].shape))
            inputs.append(p.pool(p.scaled(p.scaled(normal[-1]), "Add")))
        gradient, products = inputs[-1], []
        for place in (1, 0):
            back = p.unpooled(gradient, normal[place])
            back = p.same("Sub", p.scaled(back), p.same("Mul", p.scaled(normal[place]), back))
            if place:
                gradient = p.conv(back, width, 3, fed=True, relu=False)
            products.append(p.product(p.flat(p.columns(inputs[place])), p.flat(back)))
        return p.op("Concat", products, (p.sizes[x].shape[0], 9 * (3 + width), width), axis=1)

    return probe, probe.each_image("x", step) if each else step(probe, "x")
