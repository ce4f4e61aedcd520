"""An adaptation graph with the same results in less memory: what is large runs image by image.

The maps that a gradient step needs are large because they are of all the support images at once. Nothing over whole
maps crosses images (models/layers.py takes every statistic from the images' own moments), so the nodes around large
tensors become the bodies of ONNX Scan nodes, one image an iteration: a large tensor exists for one image at a time.
What crosses images (sums and means over the batch) stays between the Scans, exact. A tensor that a later Scan needs
again is computed again there, as long as that takes no more than so many convolutions; otherwise it is kept for all
images.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gems_edge.export.batches import BatchedGraph
from gems_edge.export.products import join_images
from gems_edge.graphs.nodes import attributes

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
    plan = _plan(graph, streamed)
    plan.streamed -= _kept(plan, memory.convolutions)
    outside = [node for node in graph.nodes if not plan.is_inside(node)]
    return graph.rebuilt(outside + _scans(plan, outside))


def _streamed(graph: BatchedGraph, least: int) -> set[str]:
    """The tensors that can exist for one image at a time: the large ones, and small ones that only they are made from.

    A pool's result is not among them: it is a quarter of its input, and the next layer starts with it.
    """
    streamed = {
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
        name for name in streamed if not all(graph.apart(user) or graph.crosses(user) for user in graph.consumers[name])
    }:
        streamed -= refused
    for node in reversed(graph.nodes):
        users = [user for name in node.output for user in graph.consumers[name]]
        large = all(_touches(user, streamed) and (graph.apart(user) or graph.crosses(user)) for user in users)
        if users and large and node.op_type not in PRODUCTS and graph.apart(node) and not graph.pools(node):
            streamed |= set(node.output) - graph.outputs
    return streamed


def _touches(node: onnx.NodeProto, names: set[str]) -> bool:
    return any(name in names for name in (*node.input, *node.output))


@dataclass
class _Plan:
    """What of a graph runs image by image. All nodes of a level that are inside run in one Scan."""

    graph: BatchedGraph
    streamed: set[str]  # tensors that exist for one image at a time
    inside: set[int]  # ids of the nodes that run image by image
    level: dict[int, int]  # id of a node → one above that of everything from outside its Scan that it needs

    def is_inside(self, node: onnx.NodeProto) -> bool:
        return id(node) in self.inside

    def level_of(self, node: onnx.NodeProto) -> int:
        return self.level[id(node)]


def _plan(graph: BatchedGraph, streamed: set[str]) -> _Plan:
    """The nodes around `streamed` tensors go inside, and small ones between them that need no other image either."""
    inside = {
        id(node) for node in graph.nodes if _touches(node, streamed) and (graph.apart(node) or graph.crosses(node))
    }
    plan = _Plan(graph, streamed, inside, {})
    joined = set()
    for node in graph.nodes:
        within: list[int] = []
        without: list[int] = []
        for source in (graph.producer[name] for name in node.input if name in graph.producer):
            same_image = plan.is_inside(source) and not graph.crosses(source)
            (within if same_image else without).append(plan.level_of(source))
        if not plan.is_inside(node) and within and graph.apart(node) and max(without, default=0) < max(within):
            inside.add(id(node))
            joined.add(id(node))
        if plan.is_inside(node):
            plan.level[id(node)] = max([*within, *(level + 1 for level in without), 1])
        else:
            plan.level[id(node)] = max([*within, *without, 0])
    while surplus := {id(node) for node in graph.nodes if id(node) in joined and _leads_nowhere(plan, node)}:
        inside -= surplus
        joined -= surplus
    return plan


def _leads_nowhere(plan: _Plan, node: onnx.NodeProto) -> bool:
    """Whether nothing in its Scan reads what the node gives: it is better off outside."""
    readers = [reader for name in node.output for reader in plan.graph.consumers[name]]
    return not any(plan.is_inside(reader) and plan.level_of(reader) == plan.level_of(node) for reader in readers)


def _kept(plan: _Plan, convolutions: int) -> set[str]:
    """What is kept for all images after all: enough for other levels to have what they need of the streamed tensors
    with no more than `convolutions` run again for each."""
    graph, streamed = plan.graph, plan.streamed
    kept: set[str] = set()

    def costly(name: str) -> bool:
        again = _ancestors(graph, name, streamed - kept)
        return sum(_is_product(graph, node) for node in again) > convolutions

    def cheapest(name: str) -> tuple[int, frozenset[str]]:
        """Bytes and names of what to keep so that `name` is not costly: itself, or less of what it is made from."""
        itself = graph.sizes[name].bytes, frozenset({name})
        node = graph.producer[name]
        if _is_product(graph, node):
            return itself
        costly_sources = [source for source in node.input if source in streamed - kept and costly(source)]
        sources = frozenset[str]().union(*(cheapest(source)[1] for source in costly_sources))
        below = sum(graph.sizes[source].bytes for source in sources), sources
        return below if sources and below[0] < itself[0] else itself

    for node in graph.nodes:
        for name in node.output:
            if name in streamed and name not in kept:
                levels = {plan.level_of(reader) for reader in graph.consumers[name] if plan.is_inside(reader)}
                if levels - {plan.level_of(node)} and costly(name):
                    kept |= cheapest(name)[1]
    return kept


def _is_product(graph: BatchedGraph, node: onnx.NodeProto) -> bool:
    """Whether the node multiplies matrices; a convolution that picks patches only copies (weight_gradients.py)."""
    constant = graph.constants.get(node.input[1]) if node.op_type == "Conv" else None
    if constant is not None:
        filters = numpy_helper.to_array(constant).reshape(constant.dims[0], -1)
        return not np.array_equal(filters, np.eye(constant.dims[0]))
    return node.op_type in PRODUCTS


def _ancestors(graph: BatchedGraph, name: str, streamed: set[str]) -> list[onnx.NodeProto]:
    """The nodes that compute `name` from tensors that are not streamed."""
    ancestors: dict[int, onnx.NodeProto] = {}
    waiting = [name]
    while waiting:
        node = graph.producer[waiting.pop()]
        if id(node) not in ancestors:
            ancestors[id(node)] = node
            waiting += [source for source in node.input if source in streamed]
    return list(ancestors.values())


def _scans(plan: _Plan, outside: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """A Scan for every level, and the nodes around it that feed it and take apart what it gives."""
    graph = plan.graph
    levels: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.nodes:
        if plan.is_inside(node):
            levels[plan.level_of(node)].append(node)
    needed = {name for node in outside for name in node.input} | graph.outputs
    feeding: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []
    for level in sorted(levels, reverse=True):  # from the last, as a Scan needs what earlier ones give
        wanted = [name for node in levels[level] for name in node.output if name in needed]
        if not wanted:
            continue
        scan = _Scan(graph, level, _body(plan, levels[level], wanted))
        feeding |= scan.feeding
        for name in wanted:
            scan.give(name)
        needed |= scan.read
        nodes += scan.nodes()
    return nodes + list(feeding.values())


def _body(plan: _Plan, nodes: list[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that give `wanted`, in order: the level's own, and earlier ones whose results are not kept."""
    graph = plan.graph
    of_level = {id(node) for node in nodes}
    body: set[int] = set()
    waiting = list(wanted)
    while waiting:
        node = graph.producer[waiting.pop()]
        if id(node) in body:
            continue
        body.add(id(node))
        for name in node.input:
            source = graph.producer.get(name)
            if source is None:
                continue
            same_level = id(source) in of_level and not graph.crosses(source)
            if same_level or name in plan.streamed:
                waiting.append(name)
    return [node for node in graph.nodes if id(node) in body]


@dataclass(frozen=True)
class _State:
    """What a Scan hands from image to image: a sum over them."""

    so_far: str  # in the body, before an image …
    total: str  # … and with it
    start: str  # outside: zeros
    result: str  # outside, after the last image
    shape: list[int]


@dataclass(frozen=True)
class _Output:
    """What a Scan gives for every image, one after the other."""

    inner: str  # in the body
    stacked: str  # outside
    element_type: int
    shape: list[int]  # of one image


class _Scan:
    """The Scan of a level, with the nodes `body`; of a tensor in it the name has the level's number behind it."""

    def __init__(self, graph: BatchedGraph, level: int, body: list[onnx.NodeProto]):
        self.graph, self.level = graph, level
        produced = {name for node in body for name in node.output if name}
        self.read = {name for node in body for name in node.input if name} - produced  # from outside
        self.inputs = sorted(self.read & graph.batched)
        self.feeding = {name: self._fed(name) for name in self.inputs}
        self.inner = {name: f"{name}@{level}" for name in (*produced, *self.inputs)}
        self.body = [self._copy(node) for node in body]
        self.states: list[_State] = []
        self.outputs: list[_Output] = []
        self.around: list[onnx.NodeProto] = []

    def _fed(self, name: str) -> onnx.NodeProto:
        axis = self.graph.constant([1], "axis")
        return helper.make_node("Unsqueeze", [name, axis], [f"{name}/each"], name=f"each.{name}")

    def _copy(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}@{self.level}"
        del copy.input[:], copy.output[:]
        copy.input.extend(self.inner.get(name, name) for name in node.input)
        copy.output.extend(self.inner.get(name, name) for name in node.output)
        if (
            self.graph.crosses(node) and self.graph.axes(node) == {0} and not _keeps_axes(node)
        ):  # of one image: as it is
            copy.op_type = "Squeeze"
            del copy.attribute[:]
        return copy

    def give(self, name: str) -> None:
        """Have `name`, which the body makes, for all images or over all of them."""
        node = self.graph.producer[name]
        if not self.graph.crosses(node):
            self._stack_images(name)
        elif node.op_type == "ReduceSum" and self.graph.sizes[name].bytes >= STACKED_BYTES:
            self._add_up(name)
        else:
            self._reduce_behind(name, node.op_type)

    def _stack_images(self, name: str) -> None:
        stacked = self._stack(name, self.graph.one_image(name))
        axis = self.graph.constant([1], "axis")
        self.around.append(helper.make_node("Squeeze", [stacked, axis], [name], name=f"all.{name}"))

    def _reduce_behind(self, name: str, kind: str) -> None:
        """Each image's part of a sum or mean, and their sum or mean behind the Scan."""
        stacked = self._stack(name, list(self.graph.sizes[name].shape))
        axis = self.graph.constant([0], "first axis")
        self.around.append(helper.make_node(kind, [stacked, axis], [name], name=f"all.{name}", keepdims=0))

    def _stack(self, name: str, shape: list[int]) -> str:
        stacked = f"{name}/stacked"
        self.outputs.append(_Output(self.inner[name], stacked, self.graph.types[name], shape))
        return stacked

    def _add_up(self, name: str) -> None:
        """A sum from image to image."""
        inner, shape = self.inner[name], list(self.graph.sizes[name].shape)
        state = _State(f"{inner}.so far", f"{inner}.sum", f"{name}/zero", name, shape)
        self.body.append(helper.make_node("Add", [state.so_far, inner], [state.total], name=f"sum.{inner}"))
        self.around += _zeros(self.graph, state.start, shape, self.inputs[0])
        self.states.append(state)

    def nodes(self) -> list[onnx.NodeProto]:
        """The Scan, the nodes that take its outputs apart and those that make the zeros its sums start from."""
        info = helper.make_tensor_value_info
        graph, states, outputs = self.graph, self.states, self.outputs
        body = helper.make_graph(
            self.body,
            f"image.{self.level}",
            [info(state.so_far, TensorProto.FLOAT, state.shape) for state in states]
            + [info(self.inner[name], graph.types[name], graph.one_image(name)) for name in self.inputs],
            [info(state.total, TensorProto.FLOAT, state.shape) for state in states]
            + [info(output.inner, output.element_type, output.shape) for output in outputs],
        )
        scan = helper.make_node(
            "Scan",
            [*(state.start for state in states), *(f"{name}/each" for name in self.inputs)],
            [*(state.result for state in states), *(output.stacked for output in outputs)],
            name=f"images.{self.level}",
            body=body,
            num_scan_inputs=len(self.inputs),
        )
        return [scan, *self.around]


def _keeps_axes(node: onnx.NodeProto) -> bool:
    return bool(attributes(node).get("keepdims", 1))


def _zeros(graph: BatchedGraph, name: str, shape: list[int], images: str) -> list[onnx.NodeProto]:
    """Zeros that depend on the number of images: onnxruntime does not compute them on loading, to hold on to them."""
    size = graph.constant(shape, f"shape.{'.'.join(map(str, shape))}")
    zero = graph.constant(np.zeros((), np.float32), "zero")
    return [
        helper.make_node("Shape", [images], [f"{name}.count"], name=f"count.{name}", start=0, end=1),
        helper.make_node("Cast", [f"{name}.count"], [f"{name}.number"], name=f"number.{name}", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.number", zero], [f"{name}.none"], name=f"none.{name}"),
        helper.make_node("Expand", [f"{name}.none", size], [name], name=f"zeros.{name}"),
    ]
