"""Pools of any window, and their gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import fx

from gems_edge.errors import UserError
from gems_edge.export.activations import masked
from gems_edge.export.builder import GraphBuilder, Value, numbers
from gems_edge.export.shapes import Window, pair
from gems_edge.export.translation import Translation
from gems_edge.export.windows import padded, seen_from

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def _max_window(
    low: Translation,
    node: fx.Node,
    x: fx.Node,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> Window:
    if set(pair(dilation)) != {1}:
        raise _no_form(node, f"dilation {list(dilation)}")
    return _window(low, node, x, kernel, stride, padding, ceil)


def _window(
    low: Translation,
    node: fx.Node,
    x: fx.Node,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
) -> Window:
    if ceil:
        raise _no_form(node, "ceil_mode")
    return Window(pair(kernel), pair(stride or kernel), pair(padding), pair(numbers(low.shape(x)[2:])))


def _no_form(node: fx.Node, what: str) -> UserError:
    return UserError(f"cannot export the pool {node.name}: {what}; docs/networks.md lists what can be")


def max_pool(low: Translation, node: fx.Node, x: fx.Node, *form: Any) -> list[Value | None]:
    window = _max_window(low, node, x, *form)
    name = low.builder.op("MaxPool", low.full(x), **_attributes(window))
    return [Value(name, tuple(low.dim(s) for s in node.meta["val"][0].shape)), None]  # no Indices: 9× slower


def _attributes(window: Window) -> dict[str, Any]:
    """As the forward pass writes a max-pool and the gradient repeats it, so that both are one node."""
    attributes = window.attributes()
    if not any(attributes["pads"]):
        del attributes["pads"]
    return attributes


def max_pool_backward(low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node, *rest: Any) -> Value:
    *form, _indices = rest
    window = _max_window(low, node, x, *form)
    b, shape = low.builder, low.shape(x)
    apart = window.kernel == window.stride and window.padding == (0, 0) and window.places < 256
    if apart:
        return Value(of_separate_windows(b, low.full(gradient), low.full(x), window), shape)
    (channels,) = numbers(shape[1:2])
    return Value(of_windows(b, low.full(gradient), low.full(x), channels, window), shape)


def of_separate_windows(b: GraphBuilder, gradient: str, x: str, window: Window) -> str:
    """The gradient of a max-pool at its input x [N, C, H, W], of windows that neither overlap nor leave gaps: it goes
    to the first maximum of each window, as in torch.

    Flat image areas give equal values, so ties are common and must be broken the same way. The places of the maxima
    get priorities 4 3 / 2 1 as bytes (of a 2×2 pool); the greatest priority of each window wins.
    """
    kernel, form = window.kernel, _attributes(window)
    inner = [count * k for count, k in zip(window.out_sides, kernel)]
    whole = tuple(inner) == window.sides
    if not whole:  # the last rows and columns are in no window
        x = b.op("Slice", x, b.constant([0, 0]), b.constant(inner), b.constant([2, 3]))
    pooled = b.op("MaxPool", x, **form)
    is_maximum = b.op("Equal", x, enlarge(b, pooled, kernel))
    tile = np.arange(window.places, 0, -1, dtype=np.uint8).reshape(kernel)
    priority = b.constant(np.tile(tile, window.out_sides)[None, None])
    candidates = b.op("Where", is_maximum, priority, b.constant(np.uint8(0)))
    winner = b.op("MaxPool", b.op("Cast", candidates, to=FLOAT), **form)
    is_first = b.op("Equal", candidates, enlarge(b, b.op("Cast", winner, to=UINT8), kernel))
    result = masked(b, enlarge(b, gradient, kernel), is_first)
    if not whole:
        behind = [side - end for side, end in zip(window.sides, inner)]
        result = b.op("Pad", result, b.constant([0, 0, 0, 0, 0, 0, *behind]))
    return result


def of_windows(b: GraphBuilder, gradient: str, x: str, channels: int, window: Window) -> str:
    """As of_separate_windows, of any windows: what overlapping ones give a pixel adds up.

    One place of the window after the other, from the first, takes the gradient where it sees the maximum, and leaves
    the rest to those behind it. What they took is put back, and added up, by a transposed convolution: of all of them,
    or of a row of the window at a time where that would be much more than the map itself.
    """
    pooled = b.op("MaxPool", x, **_attributes(window))
    x, left, total = padded(b, x, window, -np.inf), gradient, ""
    places = list(np.ndindex(*window.kernel))
    at_once = len(places) if len(places) <= 3 * math.prod(window.stride) else window.kernel[1]
    for first in range(0, len(places), at_once):
        taken = []
        for place in places[first : first + at_once]:
            taken.append(masked(b, left, b.op("Equal", seen_from(b, x, window, place), pooled)))
            left = b.op("Sub", left, taken[-1])
        back = _put_back(b, taken, channels, window, first)
        total = b.op("Add", total, back) if total else back
    return total


def _put_back(b: GraphBuilder, taken: Sequence[str], channels: int, window: Window, first: int) -> str:
    """[N, C, H, W]: the sum of what the places from `first` on took, each [N, C, H', W'], where they took it from."""
    stacked = b.op("Concat", *(b.op("Unsqueeze", part, b.constant([2])) for part in taken), axis=2)
    stacked = b.op("Reshape", stacked, b.constant([0, channels * len(taken), *window.out_sides]))
    weight = np.eye(window.places, dtype=np.float32)[first : first + len(taken)]
    weight = np.tile(weight, (channels, 1)).reshape(-1, 1, *window.kernel)
    form = window.attributes() | {"group": channels, "output_padding": window.unseen()}
    return b.op("ConvTranspose", stacked, b.constant(weight), **form)


@dataclass(frozen=True)
class _Average:
    window: Window
    counted: bool  # padding counts as zeros
    divisor: float  # of a window's sum, where it does

    @classmethod
    def of(
        cls,
        low: Translation,
        node: fx.Node,
        x: fx.Node,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        ceil: bool = False,
        counted: bool = True,
        divisor: int | None = None,
    ) -> "_Average":
        window = _window(low, node, x, kernel, stride, padding, ceil)
        return cls(window, counted or divisor is not None, float(divisor or window.places))


def average_pool(low: Translation, node: fx.Node, x: fx.Node, *form: Any) -> Value:
    pool = _Average.of(low, node, x, *form)
    attributes = pool.window.attributes() | {"count_include_pad": int(pool.counted)}
    name = low.builder.op("AveragePool", low.full(x), **attributes)
    if pool.counted and pool.divisor != pool.window.places:
        name = low.builder.op("Mul", name, low.builder.constant(pool.window.places / pool.divisor))
    return Value(name, low.shape(node))


def average_pool_backward(low: Translation, node: fx.Node, gradient: fx.Node, x: fx.Node, *form: Any) -> Value:
    pool = _Average.of(low, node, x, *form)
    return Value(of_average(low.builder, low.full(gradient), pool.window, pool.counted, pool.divisor), low.shape(x))


def of_average(b: GraphBuilder, gradient: str, window: Window, counted: bool, divisor: float) -> str:
    """The gradient of an average-pool at its input: A·G·B with constant matrices A [H, H'] and B [W', W], which say how
    much of a row and of a column of windows each pixel is."""
    rows, columns = (_shares(window, axis, counted) for axis in (0, 1))
    if counted:
        rows = rows * (window.places / divisor)
    wide = b.op("MatMul", gradient, b.constant(columns.T.copy()))
    return b.op("MatMul", b.constant(rows[None, None]), wide)


def _shares(window: Window, axis: int, counted: bool) -> np.ndarray:
    """[side, windows]: 1 / (the window's size along the axis) where the window sees the pixel."""
    side, count = window.sides[axis], window.out_sides[axis]
    at = np.arange(side)[:, None] + window.padding[axis] - window.stride[axis] * np.arange(count)
    sees = (at >= 0) & (at < window.kernel[axis])
    shares: np.ndarray = sees / (window.kernel[axis] if counted else np.maximum(1, sees.sum(0)))
    return shares.astype(np.float32)


def enlarge(b: GraphBuilder, x: str, factors: Sequence[int]) -> str:
    """Each element so many times along both axes."""
    scales = b.constant(np.array([1, 1, *factors], np.float32))
    return b.op(
        "Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
