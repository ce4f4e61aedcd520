"""Writing what runs image by image as ONNX Scans, one for each level, and what feeds them and takes them apart."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.levels import Levels
from gems_edge.export.passes.rewriting import constant, replace
from gems_edge.graphs.batch_axes import whole_numbers

# Sums over the images that are larger than this are added up from image to image, smaller ones behind the Scan.
STACKED_BYTES = 1 << 14


def write_scans(levels: Levels, streamed: set[ir.Value]) -> None:
    """Have the nodes inside run in Scans; of the `streamed` values no Scan gives anything to another."""
    graph = levels.batches.graph
    of_level: dict[int, list[ir.Node]] = defaultdict(list)
    for node in graph:
        if node in levels.inside:
            of_level[levels.of_node[node]].append(node)
    needed = {value for node in graph if node not in levels.inside for value in node.inputs} | set(graph.outputs)
    given: dict[ir.Value, ir.Value] = {}
    feeding: dict[ir.Value, ir.Value] = {}
    for level in sorted(of_level, reverse=True):  # from the last, as a Scan needs what earlier ones give
        wanted = [value for node in of_level[level] for value in node.outputs if value in needed]
        if wanted:
            scan = _Scan(levels.batches, level, _body(levels, streamed, of_level[level], wanted), feeding)
            given |= {value: scan.give(value) for value in wanted}
            scan.write()
            needed |= scan.read
    for old, new in given.items():
        replace(old, new)


def _body(levels: Levels, streamed: set[ir.Value], nodes: list[ir.Node], wanted: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes that give `wanted`, in order: the level's own, and earlier ones whose results are not kept."""
    of_level, body = set(nodes), set[ir.Node]()
    waiting = [value.producer() for value in wanted]
    while waiting:
        node = waiting.pop()
        if node is None or node in body:
            continue
        body.add(node)
        for value in node.inputs:
            source = None if value is None else value.producer()
            if source is not None and (value in streamed or (source in of_level and levels.same_image(source))):
                waiting.append(source)
    return [node for node in levels.batches.graph if node in body]


@dataclass(frozen=True)
class _State:
    """What a Scan hands from image to image: a sum over them."""

    start: ir.Value  # outside: zeros
    so_far: ir.Value  # in the body, before an image …
    total: ir.Value  # … and with it
    result: ir.Value  # outside, after the last image


@dataclass(frozen=True)
class _Output:
    """What a Scan gives for every image, one after the other."""

    inner: ir.Value  # in the body
    stacked: ir.Value  # outside


@dataclass
class _Scan:
    """The Scan of a level while it is written. Of a value in it the name has the level's number behind it."""

    batches: Batches
    level: int
    nodes: list[ir.Node]  # of the graph: the body has copies of them
    feeding: dict[ir.Value, ir.Value]  # value → what a Scan is fed of it
    states: list[_State] = field(default_factory=list)
    outputs: list[_Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outside = ir.tape.Tape(self.batches.graph)
        produced = [value for node in self.nodes for value in node.outputs]
        self.read = {value for node in self.nodes for value in node.inputs if value is not None} - set(produced)
        self.inputs = sorted(self.read & self.batches.batched, key=lambda value: str(value.name))
        self.inner: dict[ir.Value | None, ir.Value] = {
            value: ir.Value(name=f"{value.name}@{self.level}") for value in (*produced, *self.inputs)
        }
        self.body = [self._copy(node) for node in self.nodes]

    def give(self, value: ir.Value) -> ir.Value:
        """What the body makes, `value`, for all images or over all of them."""
        node = value.producer()
        assert node is not None
        graph = self.batches.graph
        if node not in self.batches.crossing:
            stacked = self._stack(value, self.batches.one_image(value))
            return self.outside.op("Squeeze", [stacked, constant(graph, [1])])
        shape = list(self.batches.sizes[value].shape)
        if node.op_type == "ReduceSum" and self.batches.sizes[value].bytes >= STACKED_BYTES:
            return self._add_up(value, shape)
        # Each image's part of a sum or mean, and their sum or mean behind the Scan.
        stacked = self._stack(value, shape)
        return self.outside.op(node.op_type, [stacked, constant(graph, [0])], {"keepdims": 0})

    def write(self) -> None:
        """The Scan itself, when all is known that it gives."""
        fed = [self._declared(self.inner[value], value, self.batches.one_image(value)) for value in self.inputs]
        body = ir.Graph(
            [*(state.so_far for state in self.states), *fed],
            [*(state.total for state in self.states), *(output.inner for output in self.outputs)],
            nodes=self.body,
            name=f"image.{self.level}",
        )
        self.outside.op_multi_out(
            "Scan",
            [*(state.start for state in self.states), *(self._fed(value) for value in self.inputs)],
            {"body": body, "num_scan_inputs": len(self.inputs)},
            outputs=[*(state.result for state in self.states), *(output.stacked for output in self.outputs)],
            name=f"images.{self.level}",
        )

    def _copy(self, node: ir.Node) -> ir.Node:
        kind, attributes = node.op_type, tuple(node.attributes.values())
        sums_images = node in self.batches.crossing and whole_numbers(node, 1) == [0]
        if sums_images and not node.attributes.get_int("keepdims", 1):  # of one image: as it is
            kind, attributes = "Squeeze", ()
        inputs = [self.inner.get(value, value) for value in node.inputs]
        outputs = [self.inner[value] for value in node.outputs]
        return ir.Node(node.domain, kind, inputs, attributes, outputs=outputs, name=outputs[0].name)

    def _fed(self, value: ir.Value) -> ir.Value:
        """`value` with an axis that the Scan takes away again: a body sees one image as a batch of one."""
        if value not in self.feeding:
            self.feeding[value] = self.outside.op("Unsqueeze", [value, constant(self.batches.graph, [1])])
        return self.feeding[value]

    def _stack(self, value: ir.Value, shape: list[int]) -> ir.Value:
        output = _Output(self._declared(self.inner[value], value, shape), ir.Value(name=f"{value.name}/stacked"))
        self.outputs.append(output)
        return output.stacked

    def _add_up(self, value: ir.Value, shape: list[int]) -> ir.Value:
        """A sum from image to image."""
        part, result = self.inner[value], ir.Value(name=f"{value.name}/sum")
        so_far = self._declared(ir.Value(name=f"{part.name}.so far"), value, shape)
        total = self._declared(ir.Value(name=f"{part.name}.sum"), value, shape)
        self.body.append(ir.node("Add", [so_far, part], outputs=[total], name=f"sum.{part.name}"))
        self.states.append(_State(self._zeros(shape), so_far, total, result))
        return result

    def _zeros(self, shape: list[int]) -> ir.Value:
        """Zeros that depend on the number of images: onnxruntime does not compute them on loading, to hold on to
        them."""
        graph = self.batches.graph
        count = self.outside.op("Shape", [self.inputs[0]], {"start": 0, "end": 1})
        number = self.outside.op("Cast", [count], {"to": ir.DataType.FLOAT})
        none = self.outside.op("Mul", [number, constant(graph, np.zeros((), np.float32))])
        return self.outside.op("Expand", [none, constant(graph, shape)])

    def _declared(self, declared: ir.Value, value: ir.Value, shape: list[int]) -> ir.Value:
        """`declared`, an input or output of the body, with the type of `value`."""
        declared.type, declared.shape = ir.TensorType(self.batches.types[value]), ir.Shape(shape)
        return declared
