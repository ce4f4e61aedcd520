"""A graph at the sizes that a pass plans for: what of it is computed for each image apart, and what crosses images."""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir

from gems_edge.device.bundle import IMAGES
from gems_edge.graphs.liveness import TensorSize
from gems_edge.graphs.ops import is_apart, is_over_images
from gems_edge.graphs.shapes import fix_dims, sized, tensor_sizes
from gems_edge.graphs.values import name_of, size_of


@dataclass(frozen=True)
class Batches:
    graph: ir.Graph
    sizes: Mapping[ir.Value, TensorSize]
    types: Mapping[ir.Value, ir.DataType]
    batched: Set[ir.Value]  # values whose first axis is the images
    apart: Set[ir.Node]  # each image's part of the output is made from the same image's part of the inputs
    crossing: Set[ir.Node]  # sums and the like over the images, which are those of each image's part

    @classmethod
    def of(cls, model: ir.Model, dims: Mapping[str, int]) -> "Batches":
        """`dims`: the sizes of the named dimensions, "images" among them."""
        proto, values = ir.to_proto(model), ir.convenience.create_value_mapping(model.graph)
        fixed = fix_dims(proto, dict(dims))
        known = ir.convenience.create_value_mapping(sized(fixed).graph)
        longer = tensor_sizes(fix_dims(proto, {**dims, IMAGES: dims[IMAGES] + 1}))
        sizes = {values[name]: size_of(known[name]) for name in longer}
        batched = {value for value, size in sizes.items() if _grows(size, longer[name_of(value)], dims[IMAGES])}
        with _shapes_as_numbers(sizes):
            return cls(
                model.graph,
                sizes,
                {values[name]: dtype for name in longer if (dtype := known[name].dtype)},
                batched,
                {node for node in model.graph if is_apart(node, batched)},
                {node for node in model.graph if is_over_images(node, batched)},
            )

    def one_image(self, value: ir.Value) -> list[int]:
        """The shape of a batched value with one image."""
        return [1, *self.sizes[value].shape[1:]]

    def splits(self, node: ir.Node) -> bool:
        """Whether the node can run image by image, at most with a sum or the like of what it gives behind."""
        return node in self.apart or node in self.crossing


def _grows(size: TensorSize, longer: TensorSize, images: int) -> bool:
    """Whether one image more makes the first axis longer by one, and nothing else."""
    return size.shape[:1] == (images,) and longer.shape == (images + 1, *size.shape[1:])


@contextmanager
def _shapes_as_numbers(sizes: Mapping[ir.Value, TensorSize]) -> Iterator[None]:
    """Give the values these shapes for a while; the graph itself is for any number of images."""
    shapes = {value: value.shape for value in sizes}
    for value, size in sizes.items():
        value.shape = ir.Shape(size.shape)
    try:
        yield
    finally:
        for value, shape in shapes.items():
            value.shape = shape
