"""What a probe's graph costs: the work of every op as onnxruntime fuses it, counted as graphs/cost.py counts it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gems_edge.calibrate.graph import Graph, Node
from gems_edge.graphs.amounts import bytes_moved
from gems_edge.graphs.ops import leaves_blocks, row_of
from gems_edge.predict.work import Call, Tensor, Work, add_up, of_run, work_of


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
            works.append(_op_work(_reading(node, read_as), inputs, graph, channel_blocks))
        elif node.kind == "Transpose":
            read_as[node.output] = inputs[0]
        constant_weight = not graph.constants.keys().isdisjoint(inputs[1:2])
        if leaves_blocks(node.kind, constant_weight, channel_blocks) or node.fused and channel_blocks:
            in_blocks.add(node.output)
    return of_run(works)


def _reading(node: Node, read_as: Mapping[str, str]) -> Node:
    """A product with what graphs/passes/turned_matrices.py tells of the matrices that it reads as they lie."""
    turned = {flag: 1 for flag, name in zip(("transA", "transB"), node.inputs) if name in read_as}
    return replace(node, attributes={**node.attributes, **turned}) if turned else node


def _scan_work(body: Graph, trips: int) -> Work:
    return {term: trips * amount for term, amount in add_up([{"ops": 1}, graph_work(body)]).items()}


def _op_work(node: Node, inputs: Sequence[str], graph: Graph, channel_blocks: bool) -> Work:
    row = row_of(node.kind)
    read = [Tensor(name, graph.sizes[name], name in graph.constants) if name else None for name in inputs]
    output = Tensor(node.output, graph.sizes[node.output])
    call = Call(tuple(read), (output,), node.attributes, channel_blocks=channel_blocks)
    return work_of(row.cost, replace(call, macs=row.macs(call), bytes_moved=bytes_moved(row.moves, call)))
