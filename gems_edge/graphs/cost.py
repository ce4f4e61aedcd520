"""What an ONNX graph costs: exact MACs, bytes moved, peak of activations, constants. Needs onnx (workstation only)."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from gems_edge.errors import UserError
from gems_edge.graphs.amounts import bytes_moved
from gems_edge.graphs.fusion import Group, fused
from gems_edge.graphs.integer_ops import INTEGER_DOMAIN, float_twin, integer_nodes
from gems_edge.graphs.liveness import Op, Request, TensorSize, execution_order, peak_bytes, requests
from gems_edge.graphs.nodes import attributes
from gems_edge.graphs.ops import ROWS, UNKNOWN, row_of
from gems_edge.graphs.scans import scan_body
from gems_edge.graphs.shapes import fix_dims, tensor_sizes
from gems_edge.graphs.unknown import unknown_ops, with_stand_ins
from gems_edge.predict.work import Call, Tensor, add_up, leaves_channel_blocks, work_of

# Elements of the columns that a convolution of larger maps expands at a time (MLAS: stride N × stride K of its matrix
# product).
_COLUMNS_BLOCK = 128 * 128

GraphCost = dict[str, Any]


class Operations(NamedTuple):
    """What onnxruntime runs of a graph with fixed dimensions."""

    ops: list[Op]
    sizes: dict[str, TensorSize]  # of every tensor
    constants: set[str]


def describe(
    model: onnx.ModelProto | Path | str, dims: dict[str, int], *, strict: bool = True, channel_blocks: bool = True
) -> GraphCost:
    """Cost of one run of `model` with its dynamic dimensions as in `dims`, e.g. {"images": 1, "classes": 5}.

    Returns the manifest's GRAPHCOST: dims; macs; bytes (read + written by all ops, after constant folding and with
    Mul/Add/BatchNormalization and an activation folded into their convolution; views cost nothing); peak_bytes
    (activations, fed tensors and graph outputs alive at once, see liveness.py, plus the column buffer of a
    ConvTranspose); constant_bytes (initialisers after folding); work: amounts by term, from which latency.py predicts
    times (work.py); ops: count, macs and bytes by kind.
    A Scan counts as the ops of its body, once for every trip; its peak is that of one trip.
    Kinds are ONNX op types; "Conv.depthwise" and "Conv.grouped" mark groups, "Conv.fed" a convolution whose weight is
    not constant, which onnxruntime cannot pack ahead.
    `channel_blocks`: as of the Session that runs the graph (device/runtime.py). If False, a convolution with a constant
    weight (a frozen layer's in adapt.onnx) costs what one with a fed weight does.
    Raises UserError for an op whose MACs are not counted, or shapes that cannot be known. With strict=False such ops,
    and ops of other domains, are counted in a further entry `unknown` (op → count), and their work is left out.
    """
    model = load_model(model)
    fixed = fix_dims(model, dims)
    unknown = unknown_ops(fixed)
    if strict and unknown:
        raise UserError(f"the graph holds the op {next(iter(unknown))}, whose cost is not counted")
    fixed = with_stand_ins(fixed) if unknown else fixed
    operations = _operations(fixed, channel_blocks)
    return {
        "dims": dict(dims),
        "macs": sum(op.macs for op in operations.ops),
        "bytes": sum(op.bytes for op in operations.ops),
        "peak_bytes": _peak(fixed, operations),
        "constant_bytes": _constant_bytes(model, fixed, operations),
        "work": add_up([op.work for op in operations.ops]),
        **({"unknown": unknown} if unknown else {}),
        "ops": _by_kind(operations.ops),
    }


def _constant_bytes(model: onnx.ModelProto, fixed: onnx.ModelProto, operations: Operations) -> int:
    """Bytes of the initialisers that are left after folding, those that may be fed (the head) at their own size."""
    used = {name for op in operations.ops for name in op.inputs} | {value.name for value in fixed.graph.output}
    folded = sum(operations.sizes[name].bytes for name in operations.constants & used)
    fed = {value.name for value in fixed.graph.input}
    return folded + sum(_stored_bytes(tensor) for tensor in model.graph.initializer if tensor.name in fed)


def _by_kind(ops: list[Op]) -> list[dict[str, Any]]:
    """Count, macs and bytes of each kind of op, those with the most work first."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for op in ops:
        for part in op.parts or (op,):
            for column, number in enumerate((1, part.macs, part.bytes)):
                totals[part.kind][column] += op.trips * number
    order = sorted(totals.items(), key=lambda item: (-item[1][1], -item[1][2], item[0]))
    return [{"kind": kind, "count": count, "macs": macs, "bytes": moved} for kind, (count, macs, moved) in order]


def adapt_peak(model: onnx.ModelProto | Path | str, dims: dict[str, int]) -> dict[str, int]:
    """Peak memory of adapt.onnx as a line in the number of images: {"fixed_bytes", "bytes_per_image"}.

    From the peaks at dims["images"] and at twice as many. The peak is a maximum of lines, so between the two the line
    is never below it.
    """
    model = load_model(model)
    images = dims["images"]
    once, twice = (describe(model, dims | {"images": count})["peak_bytes"] for count in (images, 2 * images))
    slope = math.ceil((twice - once) / images)
    return {"fixed_bytes": max(0, once - slope * images), "bytes_per_image": slope}


class RunRequests(NamedTuple):
    requests: list[Request]  # in order
    outputs: list[str]  # of the graph: given back last


def run_requests(model: onnx.ModelProto | Path | str, dims: dict[str, int]) -> RunRequests:
    """The allocations of one run of `model` in onnxruntime's arena, which holds no fed tensors and no constants."""
    fixed = fix_dims(load_model(model), dims)
    ops, sizes, constants = _operations(fixed)
    outputs = [value.name for value in fixed.graph.output]
    elsewhere = frozenset(constants) | {value.name for value in fixed.graph.input}
    return RunRequests(list(requests(execution_order(ops), sizes, elsewhere, outputs)), outputs)


def _operations(fixed: onnx.ModelProto, channel_blocks: bool = True) -> Operations:
    sizes = tensor_sizes(fixed)
    constants, nodes = _fold_constants(fixed.graph)
    scope = _Scope(fixed.graph, sizes, constants, channel_blocks)
    return Operations(_ops(nodes, scope, [value.name for value in fixed.graph.output]), sizes, constants)


def load_model(model: onnx.ModelProto | Path | str) -> onnx.ModelProto:
    """The model in a file, without its external data; a ModelProto is returned as it is."""
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load(str(model), load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{model} does not exist") from None
    except Exception as error:
        raise UserError(f"{model} is not a readable ONNX file ({type(error).__name__})") from None


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    item_bytes: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    elements: int = math.prod(tensor.dims)
    return elements * item_bytes


def _fold_constants(graph: onnx.GraphProto) -> tuple[set[str], list[onnx.NodeProto]]:
    """The constant tensors, and the nodes that are left once everything computable from them is computed."""
    constants = {tensor.name for tensor in graph.initializer}
    left = []
    for node in integer_nodes(graph):
        if node.op_type == "Constant" or (node.input and all(name in constants for name in node.input if name)):
            constants.update(node.output)
        else:
            left.append(node)
    return constants, left


@dataclass(frozen=True)
class _Scope:
    """A graph, or the body of a Scan, and what is known of its tensors."""

    graph: onnx.GraphProto
    sizes: dict[str, TensorSize]
    constants: set[str]
    channel_blocks: bool  # as of describe


def _ops(nodes: list[onnx.NodeProto], scope: _Scope, outputs: list[str]) -> list[Op]:
    ops: list[Op] = []
    in_blocks: set[str] = set()  # maps that lie in blocks of channels
    for group in fused(nodes, scope.sizes, scope.constants, outputs):
        kind = group.node.op_type
        if kind == "Scan":
            ops.append(_scan(group.node, scope))
            continue
        packed = scope.constants
        if kind == "Conv" and not scope.channel_blocks:
            packed = scope.constants.difference(group.inputs[1:2])
        reads_blocks = not in_blocks.isdisjoint(group.inputs)
        ops.append(_op(group, scope.sizes, packed, reads_blocks))
        constant_weight = not scope.constants.isdisjoint(group.inputs[1:2])
        if scope.channel_blocks and leaves_channel_blocks(kind, constant_weight, reads_blocks):
            in_blocks.update(group.outputs)
    return ops


def _scan(node: onnx.NodeProto, scope: _Scope) -> Op:
    """A Scan as one op. Its inputs are views and its outputs are written in place: neither takes memory in the body."""
    body, captured, trips = scan_body(node, scope.sizes, scope.graph)
    constants, nodes = _fold_constants(body.graph)
    constants |= scope.constants & set(captured)
    inner = _Scope(body.graph, tensor_sizes(body), constants, scope.channel_blocks)
    outputs = [value.name for value in body.graph.output]
    parts = _ops(nodes, inner, outputs)
    fed = frozenset(value.name for value in body.graph.input)
    states = sum(scope.sizes[name].bytes for name in node.input[: -attributes(node)["num_scan_inputs"]])
    trip = requests(execution_order(parts), inner.sizes, fed | constants | set(outputs), outputs)
    return Op(
        "Scan",
        (*node.input, *captured),
        tuple(node.output),
        macs=trips * sum(part.macs for part in parts),
        bytes=trips * sum(part.bytes for part in parts),
        workspace=min(2, trips - 1) * states,  # a state is read from one copy and written to another
        work={term: trips * amount for term, amount in add_up([{"ops": 1}, *(part.work for part in parts)]).items()},
        parts=tuple(parts),
        trips=trips,
        trip=tuple((f"{node.output[0]}/{name}", size) for name, size in trip),
    )


def _op(group: Group, sizes: dict[str, TensorSize], constants: set[str], reads_blocks: bool) -> Op:
    node, inputs, outputs = group.node, tuple(group.inputs), tuple(group.outputs)
    row = ROWS.get(node.op_type, UNKNOWN)
    call = _call(node, inputs, outputs, sizes, constants)
    moved = bytes_moved(row.moves, call)
    # A product's matrices as the node reads them: a group may read them transposed.
    macs = row.macs(_call(node, node.input, node.output, sizes, constants))
    call = replace(call, macs=macs, bytes_moved=moved, channel_blocks=reads_blocks)
    return Op(
        _conv_kind(node, sizes, constants) if node.op_type == "Conv" else node.op_type,
        inputs,
        outputs,
        macs,
        moved,
        _workspace(group, sizes),
        view=row.view,
        in_place=row.in_place,
        work=_integer_work(group, call) if node.domain == INTEGER_DOMAIN and moved else work_of(row.cost, call),
    )


def _call(
    node: onnx.NodeProto,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: Mapping[str, TensorSize],
    constants: Collection[str],
) -> Call:
    tensors = [Tensor(name, sizes[name], name in constants) if name else None for name in (*inputs, *outputs)]
    read, written = tensors[: len(inputs)], tensors[len(inputs) :]
    return Call(tuple(read), tuple(tensor for tensor in written if tensor), attributes(node))


def _integer_work(group: Group, call: Call) -> dict[str, float]:
    """Amounts by term of an integer operation: its float twin's, as int8 times are predicted from float32 ones."""
    kind, names = float_twin(group.node)
    read = {tensor.name: tensor for tensor in call.read}
    floats = [
        replace(tensor, size=TensorSize(tensor.shape, 4)) for tensor in (*map(read.get, names), *call.outputs) if tensor
    ]
    inputs, outputs = tuple(floats[: len(names)]), tuple(floats[len(names) :])
    moved = sum(tensor.size.bytes for tensor in set(floats))
    return work_of(row_of(kind).cost, replace(call, inputs=inputs, outputs=outputs, bytes_moved=moved))


def _workspace(group: Group, sizes: dict[str, TensorSize]) -> int:
    """Bytes of scratch memory while a convolution runs."""
    node = group.node
    if node.op_type == "Conv":
        return _columns_bytes(sizes[group.inputs[1]].shape, sizes[group.outputs[0]], node)
    if node.op_type == "ConvTranspose":
        # onnxruntime multiplies one image at a time into a [Cout·kh·kw, H·W] column buffer, then scatters it
        image, weight = sizes[group.inputs[0]], sizes[group.inputs[1]]
        return math.prod(weight.shape[1:]) * math.prod(image.shape[2:]) * image.item_bytes
    return 0


def _columns_bytes(weight: tuple[int, ...], output: TensorSize, node: onnx.NodeProto) -> int:
    """The column buffer of a convolution that onnxruntime multiplies out: of all places where there are fewer of them
    than filters, otherwise of some at a time (a block of MLAS's matrix product, one thread)."""
    groups = attributes(node).get("group", 1)
    places, terms = math.prod(output.shape[2:]), math.prod(weight[1:])
    if math.prod(weight[2:]) == 1:  # 1×1 (with stride 1; ours have no other) reads its input as it is
        return 0
    return (places * terms if weight[0] // groups > places else _COLUMNS_BLOCK) * output.item_bytes


def _conv_kind(node: onnx.NodeProto, sizes: dict[str, TensorSize], constants: set[str]) -> str:
    groups = attributes(node).get("group", 1)
    if groups > 1:
        return "Conv.depthwise" if sizes[node.input[1]].shape[1] == 1 else "Conv.grouped"
    return "Conv" if node.input[1] in constants else "Conv.fed"


def _peak(model: onnx.ModelProto, operations: Operations) -> int:
    return peak_bytes(
        execution_order(operations.ops),
        operations.sizes,
        [value.name for value in model.graph.input],
        [value.name for value in model.graph.output],
        frozenset(operations.constants),
    )
