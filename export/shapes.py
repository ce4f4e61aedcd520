"""The shape of a convolution, and what each place of a kernel sees of a map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Pair = tuple[int, int]


def pair(values: Sequence[int] | int) -> Pair:
    """A number for each of two axes, as ATen hands over one or two."""
    first, *rest = [values] if isinstance(values, int) else values
    return int(first), int(rest[0] if rest else first)


@dataclass(frozen=True)
class Window:
    """Places that slide over a map of `sides` [H, W], `padding` before and behind each axis."""

    kernel: Pair
    stride: Pair
    padding: Pair
    sides: Pair

    @property
    def out_sides(self) -> Pair:
        axes = zip(self.sides, self.kernel, self.stride, self.padding)
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in axes)
        return height, width

    @property
    def places(self) -> int:
        return math.prod(self.kernel)

    @property
    def pixels(self) -> int:
        return math.prod(self.sides)

    @property
    def out_pixels(self) -> int:
        return math.prod(self.out_sides)

    def behind(self) -> Pair:
        """How much of the padding behind each axis is seen: none of it behind the last position."""
        axes = zip(self.out_sides, self.stride, self.kernel, self.padding, self.sides)
        height, width = (max(0, (count - 1) * step + k - p - side) for count, step, k, p, side in axes)
        return height, width

    def unseen(self) -> list[int]:
        """How much of each axis and its padding the last position does not reach."""
        axes = zip(self.sides, self.kernel, self.stride, self.padding)
        return [(side + 2 * p - k) % stride for side, k, stride, p in axes]

    def sees(self, axis: int) -> np.ndarray:
        """[k, side, positions] along an axis: 1 where a place of the kernel sees a pixel from a position, else 0."""
        kernel, side, count = self.kernel[axis], self.sides[axis], self.out_sides[axis]
        pixel = np.arange(kernel)[:, None] + self.stride[axis] * np.arange(count) - self.padding[axis]
        seen: np.ndarray = np.arange(side)[:, None] == pixel[:, None, :]
        return seen.astype(np.float32)

    def attributes(self) -> dict[str, Any]:
        """As ONNX has them."""
        return {"kernel_shape": list(self.kernel), "pads": [*self.padding] * 2, "strides": list(self.stride)}

    def seen(self) -> np.ndarray:
        """[kh·kw, H'·W']: which pixel of the map each place of the kernel sees from each of its positions; H·W outside
        the map."""
        (kh, kw), (height, width) = self.kernel, self.out_sides
        pixels = np.arange(self.pixels, dtype=np.int32).reshape(self.sides)
        around = list(zip(self.padding, self.behind()))
        pixels = np.pad(pixels, around, constant_values=self.pixels)
        windows = np.lib.stride_tricks.sliding_window_view(pixels, self.kernel)
        windows = windows[:: self.stride[0], :: self.stride[1]][:height, :width]
        return windows.transpose(2, 3, 0, 1).reshape(kh * kw, height * width)


@dataclass(frozen=True)
class Convolution(Window):
    """Of maps with `inputs` channels to such with `outputs`, in `groups`."""

    inputs: int
    outputs: int
    groups: int

    @property
    def weight(self) -> tuple[int, int, int, int]:
        return self.outputs, self.inputs // self.groups, *self.kernel

    @property
    def is_depthwise(self) -> bool:
        return 1 < self.groups == self.inputs == self.outputs

    def attributes(self) -> dict[str, Any]:
        return super().attributes() | ({"group": self.groups} if self.groups > 1 else {})
