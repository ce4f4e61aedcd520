"""An adaptation graph with the same results in less memory: what is large runs image by image.

The maps that a gradient step needs are large because they are of all the support images at once. Nothing over whole maps
crosses images (models/layers.py takes every statistic from the images' own moments), so the nodes around large tensors
become the bodies of ONNX Scan nodes, one image an iteration: a large tensor exists for one image at a time. What crosses
images (sums and means over the batch) stays between the Scans, exact. A tensor that a later Scan needs again is computed again
there, as long as that takes no more than so many convolutions; otherwise it is kept for all images.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gems_edge.export.batches import BatchedGraph
from gems_edge.export.products import join_images

PRODUCTS = frozenset({"Conv", "MatMul"})
# Sums over the images that are larger than this are added up from image to image, smaller ones behind the Scan.
STACKED_BYTES = 1 << 14


@dataclass(frozen=True)
class Memory:
    """What of an adaptation graph runs image by image."""

    least_bytes: int  # tensors of at least this size, of all images together; 0: nothing
    convolutions: int  # that may run again to have such a tensor again, rather than to keep it


MEMORY = {"fast": Memory(1 << 23, 0), "balanced": Memory(1 << 21, 0), "low": Memory(1 << 19, 1)}


def stream(model: onnx.ModelProto, memory: Memory, dims: dict[str, int]) -> onnx.ModelProto:
    """`model`, an adaptation graph, with its large tensors image by image.

    `dims` are the sizes to plan for, {"images": N, "classes": C}; the graph works for any other. Inputs, outputs and
    results stay what they are, to the rounding of sums over images.
    """
    if not memory.least_bytes:
        return model
    model = join_images(model, dims, memory.least_bytes)
    graph = BatchedGraph(model, dims)
    streamed = _streamed(graph, memory.least_bytes)
    if not streamed:
        return model
    inside, level = _levels(graph, streamed)
    kept = _kept(graph, streamed, inside, level, memory.convolutions)
    streamed -= kept
    nodes = [node for node in graph.nodes if id(node) not in inside]
    regions = defaultdict(list)
    for node in graph.nodes:
        if id(node) in inside:
            regions[level[id(node)]].append(node)
    needed = {name for node in nodes for name in node.input} | graph.outputs
    shared: dict[str, onnx.NodeProto] = {}
    for number in sorted(regions, reverse=True):  # from the last, as a Scan needs what earlier ones give
        region = _Region(graph, number, inside, level, streamed)
        made = region.build(regions[number], needed, shared)
        needed |= region.read
        nodes += made
    nodes += shared.values()
    return graph.rebuilt(nodes)


def _streamed(graph: BatchedGraph, least: int) -> set[str]:
    """The tensors that can exist for one image at a time: the large ones, and small ones that only they are made from.

    A pool's result is not among them: it is a quarter of its input, and the next layer starts with it.
    """
    found = {
        name
        for node in graph.nodes
        for name in node.output
        if name in graph.batched
        and name not in graph.outputs
        and graph.sizes[name].bytes >= least
        and graph.apart(node)
        and not graph.pools(node)
    }
    while refused := {
        name for name in found if not all(graph.apart(user) or graph.crosses(user) for user in graph.consumers[name])
    }:
        found -= refused
    for node in reversed(graph.nodes):
        users = [user for name in node.output for user in graph.consumers[name]]
        large = all(_touches(user, found) and (graph.apart(user) or graph.crosses(user)) for user in users)
        if users and large and node.op_type not in PRODUCTS and graph.apart(node) and not graph.pools(node):
            found |= set(node.output) - graph.outputs
    return found


def _touches(node: onnx.NodeProto, names: set[str]) -> bool:
    return any(name in names for name in (*node.input, *node.output))


def _levels(graph: BatchedGraph, streamed: set[str]) -> tuple[set[int], dict[int, int]]:
    """Which nodes run image by image (ids), and the level of every node.

    All nodes of a level inside run in one Scan. It is one above that of everything from outside that they need.
    """
    inside = {
        id(node) for node in graph.nodes if _touches(node, streamed) and (graph.apart(node) or graph.crosses(node))
    }
    level: dict[int, int] = {}
    joined = set()
    for node in graph.nodes:
        sources = {name: graph.producer[name] for name in node.input if name in graph.producer}
        within = [level[id(s)] for s in sources.values() if id(s) in inside and not graph.crosses(s)]
        without = [level[id(s)] for s in sources.values() if id(s) not in inside or graph.crosses(s)]
        if id(node) not in inside and within and graph.apart(node) and max(without, default=0) < max(within):
            inside.add(id(node))  # small, but between large ones: it needs no other image either
            joined.add(id(node))
        if id(node) in inside:
            level[id(node)] = max([*within, *(one + 1 for one in without), 1])
        else:
            level[id(node)] = max([*within, *without, 0])
    while True:  # those that turn out to lead to nothing in their Scan are better off outside
        surplus = {
            id(node)
            for node in graph.nodes
            if id(node) in joined
            and not any(
                id(user) in inside and level[id(user)] == level[id(node)]
                for name in node.output
                for user in graph.consumers[name]
            )
        }
        if not surplus:
            return inside, level
        inside -= surplus
        joined -= surplus


def _kept(
    graph: BatchedGraph, streamed: set[str], inside: set[int], level: dict[int, int], convolutions: int
) -> set[str]:
    """What is kept for all images after all: enough for other levels to have what they need of the streamed tensors with
    no more than `convolutions` run again for each."""
    kept: set[str] = set()

    def costly(name: str) -> bool:
        again = _ancestors(graph, name, streamed - kept)
        return sum(_is_product(graph, node) for node in again) > convolutions

    def cheapest(name: str) -> tuple[int, frozenset[str]]:
        """Bytes and names of what to keep so that `name` is no longer costly: itself, or less of what it is made from."""
        itself = graph.sizes[name].bytes, frozenset({name})
        node = graph.producer[name]
        if _is_product(graph, node):
            return itself
        sources = frozenset().union(
            *(cheapest(source)[1] for source in node.input if source in streamed - kept and costly(source))
        )
        below = sum(graph.sizes[source].bytes for source in sources), sources
        return below if sources and below[0] < itself[0] else itself

    for node in graph.nodes:
        for name in node.output:
            if name in streamed and name not in kept:
                levels = {level[id(user)] for user in graph.consumers[name] if id(user) in inside}
                if levels - {level[id(node)]} and costly(name):
                    kept |= cheapest(name)[1]
    return kept


def _is_product(graph: BatchedGraph, node: onnx.NodeProto) -> bool:
    """Whether the node multiplies matrices; a convolution that picks patches only copies (backward.py)."""
    constant = graph.constants.get(node.input[1]) if node.op_type == "Conv" else None
    if constant is not None:
        filters = numpy_helper.to_array(constant).reshape(constant.dims[0], -1)
        return not np.array_equal(filters, np.eye(constant.dims[0]))
    return node.op_type in PRODUCTS


def _ancestors(graph: BatchedGraph, name: str, streamed: set[str]) -> list[onnx.NodeProto]:
    """The nodes that compute `name` from tensors that are not streamed."""
    found: dict[int, onnx.NodeProto] = {}
    waiting = [name]
    while waiting:
        node = graph.producer[waiting.pop()]
        if id(node) not in found:
            found[id(node)] = node
            waiting += [source for source in node.input if source in streamed]
    return list(found.values())


class _Region:
    """One Scan: the nodes of a level, and those of earlier levels that it computes again."""

    def __init__(self, graph: BatchedGraph, number: int, inside: set[int], level: dict[int, int], streamed: set[str]):
        self.graph, self.number, self.inside, self.level, self.streamed = graph, number, inside, level, streamed
        self.read: set[str] = set()  # what the body reads from outside

    def build(
        self, own: list[onnx.NodeProto], needed: set[str], shared: dict[str, onnx.NodeProto]
    ) -> list[onnx.NodeProto]:
        """The Scan and the nodes around it that give the tensors of `own` that are `needed`; `shared` collects the
        reshaped inputs of all Scans."""
        graph, number = self.graph, self.number
        wanted = [name for node in own for name in node.output if name in needed]
        body = self._body(own, wanted)
        if not wanted or not body:
            return []
        produced = {name for node in body for name in node.output if name}
        inputs, outputs, around = [], [], []
        states, sums, initial = [], [], []
        self.read = {name for node in body for name in node.input if name} - produced
        for name in sorted(self.read):
            if name in graph.batched:
                inputs.append(name)
                shape = graph.constant([1], "axis")
                shared.setdefault(
                    name, helper.make_node("Unsqueeze", [name, shape], [f"{name}/each"], name=f"each.{name}")
                )
        renamed = {name: f"{name}@{number}" for name in (*produced, *inputs)}
        nodes = []
        for node in body:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{node.name}@{number}"
            del copy.input[:], copy.output[:]
            copy.input.extend(renamed.get(name, name) for name in node.input)
            copy.output.extend(renamed.get(name, name) for name in node.output)
            if graph.crosses(node) and graph.axes(node) == {0} and not _keeps_axes(node):  # of one image: as it is
                copy.op_type = "Squeeze"
                del copy.attribute[:]
            nodes.append(copy)
        for name in wanted:
            node, inner = graph.producer[name], renamed[name]
            if not graph.crosses(node):
                outputs.append((inner, f"{name}/stacked", graph.types[name], graph.one_image(name)))
                axis = graph.constant([1], "axis")
                around.append(helper.make_node("Squeeze", [f"{name}/stacked", axis], [name], name=f"all.{name}"))
                continue
            shape = list(graph.sizes[name].shape)
            if node.op_type == "ReduceSum" and graph.sizes[name].bytes >= STACKED_BYTES:
                nodes.append(helper.make_node("Add", [f"{inner}.so far", inner], [f"{inner}.sum"], name=f"sum.{inner}"))
                states.append((f"{inner}.so far", shape))
                sums.append((f"{inner}.sum", name, shape))
                initial.append(f"{name}/zero")
                around += _zeros(graph, f"{name}/zero", shape, inputs[0])
                continue
            outputs.append((inner, f"{name}/stacked", graph.types[name], shape))
            axis = graph.constant([0], "first axis")
            around.append(
                helper.make_node(node.op_type, [f"{name}/stacked", axis], [name], name=f"all.{name}", keepdims=0)
            )
        body_graph = helper.make_graph(
            nodes,
            f"image.{number}",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in states]
            + [helper.make_tensor_value_info(renamed[n], graph.types[n], graph.one_image(n)) for n in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, _, shape in sums]
            + [helper.make_tensor_value_info(inner, kind, shape) for inner, _, kind, shape in outputs],
        )
        scan = helper.make_node(
            "Scan",
            [*initial, *(f"{name}/each" for name in inputs)],
            [*(name for _, name, _ in sums), *(name for _, name, _, _ in outputs)],
            name=f"images.{number}",
            body=body_graph,
            num_scan_inputs=len(inputs),
        )
        return [scan, *around]

    def _body(self, own: list[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that give `wanted`, in order: of this level, and earlier ones whose results are not kept."""
        mine = {id(node) for node in own}
        found: set[int] = set()
        waiting = list(wanted)
        while waiting:
            node = self.graph.producer[waiting.pop()]
            if id(node) in found:
                continue
            found.add(id(node))
            for name in node.input:
                source = self.graph.producer.get(name)
                if source is None:
                    continue
                same = id(source) in mine and not self.graph.crosses(source)
                if same or name in self.streamed:
                    waiting.append(name)
        return [node for node in self.graph.nodes if id(node) in found]


def _keeps_axes(node: onnx.NodeProto) -> bool:
    return next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1) == 1


def _zeros(graph: BatchedGraph, name: str, shape: list[int], images: str) -> list[onnx.NodeProto]:
    """Zeros that onnxruntime does not compute when it loads the graph, and hold on to: they depend on the number of images."""
    size = graph.constant(shape, f"shape.{'.'.join(map(str, shape))}")
    zero = graph.constant(np.zeros((), np.float32), "zero")
    return [
        helper.make_node("Shape", [images], [f"{name}.count"], name=f"count.{name}", start=0, end=1),
        helper.make_node("Cast", [f"{name}.count"], [f"{name}.number"], name=f"number.{name}", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.number", zero], [f"{name}.none"], name=f"none.{name}"),
        helper.make_node("Expand", [f"{name}.none", size], [name], name=f"zeros.{name}"),
    ]
