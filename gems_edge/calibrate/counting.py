"""What a probe's graph costs: the work of every op as onnxruntime fuses it, counted as graphs/cost.py counts it."""

from collections.abc import Mapping, Sequence

from gems_edge.calibrate.graph import Graph, Node
from gems_edge.graphs.amounts import bytes_moved, macs_of
from gems_edge.graphs.liveness import TensorSize
from gems_edge.predict.work import FusedOp, Work, add_up, leaves_channel_blocks, work_of


def graph_work(graph: Graph) -> Work:
    """Amounts by term of one run."""
    works: list[Work] = []
    in_blocks: set[str] = set()  # tensors that lie in channel blocks
    read_as: dict[str, str] = {}  # what a product reads transposed → the tensor itself
    for node in graph.nodes:
        inputs = [read_as.get(name, name) for name in node.inputs]
        channel_blocks = not in_blocks.isdisjoint(inputs)
        if node.body is not None:
            works.append(_scan_work(node.body, trips=graph.sizes[node.output].shape[0]))
        elif not node.fused:
            op = _fused_op(node, inputs, graph.sizes, channel_blocks)
            works.append(work_of(op, graph.sizes, graph.constants.keys()))
        elif node.kind == "Transpose":
            read_as[node.output] = inputs[0]
        constant_weight = not graph.constants.keys().isdisjoint(inputs[1:2])
        if leaves_channel_blocks(node.kind, constant_weight, channel_blocks) or node.fused and channel_blocks:
            in_blocks.add(node.output)
    return add_up(works)


def _scan_work(body: Graph, trips: int) -> Work:
    return {term: trips * amount for term, amount in add_up([{"ops": 1}, graph_work(body)]).items()}


def _fused_op(node: Node, inputs: Sequence[str], sizes: Mapping[str, TensorSize], channel_blocks: bool) -> FusedOp:
    weight = inputs[1] if len(inputs) > 1 else ""
    macs = macs_of(node.kind, inputs, node.output, sizes, node.attributes)
    moved = bytes_moved(node.kind, inputs, [node.output], sizes)
    return FusedOp(node.kind, node.attributes, weight, inputs, [node.output], macs, moved, channel_blocks)
