"""Weight gradients out of one matrix product over the pixels of all images, where the maps are small.

weight_gradients.py writes them as a product for each image and a sum over the images, which streaming.py can run image
by image. As one product they need no sum, which of wide layers with small maps costs more than the products themselves.
"""

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from gems_edge.export.batches import BatchedGraph


def join_images(model: onnx.ModelProto, dims: dict[str, int], least_bytes: int) -> onnx.ModelProto:
    """`model` with every Σ_images A·B, A [N, P, K], B [N, K, Q], as one product of [P, K·N] and [K·N, Q], where its
    operands over all images take less than `least_bytes`, or less than the sum does: a product and two states.
    """
    graph = BatchedGraph(model, dims)
    joined = _Joined(graph)
    for node in graph.nodes:
        product = _summed_product(graph, node)
        if product is None:
            continue
        size = sum(graph.sizes[name].bytes for name in product.parts)
        if size < max(least_bytes, 3 * graph.sizes[node.output[0]].bytes):
            joined.replace(node, product)
    if not joined.replaced:
        return model
    return graph.rebuilt([node for node in graph.nodes if node.output[0] not in joined.replaced] + joined.nodes)


@dataclass(frozen=True)
class _Product:
    """Σ_images gradient · patches, as weight_gradients.of_weight writes it."""

    gradient: str  # [N, O, H, W]
    source: str  # [N, I, H, W]: the patches themselves, or the map whose pixels are gathered
    gather: onnx.NodeProto | None
    parts: tuple[str, ...]  # its operands over all images, and the map that they are gathered from


def _summed_product(graph: BatchedGraph, node: onnx.NodeProto) -> _Product | None:
    if node.op_type != "ReduceSum" or not graph.crosses(node) or graph.axes(node) != {0}:
        return None
    product = graph.producer.get(node.input[0])
    if product is None or product.op_type != "MatMul" or not graph.batched.issuperset(product.input):
        return None
    left, right = product.input
    gather = graph.producer.get(right)
    gradient = _chain(graph, left, ["Reshape"])
    if gather is not None and gather.op_type == "Gather":
        source = _chain(graph, gather.input[0], ["Pad", "Transpose", "Reshape"])
    else:
        source, gather = _chain(graph, right, ["Transpose", "Reshape"]), None
    if gradient is None or source is None:
        return None
    if any(len(graph.sizes[name].shape) != 4 for name in (gradient, source)):
        return None
    return _Product(gradient, source, gather, (left, right) if gather is None else (left, right, source))


def _chain(graph: BatchedGraph, name: str, kinds: list[str]) -> str | None:
    """What `name` is made of by nodes of these kinds, the last first."""
    for kind in kinds:
        node = graph.producer.get(name)
        if node is None or node.op_type != kind:
            return None
        name = node.input[0]
    return name


class _Joined:
    """Products over the pixels of all images: by pixel first, then by image, as turning a matrix gives them."""

    def __init__(self, graph: BatchedGraph):
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.replaced: set[str] = set()

    def replace(self, total: onnx.NodeProto, product: _Product) -> None:
        """Write `product` as one, in place of the node `total`."""
        left, source = self._pixels_last(product.gradient), product.source
        if product.gather is None:
            right = self._op("Transpose", [self._pixels_last(source)], f"{source}/columns", perm=[1, 0])
        else:
            right = self._gathered(source, product.gather)
        self.nodes.append(helper.make_node("MatMul", [left, right], list(total.output), name=total.name))
        self.replaced.add(total.output[0])

    def _pixels_last(self, name: str) -> str:
        """[C, H·W·N] of what is [N, C, H, W]."""
        channels = self.graph.sizes[name].shape[1]
        rows = self._op("Reshape", [name, self.graph.constant([0, -1], "rows")], f"{name}/rows")
        turned = self._op("Transpose", [rows], f"{name}/turned", perm=[1, 0])
        shape = self.graph.constant([channels, -1], f"channels.{channels}")
        return self._op("Reshape", [turned, shape], f"{name}/joined")

    def _gathered(self, name: str, gather: onnx.NodeProto) -> str:
        """[places, H·W·N, C] of what is [N, C, H, W]: the pixels that `gather` picks for each place of the kernel."""
        _, channels, height, width = self.graph.sizes[name].shape
        pixels, places = height * width, self.graph.sizes[gather.output[0]].shape[1]
        flat = self._op("Reshape", [name, self.graph.constant([-1, pixels], f"pixels.{pixels}")], f"{name}/flat")
        turned = self._op("Transpose", [flat], f"{name}/pixels", perm=[1, 0])
        padded = self._op("Pad", [turned, self.graph.constant([0, 0, 1, 0], "one row")], f"{name}/padded")
        patches = gather.output[0]
        seen = self._op("Gather", [padded, gather.input[1]], f"{patches}/of all", axis=0)
        shape = self.graph.constant([places, -1, channels], f"places.{places}.{channels}")
        return self._op("Reshape", [seen, shape], f"{patches}/joined")

    def _op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        if not any(output in node.output for node in self.nodes):
            self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
