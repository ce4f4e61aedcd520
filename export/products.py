"""Weight gradients out of one matrix product over the places of all images, where the maps are small.

backward.py writes them as a product for each image and a sum over the images, which streaming.py can run image by image. As
one product they need no sum, which of wide layers with small maps costs more than the products themselves.
"""

import onnx
from onnx import helper

from gems_edge.export.batches import BatchedGraph


def join_images(model: onnx.ModelProto, dims: dict[str, int], least_bytes: int) -> onnx.ModelProto:
    """`model` with every Σ_images A·Bᵀ, A [N, P, K], B [N, Q, K], as one product of [P, N·K] and [N·K, Q], as long as A and B of
    all images are below `least_bytes`, or smaller than what the sum takes: a product and two states."""
    graph = BatchedGraph(model, dims)
    joined = _Joined(graph)
    for node in graph.nodes:
        operands = _summed_product(graph, node)
        if operands is None:
            continue
        size = sum(graph.sizes[name].bytes for name in operands)
        if size < max(least_bytes, 3 * graph.sizes[node.output[0]].bytes):
            joined.replace(node, *operands)
    if not joined.replaced:
        return model
    return graph.rebuilt([node for node in graph.nodes if node.output[0] not in joined.replaced] + joined.made)


def _summed_product(graph: BatchedGraph, node: onnx.NodeProto) -> tuple[str, str] | None:
    """A and B of a node that is Σ_images A·Bᵀ, where both are maps with their places in one axis."""
    if node.op_type != "ReduceSum" or not graph.crosses(node) or graph.axes(node) != {0}:
        return None
    product = graph.producer.get(node.input[0])
    if product is None or product.op_type != "MatMul" or not graph.batched.issuperset(product.input):
        return None
    left, transposed = (graph.producer.get(name) for name in product.input)
    if left is None or transposed is None or transposed.op_type != "Transpose":
        return None
    right = graph.producer.get(transposed.input[0])
    if right is None or not left.op_type == right.op_type == "Reshape":
        return None
    if any(len(graph.sizes[part.input[0]].shape) != 4 for part in (left, right)):
        return None
    return left.output[0], right.output[0]


class _Joined:
    """Nodes that compute with the first two axes exchanged: channels, then images."""

    def __init__(self, graph: BatchedGraph):
        self.graph = graph
        self.made: list[onnx.NodeProto] = []
        self.replaced: set[str] = set()
        self._exchanged: dict[str, str] = {}

    def replace(self, total: onnx.NodeProto, left: str, right: str) -> None:
        rows, columns = (self._matrix(name) for name in (left, right))
        turned = self._op("Transpose", [columns], f"{columns}/turned", perm=[1, 0])
        self.made.append(helper.make_node("MatMul", [rows, turned], list(total.output), name=total.name))
        self.replaced.add(total.output[0])

    def _matrix(self, name: str) -> str:
        """[P, N·K] of what is [N, P, K]."""
        source, rows = self.graph.producer[name].input[0], self.graph.sizes[name].shape[1]
        shape = self.graph.constant([rows, -1], f"rows.{rows}")
        return self._op("Reshape", [self._channels_first(source), shape], f"{name}/joined")

    def _channels_first(self, name: str) -> str:
        """[C, N, H, W] of what is [N, C, H, W]; shifts and stacks are made of exchanged maps, which are fewer."""
        if name not in self._exchanged:
            node = self.graph.producer.get(name)
            made = f"{name}/exchanged"
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} if node else {}
            if node and node.op_type == "Concat" and attributes["axis"] == 1:
                self._op("Concat", [self._channels_first(part) for part in node.input], made, axis=0)
            elif node and node.op_type in ("Pad", "Slice") and self._leaves_first_axes(node):
                self._op(node.op_type, [self._channels_first(node.input[0]), *node.input[1:]], made)
            else:
                self._op("Transpose", [name], made, perm=[1, 0, 2, 3])
            self._exchanged[name] = made
        return self._exchanged[name]

    def _leaves_first_axes(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Slice":
            axes = self.graph.integers(node.input[3]) if len(node.input) > 3 else None
            return axes is not None and not {0, 1}.intersection(axes)
        pads = self.graph.integers(node.input[1])
        return pads is not None and not any((*pads[:2], *pads[4:6]))

    def _op(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        if not any(output in node.output for node in self.made):
            self.made.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
