"""Which nodes onnxruntime runs as one op: a rule a function, and what a group of nodes reads and writes. Needs onnx."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from gems_edge.graphs.liveness import TensorSize
from gems_edge.graphs.nodes import Links, attributes
from gems_edge.graphs.ops import ROWS, UNKNOWN, Row

# What makes one op of a sigmoid: x·sigmoid(x) (QuickGeluFusion).
GATES = frozenset({"Mul"})
# What is left out where it only renames.
COPIES = frozenset({"Identity"})
# What reads a transposed matrix as it lies.
PRODUCTS = frozenset({"MatMul"})


@dataclass
class Group:
    """Nodes that run as one op: the first of them, and what they read and write together."""

    node: onnx.NodeProto
    inputs: list[str]
    outputs: list[str]


@dataclass
class _Graph:
    links: Links
    sizes: Mapping[str, TensorSize]
    constants: Collection[str]
    absorbed: set[int] = field(default_factory=set)  # ids of nodes that are part of an earlier one's group
    transposed: dict[str, str] = field(default_factory=dict)  # what a product reads transposed → the tensor itself

    def follower(self, group: Group, fits: Callable[[str, Row], bool]) -> onnx.NodeProto | None:
        """The node that alone reads what the group writes, if its kind and row are such."""
        node = self.links.only_consumer(group.outputs[0])
        return node if node is not None and fits(node.op_type, ROWS.get(node.op_type, UNKNOWN)) else None

    def absorb(self, group: Group, follower: onnx.NodeProto) -> None:
        self.absorbed.add(id(follower))
        group.outputs = [follower.output[0]]


def fused(
    nodes: Iterable[onnx.NodeProto], sizes: Mapping[str, TensorSize], constants: Collection[str], outputs: Iterable[str]
) -> list[Group]:
    """The nodes of a graph as onnxruntime groups them, in their order."""
    nodes = list(nodes)
    graph = _Graph(Links.of(nodes, outputs), sizes, constants)
    groups = []
    for node in nodes:
        if id(node) in graph.absorbed or _is_read_transposed(graph, node):
            continue
        group = Group(node, [graph.transposed.get(name, name) for name in node.input], list(node.output))
        for rule in RULES if node.op_type != "Scan" else ():
            rule(graph, group)
        groups.append(group)
    return groups


def _is_read_transposed(graph: _Graph, node: onnx.NodeProto) -> bool:
    """A Transpose of matrices that a product does on its own (MatmulTransposeFusion)."""
    if node.op_type != "Transpose" or not _swaps_matrices(node):
        return False
    reader = graph.links.only_consumer(node.output[0])
    if reader is None or reader.op_type not in PRODUCTS:
        return False
    graph.transposed[node.output[0]] = node.input[0]
    return True


def _fold_into_convolution(graph: _Graph, group: Group) -> None:
    """Scales and shifts of a channel go into a constant weight, and into a bias."""
    if group.node.op_type != "Conv" or group.node.input[1] not in graph.constants:
        return
    channels = graph.sizes[group.outputs[0]].shape[1]
    while follower := graph.follower(group, lambda _, row: row.folds):
        others = [name for name in follower.input if name != group.outputs[0]]
        if not all(
            name in graph.constants and _per_channel(follower, graph.sizes[name].shape, channels) for name in others
        ):
            return
        if follower.op_type != "Mul" and len(group.inputs) == 2:
            group.inputs.append(others[-1])  # the bias that the fused convolution gets: one number a channel
        graph.absorb(group, follower)


def _append_activation(graph: _Graph, group: Group) -> None:
    if group.node.op_type == "Conv" and (follower := graph.follower(group, lambda _, row: row.activation)):
        graph.absorb(group, follower)


def _write_graph_output(graph: _Graph, group: Group) -> None:
    """What makes a graph output writes it itself (EliminateIdentity)."""
    follower = graph.follower(group, lambda kind, _: kind in COPIES)
    if follower is not None and follower.output[0] in graph.links.outputs and len(group.outputs) == 1:
        graph.absorb(group, follower)


def _gate(graph: _Graph, group: Group) -> None:
    """x·sigmoid(x) as one op."""
    if group.node.op_type == "Sigmoid" and (follower := graph.follower(group, lambda kind, _: kind in GATES)):
        if group.inputs[0] in follower.input:
            graph.absorb(group, follower)


RULES = (_fold_into_convolution, _append_activation, _write_graph_output, _gate)


def _swaps_matrices(node: onnx.NodeProto) -> bool:
    """Whether a Transpose exchanges the last two axes and no others."""
    perm = list(attributes(node).get("perm", ()))
    return len(perm) >= 2 and perm == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


def _per_channel(follower: onnx.NodeProto, shape: tuple[int, ...], channels: int) -> bool:
    """Whether a constant of this shape scales or shifts an [N, C, H, W] map channel by channel."""
    if follower.op_type == "BatchNormalization":
        return True
    aligned = (1,) * (4 - len(shape)) + shape
    return len(aligned) == 4 and aligned[0] == aligned[2] == aligned[3] == 1 and aligned[1] in (1, channels)
