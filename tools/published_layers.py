"""Layers of which the published networks are built: shapes only, every weight is declared and none is stored."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# ncnn goes over a map once where onnxruntime, which the cost model follows, makes two ops: counted as such an op.
ONE_PASS = {"HardSwish": "Gelu"}


class Net:
    """A graph under construction; layers take and give tensor names, shapes are followed on the way."""

    def __init__(self, pixels: int | tuple[int, int], channels: int = 3):
        height, width = (pixels, pixels) if isinstance(pixels, int) else pixels
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"images": (1, channels, height, width)}

    def op(self, kind: str, inputs: Sequence[str], shape: tuple[int, ...], **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self.shapes[name] = shape
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT))
        return name

    def numbers(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def channels(self, x: str) -> int:
        return self.shapes[x][1]

    def conv(self, x: str, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, pad: int | None = None,
             act: str | None = None) -> str:  # fmt: skip
        _, inputs, height, width = self.shapes[x]
        pad = kernel // 2 if pad is None else pad
        shape = (1, outputs, *((side + 2 * pad - kernel) // stride + 1 for side in (height, width)))
        tensors = [x, self.weight(outputs, inputs // groups, kernel, kernel), self.weight(outputs)]
        x = self.op("Conv", tensors, shape, group=groups, pads=[pad] * 4, strides=[stride] * 2)
        return self.act(x, act) if act else x

    def depthwise(self, x: str, kernel: int, stride: int = 1, *, act: str | None = None) -> str:
        return self.conv(x, self.channels(x), kernel, stride, groups=self.channels(x), act=act)

    def act(self, x: str, kind: str) -> str:
        shape = self.shapes[x]
        if kind == "Swish":
            return self.op("Mul", [x, self.op("Sigmoid", [x], shape)], shape)
        return self.op(ONE_PASS.get(kind, kind), [x], shape)

    def pool(self, x: str, kernel: int, stride: int, *, pad: int = 0, kind: str = "MaxPool", ceil: bool = True) -> str:
        rounding = math.ceil if ceil else math.floor
        sides = (rounding((side + 2 * pad - kernel) / stride) + 1 for side in self.shapes[x][2:])
        shape = (1, self.channels(x), *sides)
        return self.op(
            kind, [x], shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=int(ceil)
        )

    def mean(self, x: str) -> str:
        return self.op("GlobalAveragePool", [x], (1, self.channels(x), 1, 1))

    def add(self, a: str, b: str) -> str:
        return self.op("Add", [a, b], self.shapes[a])

    def concat(self, *parts: str) -> str:
        shape = self.shapes[parts[0]]
        return self.op("Concat", parts, (1, sum(map(self.channels, parts)), *shape[2:]), axis=1)

    def slice(self, x: str, start: int, end: int) -> str:
        shape = self.shapes[x]
        places = [self.numbers(start), self.numbers(end), self.numbers(1)]
        return self.op("Slice", [x, *places], (1, end - start, *shape[2:]))

    def shuffle(self, x: str, groups: int) -> str:
        _, channels, height, width = self.shapes[x]
        split = (1, groups, channels // groups, height, width)
        x = self.op("Reshape", [x, self.numbers(*split)], split)
        x = self.op("Transpose", [x], (1, split[2], groups, height, width), perm=[0, 2, 1, 3, 4])
        shape = (1, channels, height, width)
        return self.op("Reshape", [x, self.numbers(*shape)], shape)

    def pad_channels(self, x: str, more: int) -> str:
        shape = self.shapes[x]
        return self.op("Pad", [x, self.numbers(0, 0, 0, 0, 0, more, 0, 0)], (1, shape[1] + more, *shape[2:]))

    def linear(self, x: str, outputs: int, act: str | None = None) -> str:
        """Of everything that x holds."""
        if len(self.shapes[x]) == 4:
            x = self.op("Flatten", [x], (1, math.prod(self.shapes[x])))
        inputs = self.shapes[x][1]
        x = self.op("Gemm", [x, self.weight(outputs, inputs), self.weight(outputs)], (1, outputs), transB=1)
        return self.act(x, act) if act else x

    def squeeze(self, x: str, narrow: int, inner: str = "Relu", gate: str = "Sigmoid") -> str:
        """Squeeze and excitation."""
        g = self.conv(self.conv(self.mean(x), narrow, act=inner), self.channels(x), act=gate)
        return self.op("Mul", [x, g], self.shapes[x])

    def model(self, *outputs: str) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(x, TensorProto.FLOAT, self.shapes[x]) for x in outputs]
        start = helper.make_tensor_value_info("images", TensorProto.FLOAT, self.shapes["images"])
        graph = helper.make_graph(self.nodes, "network", [start], ends, self.weights)
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def inverted(net: Net, x: str, wide: int, outputs: int, kernel: int, stride: int, act: str, *, narrow: int = 0,
             gate: str = "Sigmoid", inner: str = "Relu", late: bool = False) -> str:  # fmt: skip
    """Inverted residual; `narrow` channels of squeeze and excitation, before (late) or after the activation."""
    skip = x if stride == 1 and net.channels(x) == outputs else None
    if wide != net.channels(x):
        x = net.conv(x, wide, act=act)
    x = net.depthwise(x, kernel, stride, act=None if late and narrow else act)
    if narrow:
        x = net.squeeze(x, narrow, inner, gate)
        x = net.act(x, act) if late else x
    x = net.conv(x, outputs)
    return net.add(x, skip) if skip else x
