"""The ops that onnxruntime runs of a graph, each with its cost. Needs onnx_ir."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.amounts import bytes_moved
from gems_edge.graphs.liveness import Op, Request, TensorSize, execution_order, peak_bytes, requests
from gems_edge.graphs.ops import leaves_blocks, row_of, row_or_unknown
from gems_edge.graphs.passes.integers import DOMAIN as INTEGER_DOMAIN
from gems_edge.graphs.passes.integers import TWINS, float_operands
from gems_edge.graphs.scans import states_of, trips_of
from gems_edge.graphs.values import attributes, body_of, captured_by, inputs_of, name_of, outputs_of, size_of
from gems_edge.graphs.workspace import workspace_bytes
from gems_edge.predict.work import Call, Tensor, Work, add_up, of_run, work_of


class Executed(NamedTuple):
    """What onnxruntime runs of a graph, and what is known of its tensors; those inside Scans are not among them."""

    ops: list[Op]  # in the order of the file
    sizes: dict[str, TensorSize]
    constants: frozenset[str]
    fed: list[str]
    outputs: list[str]

    def requests(self) -> list[Request]:
        """The allocations of one run in onnxruntime's arena, which holds no fed tensors and no constants."""
        elsewhere = self.constants | set(self.fed)
        return list(requests(execution_order(self.ops), self.sizes, elsewhere, self.outputs))

    def peak_bytes(self) -> int:
        return peak_bytes(execution_order(self.ops), self.sizes, self.fed, self.outputs, self.constants)


def executed(graph: ir.Graph, *, channel_blocks: bool = True) -> Executed:
    """Of a graph, or of a Scan's body, whose shapes are known and through which the passes have gone (passes/).

    `channel_blocks`: as of the Session that runs the graph (device/runtime.py).
    """
    captured = captured_by(graph)
    constants = [value for value in (*graph.initializers.values(), *captured) if value.is_initializer()]
    fed = [*graph.inputs, *(value for value in captured if not value.is_initializer())]
    results = [value for node in graph for value in outputs_of(node)]
    known = (*constants, *fed, *results)
    tensors = {value: _tensor(value) for value in known}
    return Executed(
        _ops(graph, tensors, channel_blocks),
        {name_of(value): size_of(value) for value in known},
        frozenset(map(name_of, constants)),
        list(map(name_of, fed)),
        list(map(name_of, graph.outputs)),
    )


def _ops(graph: ir.Graph, tensors: Mapping[ir.Value, Tensor], channel_blocks: bool) -> list[Op]:
    ops: list[Op] = []
    in_blocks: set[ir.Value] = set()  # maps that lie in blocks of channels
    for node in graph:
        body = body_of(node)
        if body is not None:
            ops.append(_scan(node, body, channel_blocks))
            continue
        reads_blocks = not in_blocks.isdisjoint(inputs_of(node))
        call = _call(node, tensors, channel_blocks, reads_blocks)
        ops.append(_op(node, call))
        constant_weight = any(tensor is not None and tensor.constant for tensor in call.inputs[1:2])
        if leaves_blocks(node.op_type, constant_weight, reads_blocks):
            in_blocks.update(node.outputs)
    return ops


def _call(node: ir.Node, tensors: Mapping[ir.Value, Tensor], channel_blocks: bool, reads_blocks: bool) -> Call:
    """What a node reads and writes. Without channel blocks a convolution's weight is not packed, constant or not."""
    read = [None if value is None else tensors[value] for value in node.inputs]
    if node.op_type == "Conv" and not channel_blocks:
        read[1:2] = [replace(weight, constant=False) for weight in read[1:2] if weight is not None]
    written = tuple(tensors[value] for value in outputs_of(node))
    call = Call(tuple(read), written, attributes(node), channel_blocks=reads_blocks)
    row = row_or_unknown(node.op_type)
    return replace(call, macs=row.macs(call), bytes_moved=bytes_moved(row.moves, call))


def _tensor(value: ir.Value) -> Tensor:
    return Tensor(name_of(value), size_of(value), value.is_initializer())


def _op(node: ir.Node, call: Call) -> Op:
    row = row_or_unknown(node.op_type)
    integer = node.domain == INTEGER_DOMAIN or node.op_type in TWINS
    return Op(
        _kind(node, call),
        tuple("" if tensor is None else tensor.name for tensor in call.inputs),
        tuple(tensor.name for tensor in call.outputs),
        call.macs,
        call.bytes_moved,
        workspace_bytes(node.op_type, call),
        view=row.view,
        in_place=row.in_place,
        work=_integer_work(node, call) if integer and call.bytes_moved else work_of(row.cost, call),
    )


def _kind(node: ir.Node, call: Call) -> str:
    """The op's type, and of convolutions what sets their time."""
    if node.op_type != "Conv":
        return node.op_type
    if call.attributes.get("group", 1) > 1:
        return "Conv.depthwise" if call.weight.shape[1] == 1 else "Conv.grouped"
    return "Conv" if call.weight.constant else "Conv.fed"


def _integer_work(node: ir.Node, call: Call) -> Work:
    """Amounts by term of an integer operation: its float twin's, as int8 times are predicted from float32 ones."""
    read = [_as_float(_tensor(value)) for value in float_operands(node)]
    written = [_as_float(tensor) for tensor in call.outputs]
    moved = sum(tensor.size.bytes for tensor in {*read, *written})
    twin = replace(call, inputs=tuple(read), outputs=tuple(written), bytes_moved=moved)
    return work_of(row_of(TWINS.get(node.op_type, node.op_type)).cost, twin)


def _as_float(tensor: Tensor) -> Tensor:
    return replace(tensor, size=TensorSize(tensor.shape, 4))


def _scan(node: ir.Node, body: ir.Graph, channel_blocks: bool) -> Op:
    """A Scan as one op. Its inputs are views and its outputs are written in place: neither takes memory in the body."""
    inside, trips = executed(body, channel_blocks=channel_blocks), trips_of(node)
    elsewhere = frozenset(inside.fed) | inside.constants | set(inside.outputs)
    trip = requests(execution_order(inside.ops), inside.sizes, elsewhere, inside.outputs)
    parts, result = tuple(inside.ops), name_of(node.outputs[0])
    return Op(
        "Scan",
        tuple(name_of(value) for value in (*inputs_of(node), *captured_by(body))),
        tuple(name_of(value) for value in outputs_of(node)),
        macs=trips * sum(part.macs for part in parts),
        bytes=trips * sum(part.bytes for part in parts),
        # A state is read from one copy and written to another.
        workspace=min(2, trips - 1) * sum(size_of(state).bytes for state in states_of(node)),
        work={
            term: trips * amount for term, amount in add_up([{"ops": 1}, of_run([part.work for part in parts])]).items()
        },
        parts=parts,
        trips=trips,
        trip=tuple((f"{result}/{name}", size) for name, size in trip),
    )
