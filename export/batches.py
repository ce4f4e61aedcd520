"""What an ONNX graph computes for each image apart, and what crosses the images of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from gems_edge.export.graphs import IMAGES
from gems_edge.graphs.nodes import Links, attributes
from gems_edge.graphs.shapes import fix_dims, tensor_sizes

ELEMENTWISE = frozenset(
    "Add Sub Mul Div Neg Abs Relu Sqrt Reciprocal Exp Log Sigmoid Softplus Where Equal Greater Less Cast "
    "Identity".split()
)
REDUCTIONS = frozenset({"ReduceSum", "ReduceMean"})


class BatchedGraph:
    """The nodes of a model with what is known of their tensors."""

    def __init__(self, model: onnx.ModelProto, dims: dict[str, int]):
        self.model, self.nodes = model, list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        links = Links.of(self.nodes, self.outputs)
        self.producer, self.consumers = links.producer, links.consumers
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        fixed = fix_dims(model, dims)
        self.sizes = tensor_sizes(fixed)
        self.batched = self._batched(dims)
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}

    def _batched(self, dims: dict[str, int]) -> set[str]:
        """The tensors whose first axis is the images: those that one image more makes longer by one."""
        images = dims[IMAGES]
        longer = tensor_sizes(fix_dims(self.model, dims | {IMAGES: images + 1}))
        return {
            name
            for name, size in self.sizes.items()
            if size.shape[:1] == (images,) and longer[name].shape == (images + 1, *size.shape[1:])
        }

    def integers(self, name: str) -> list[int] | None:
        """The values of a constant of whole numbers."""
        if name not in self.constants:
            return None
        values: list[int] = numpy_helper.to_array(self.constants[name]).ravel().tolist()
        return values

    def constant(self, values: list[int] | np.ndarray, name: str) -> str:
        """The name of a constant of these values that `rebuilt` will have; equal `name`s stand for equal values."""
        name = f"streaming.{name}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def rebuilt(self, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
        """The checked model with other nodes and what they need, in an order in which they can run."""
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.initializer[:]
        result.graph.node.extend(_ordered(nodes, self.outputs))
        needed = {name for node in result.graph.node for name in _read(node)} | {i.name for i in result.graph.input}
        result.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in needed)
        onnx.checker.check_model(result, full_check=True)
        return result

    def one_image(self, name: str) -> list[int]:
        """The shape of a batched tensor with one image."""
        return [1, *self.sizes[name].shape[1:]]

    def axes(self, node: onnx.NodeProto) -> set[int] | None:
        """The axes of a reduction, counted from the front."""
        rank = len(self.sizes[node.input[0]].shape)
        values: list[int] | None = list(range(rank))
        if len(node.input) > 1 and node.input[1]:
            values = self.integers(node.input[1])
        return None if values is None else {axis % rank for axis in values}

    def crosses(self, node: onnx.NodeProto) -> bool:
        """Whether the node adds up over the images and can be split: each image's part, then their sum or mean."""
        if node.op_type not in REDUCTIONS or node.input[0] not in self.batched:
            return False
        axes = self.axes(node)
        return axes is not None and 0 in axes

    def pools(self, node: onnx.NodeProto) -> bool:
        """Whether the node is a pool of the network; those by which its gradient finds the maxima read cast bytes."""
        source = self.producer.get(node.input[0])
        return node.op_type == "MaxPool" and not (source and source.op_type == "Cast")

    def apart(self, node: onnx.NodeProto) -> bool:
        """Whether the node computes each image's part of its output from the same image's part of its inputs."""
        batched = [name for name in node.input if name in self.batched]
        if not batched or any(name not in self.batched for name in node.output if name):
            return False
        rule = _APART.get(node.op_type)
        return rule is not None and rule(_Reader(self, node, batched))


@dataclass(frozen=True)
class _Reader:
    """A node that reads tensors of all images and gives one."""

    graph: BatchedGraph
    node: onnx.NodeProto
    batched: list[str]  # those of its inputs that are of all images

    @property
    def first(self) -> str:
        name: str = self.node.input[0]
        return name

    @property
    def first_alone(self) -> bool:
        """Whether only the first input is of all images."""
        return self.batched == [self.first]

    @property
    def rank(self) -> int:
        """Number of axes of the output."""
        return self.rank_of(self.node.output[0])

    def rank_of(self, name: str) -> int:
        return len(self.graph.sizes[name].shape)

    def attribute(self, name: str, default: int = 0) -> Any:
        return attributes(self.node).get(name, default)

    def integers(self, slot: int) -> list[int] | None:
        """The values of an input that is a constant of whole numbers."""
        return self.graph.integers(self.node.input[slot]) if len(self.node.input) > slot else None


def _elementwise(reader: _Reader) -> bool:
    shapes = {name: reader.graph.sizes[name].shape for name in reader.node.input}
    return all(
        len(shape) == reader.rank if name in reader.batched else len(shape) < reader.rank or shape[0] == 1
        for name, shape in shapes.items()
    )


def _first_alone(reader: _Reader) -> bool:
    return reader.first_alone


def _matmul(reader: _Reader) -> bool:
    return reader.first in reader.batched and all(reader.rank_of(name) == reader.rank for name in reader.batched)


def _gather(reader: _Reader) -> bool:
    return reader.first_alone and reader.attribute("axis") % reader.rank_of(reader.first) != 0


def _concat(reader: _Reader) -> bool:
    return reader.attribute("axis") % reader.rank != 0 and len(reader.batched) == len(reader.node.input)


def _transpose(reader: _Reader) -> bool:
    perm = attributes(reader.node).get("perm")
    return perm is not None and bool(perm[0] == 0)


def _reduction(reader: _Reader) -> bool:
    axes = reader.graph.axes(reader.node)
    return axes is not None and 0 not in axes


def _reshape(reader: _Reader) -> bool:
    shape = reader.integers(1)
    return reader.first_alone and shape is not None and shape[0] in (0, -1) and not reader.attribute("allowzero")


def _pad(reader: _Reader) -> bool:
    pads = reader.integers(1)
    all_axes = len(reader.node.input) < 4
    return reader.first_alone and all_axes and pads is not None and pads[0] == pads[reader.rank] == 0


def _slice(reader: _Reader) -> bool:
    axes = reader.integers(3)
    return reader.first_alone and axes is not None and all(axis % reader.rank for axis in axes)


def _unsqueeze(reader: _Reader) -> bool:
    axes = reader.integers(1)
    return reader.first_alone and axes is not None and all(axis % reader.rank for axis in axes)


def _squeeze(reader: _Reader) -> bool:
    axes, rank = reader.integers(1), reader.rank_of(reader.first)
    return reader.first_alone and axes is not None and all(axis % rank for axis in axes)


_APART: dict[str, Callable[[_Reader], bool]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("Conv", "MaxPool", "Resize", "BatchNormalization"), _first_alone),
    "MatMul": _matmul,
    "Gather": _gather,
    "Concat": _concat,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Pad": _pad,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
}


def _ordered(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """`nodes` in an order in which they can run, without those that no output needs."""
    producer = {name: node for node in nodes for name in node.output if name}
    order: list[onnx.NodeProto] = []
    seen: set[int] = set()
    for output in sorted(outputs):
        waiting = [(producer[output], False)]
        while waiting:
            node, leaving = waiting.pop()
            if leaving:
                order.append(node)
                continue
            if id(node) in seen:
                continue
            seen.add(id(node))
            waiting.append((node, True))
            waiting += [
                (producer[name], False)
                for name in reversed(_read(node))
                if name in producer and id(producer[name]) not in seen
            ]
    return order


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, what the body of a Scan captures included."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += [name for inner in attribute.g.node for name in inner.input]
    return names
