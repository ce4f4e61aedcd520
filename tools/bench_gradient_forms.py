"""Forms of a gradient in plain ONNX operations against each other, and against torch.

  python tools/bench_gradient_forms.py [--only "depthwise dW"] [--images 5 --images 25] [--rounds 7]

For each gradient and shape (those of MobileNetV2 of width 0.35 at 96 pixels, and of ResNets) every form runs on stock
onnxruntime, one thread each, alternating in this process; milliseconds are medians of the rounds, of the process's own
time. All forms must compute what torch does: the exit code is 1 if one does not. "export" is what the product writes.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import numpy as np
import torch
import torch.nn.functional as F
from alternating import alternate
from gradient_forms import FORMS, Form

from gems_edge.device.runtime import Session
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Convolution

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-3  # of the largest value


def _channels(channels: int, side: int, kernel: int, stride: int) -> Convolution:
    return Convolution((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (side,) * 2, channels, channels, channels)


def _dense(inputs: int, outputs: int, side: int, kernel: int, stride: int, groups: int = 1) -> Convolution:
    return Convolution((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (side,) * 2, inputs, outputs, groups)


def _pool(channels: int, side: int, kernel: int, stride: int, padding: int) -> Convolution:
    return Convolution((kernel,) * 2, (stride,) * 2, (padding,) * 2, (side,) * 2, channels, channels, channels)


DEPTHWISE = [
    _channels(16, 48, 3, 1), _channels(48, 48, 3, 2), _channels(48, 24, 3, 1), _channels(48, 24, 3, 2),
    _channels(96, 12, 3, 1), _channels(72, 24, 5, 2), _channels(96, 12, 3, 2), _channels(144, 6, 3, 1),
    _channels(192, 6, 3, 2), _channels(240, 6, 5, 1), _channels(336, 3, 3, 1),
]  # fmt: skip
DENSE = [
    _dense(3, 16, 96, 3, 2), _dense(32, 64, 24, 3, 2), _dense(64, 128, 12, 3, 2), _dense(64, 128, 24, 1, 2),
    _dense(8, 48, 48, 1, 1), _dense(16, 96, 12, 1, 1), _dense(112, 336, 3, 1, 1), _dense(64, 64, 24, 3, 1, 4),
    _dense(64, 64, 24, 3, 2, 16),
]  # fmt: skip
POOLS = [_pool(64, 48, 3, 2, 1), _pool(64, 12, 3, 1, 1), _pool(64, 24, 3, 3, 0), _pool(64, 24, 2, 2, 0)]
CASES = {
    "depthwise y": DEPTHWISE,
    "depthwise dW": DEPTHWISE,
    "dX": [*DEPTHWISE, *DENSE[1:]],
    "dW": DENSE,
    "max-pool dX": POOLS,
    "average-pool dX": POOLS,
}


def references(gradient: str, s: Convolution, arrays: Arrays) -> Callable[[], torch.Tensor]:
    x, w, g = (torch.from_numpy(arrays[name]) for name in "xwg")
    if gradient == "depthwise y":
        return lambda: F.conv2d(x, w, None, s.stride, s.padding, groups=s.groups)
    if gradient == "max-pool dX":
        _, indices = F.max_pool2d(x, s.kernel, s.stride, s.padding, return_indices=True)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: backward(g, x, s.kernel, s.stride, s.padding, (1, 1), False, indices)
    if gradient == "average-pool dX":
        return lambda: torch.ops.aten.avg_pool2d_backward(g, x, s.kernel, s.stride, s.padding, False, True, None)
    needed = (gradient == "dX", gradient != "dX", False)
    form = (s.stride, s.padding, (1, 1), False, (0, 0), s.groups, needed)
    return lambda: torch.ops.aten.convolution_backward(g, x, w, None, *form)[0 if needed[0] else 1]


def session(build: Form, s: Convolution, arrays: Arrays) -> Callable[[], np.ndarray] | None:
    b = GraphBuilder("form")
    for name, array in arrays.items():
        b.input(name, ["images", *array.shape[1:]] if name != "w" else array.shape)
    result = build(b, s, len(arrays["x"]))
    if not result:
        return None
    b.output("result", b.op("Reshape", result, b.constant([-1])), ["size"])
    loaded = Session(b.model().SerializeToString(), "form", threads=1, channel_blocks=False)
    feeds = {name: array for name, array in arrays.items() if name in loaded.inputs}
    return lambda: loaded.run(["result"], feeds)[0]


@dataclass(frozen=True)
class Result:
    gradient: str
    shape: Convolution
    images: int
    milliseconds: dict[str, float]
    wrong: list[str]


def measure(gradient: str, s: Convolution, images: int, rounds: int) -> Result:
    random = np.random.default_rng(0)
    shapes = {"x": (images, s.inputs, *s.sides), "w": s.weight, "g": (images, s.outputs, *s.out_sides)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    calls = {"torch": references(gradient, s, arrays)}
    calls |= {name: call for name, build in FORMS[gradient].items() if (call := session(build, s, arrays))}
    expected = calls["torch"]().numpy().ravel()
    largest = np.abs(expected).max()
    wrong = [
        name
        for name, call in calls.items()
        if np.abs(np.asarray(call()).ravel() - expected).max() > TOLERANCE * largest
    ]
    found = alternate(calls, rounds=rounds, block_seconds=0.03, clock="cpu")
    return Result(gradient, s, images, {name: float(np.median(times)) for name, times in found.items()}, wrong)


def title(s: Convolution) -> str:
    channels = f"{s.inputs}" if s.is_depthwise else f"{s.inputs} → {s.outputs}"
    groups = f" in {s.groups} groups" if s.groups > 1 and not s.is_depthwise else ""
    kernel, stride = "×".join(map(str, s.kernel)), s.stride[0]
    return f"{channels}{groups}, {s.sides[0]} px, {kernel}" + (f" by {stride}" if stride > 1 else "")


def results(only: str, images: tuple[int, ...], rounds: int) -> Iterator[Result]:
    for gradient, shapes in CASES.items():
        if gradient.startswith(only):
            for count in images:
                for shape in shapes:
                    yield measure(gradient, shape, count, rounds)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", help="How the names of the gradients begin that are measured.")
@click.option("--images", multiple=True, type=int, default=(5, 25), show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(only: str, images: tuple[int, ...], rounds: int) -> None:
    torch.set_num_threads(1)
    heading, wrong = "", False
    for result in results(only, images, rounds):
        forms = ["torch", *FORMS[result.gradient]]
        if heading != result.gradient:
            heading = result.gradient
            print(f"\n{heading}, ms\n\n| shape | images | {' | '.join(forms)} |\n|---|---|{'---|' * len(forms)}")
        cells = [f"{result.milliseconds[name]:.2f}" if name in result.milliseconds else "" for name in forms]
        print(f"| {title(result.shape)} | {result.images} | {' | '.join(cells)} |", flush=True)
        for name in result.wrong:
            wrong = True
            print(f"{name} differs from torch", file=sys.stderr)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
