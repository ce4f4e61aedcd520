"""What an ONNX graph computes for each image apart, and what crosses the images of a batch."""

from collections import defaultdict

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gems_edge.export.graphs import IMAGES
from gems_edge.graphs.shapes import fix_dims, tensor_sizes

ELEMENTWISE = frozenset(
    "Add Sub Mul Div Neg Abs Relu Sqrt Reciprocal Exp Log Sigmoid Softplus Where Equal Greater Less Cast Identity".split()
)
REDUCTIONS = frozenset({"ReduceSum", "ReduceMean"})


class BatchedGraph:
    """The nodes of a model with what is known of their tensors."""

    def __init__(self, model: onnx.ModelProto, dims: dict[str, int]):
        self.model, graph = model, model.graph
        self.nodes = list(graph.node)
        self.outputs = {value.name for value in graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        fixed = fix_dims(model, dims)
        self.sizes = tensor_sizes(fixed)
        others = tensor_sizes(fix_dims(model, dims | {IMAGES: dims[IMAGES] + 1}))
        self.batched = {
            name
            for name, size in self.sizes.items()
            if size.shape
            and others[name].shape == (size.shape[0] + 1, *size.shape[1:])
            and size.shape[0] == dims[IMAGES]
        }
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}

    def integers(self, name: str) -> list[int] | None:
        """The values of a constant of whole numbers."""
        return numpy_helper.to_array(self.constants[name]).ravel().tolist() if name in self.constants else None

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
        values = self.integers(node.input[1]) if len(node.input) > 1 and node.input[1] else list(range(rank))
        return None if values is None else {axis % rank for axis in values}

    def crosses(self, node: onnx.NodeProto) -> bool:
        """Whether the node adds up over the images and can be split: each image's part, then their sum or mean."""
        if node.op_type not in REDUCTIONS or node.input[0] not in self.batched:
            return False
        axes = self.axes(node)
        return axes is not None and 0 in axes

    def pools(self, node: onnx.NodeProto) -> bool:
        """Whether the node is a pool of the network (that of its gradient's bookkeeping is of bytes that were cast)."""
        source = self.producer.get(node.input[0])
        return node.op_type == "MaxPool" and not (source and source.op_type == "Cast")

    def apart(self, node: onnx.NodeProto) -> bool:
        """Whether the node computes each image's part of its output from the same image's part of its inputs."""
        batched = [name for name in node.input if name in self.batched]
        if not batched or any(name not in self.batched for name in node.output if name):
            return False
        kind, first = node.op_type, node.input[0]
        rank = len(self.sizes[node.output[0]].shape)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if kind in ELEMENTWISE:
            shapes = [(name in self.batched, self.sizes[name].shape) for name in node.input]
            return all(len(shape) == rank if images else len(shape) < rank or shape[0] == 1 for images, shape in shapes)
        if kind in ("Conv", "MaxPool", "Resize", "BatchNormalization"):
            return batched == [first]
        if kind == "MatMul":
            return all(len(self.sizes[name].shape) == rank for name in batched) and first in self.batched
        if kind == "Gather":
            return batched == [first] and attributes.get("axis", 0) % len(self.sizes[first].shape) != 0
        if kind == "Concat":
            return attributes["axis"] % rank != 0 and len(batched) == len(node.input)
        if kind == "Transpose":
            return attributes["perm"][0] == 0
        if kind in REDUCTIONS:
            axes = self.axes(node)
            return axes is not None and 0 not in axes
        if batched != [first]:
            return False
        values = self.integers(node.input[1]) if len(node.input) > 1 else None
        if kind == "Reshape":
            return values is not None and values[0] in (0, -1) and not attributes.get("allowzero", 0)
        if kind == "Pad":
            return values is not None and len(node.input) < 4 and values[0] == values[rank] == 0
        if kind == "Slice":
            axes = self.integers(node.input[3]) if len(node.input) > 3 else None
            return axes is not None and all(axis % rank for axis in axes)
        if kind == "Unsqueeze":
            return values is not None and all(axis % rank for axis in values)
        if kind == "Squeeze":
            whole = len(self.sizes[first].shape)
            return values is not None and all(axis % whole for axis in values)
        return False


def _ordered(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """`nodes` in an order in which they can run, without those that no output needs."""
    producer = {name: node for node in nodes for name in node.output if name}
    order, state = [], {}
    for output in sorted(outputs):
        waiting = [(producer[output], False)]
        while waiting:
            node, leaving = waiting.pop()
            if leaving:
                order.append(node)
                continue
            if id(node) in state:
                continue
            state[id(node)] = True
            waiting.append((node, True))
            waiting += [
                (producer[name], False)
                for name in reversed(_read(node))
                if name in producer and id(producer[name]) not in state
            ]
    return order


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, what the body of a Scan captures included."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += [name for inner in attribute.g.node for name in inner.input]
    return names
