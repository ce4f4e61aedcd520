"""What an ONNX graph costs: exact MACs, bytes moved, peak of activations, constants. Needs onnx (workstation only)."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx

from gems_edge.errors import UserError
from gems_edge.graphs.liveness import ALIASES, Op, Request, TensorSize, execution_order, peak_bytes, requests
from gems_edge.graphs.quantised import DOMAIN as QUANTISED
from gems_edge.graphs.quantised import float_twin, integer_nodes
from gems_edge.graphs.scans import scan_body
from gems_edge.graphs.shapes import fix_dims, tensor_sizes
from gems_edge.graphs.unknown import unknown_ops, with_stand_ins
from gems_edge.predict.work import add_up, leaves_blocked, work_of

# What onnxruntime folds into a convolution whose weight is constant (ConvMul, ConvAdd and ConvBN fusion) …
FOLDED = frozenset({"Mul", "Add", "BatchNormalization"})
# … and what it appends to any convolution (FusedConv).
ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh"})
# … and what makes one op of a sigmoid: x·sigmoid(x) (QuickGeluFusion).
GATES = frozenset({"Mul"})
# What is left out where it only renames.
COPIES = frozenset({"Identity"})
# What reads a transposed matrix as it lies.
PRODUCTS = frozenset({"MatMul"})
# Ops that multiply and that are not counted here: refused, so that no figure is silently too small.
UNCOUNTED = frozenset("Einsum LSTM GRU RNN DeformConv Attention If Loop".split())
# Ops that read no more than they write, however large their input is.
READS_ITS_OUTPUT = frozenset({"Slice", "Gather"})

# Elements of the columns that a convolution of larger maps expands at a time (MLAS: stride N × stride K of its matrix product).
_COLUMNS_BLOCK = 128 * 128
# Where a convolution's weight stands among its inputs.
_WEIGHT_AT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}

GraphCost = dict[str, Any]


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
    `channel_blocks`: as the session that runs it is told (device/runtime.py). Without, a convolution whose weight is constant runs
    as one whose weight is fed: that of a frozen layer in adapt.onnx.
    Raises UserError for an op whose MACs are not counted, or shapes that cannot be known. With strict=False such ops,
    and ops of other domains, are counted in a further entry `unknown` (op → count), and their work is left out.
    """
    fixed = fix_dims(_loaded(model), dims)
    unknown = unknown_ops(fixed, UNCOUNTED)
    if strict and unknown:
        raise UserError(f"the graph holds the op {next(iter(unknown))}, whose cost is not counted")
    fixed = with_stand_ins(fixed) if unknown else fixed
    ops, sizes, constants = _operations(fixed, channel_blocks)
    table: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for op in ops:
        for part in op.parts or (op,):
            for column, number in enumerate((1, part.macs, part.bytes)):
                table[part.kind][column] += op.trips * number
    used = {name for op in ops for name in op.inputs} | {value.name for value in fixed.graph.output}
    stored = sum(sizes[name].bytes for name in constants & used)
    given = {value.name for value in fixed.graph.input}
    stored += sum(_stored_bytes(tensor) for tensor in _loaded(model).graph.initializer if tensor.name in given)
    return {
        "dims": dict(dims),
        "macs": sum(op.macs for op in ops),
        "bytes": sum(op.bytes for op in ops),
        "peak_bytes": _peak(fixed, ops, sizes, constants),
        "constant_bytes": stored,
        "work": add_up([op.work for op in ops]),
        **({"unknown": unknown} if unknown else {}),
        "ops": [
            {"kind": kind, "count": count, "macs": macs, "bytes": moved}
            for kind, (count, macs, moved) in sorted(
                table.items(), key=lambda item: (-item[1][1], -item[1][2], item[0])
            )
        ],
    }


def adapt_peak(model: onnx.ModelProto | Path | str, dims: dict[str, int]) -> dict[str, int]:
    """Peak memory of adapt.onnx as a line in the number of images: {"fixed_bytes", "bytes_per_image"}.

    From the peaks at dims["images"] and at twice as many. The peak is a maximum of lines, so between the two the line
    is never below it.
    """
    model = _loaded(model)
    images = dims["images"]
    once, twice = (describe(model, dims | {"images": count})["peak_bytes"] for count in (images, 2 * images))
    slope = math.ceil((twice - once) / images)
    return {"fixed_bytes": max(0, once - slope * images), "bytes_per_image": slope}


def run_requests(model: onnx.ModelProto | Path | str, dims: dict[str, int]) -> tuple[list[Request], list[str]]:
    """What one run of `model` asks of onnxruntime's allocator, in order, and the names of the outputs, which are given
    back last. Fed tensors and constants are not from there."""
    fixed = fix_dims(_loaded(model), dims)
    ops, sizes, constants = _operations(fixed)
    outputs = [value.name for value in fixed.graph.output]
    elsewhere = frozenset(constants) | {value.name for value in fixed.graph.input}
    return list(requests(execution_order(ops), sizes, elsewhere, outputs)), outputs


def _operations(
    fixed: onnx.ModelProto, channel_blocks: bool = True
) -> tuple[list[Op], dict[str, TensorSize], set[str]]:
    """The ops that onnxruntime runs, the size of every tensor, and which are constants."""
    sizes = tensor_sizes(fixed)
    constants, nodes = _fold_constants(fixed.graph)
    ops = _fuse(nodes, sizes, constants, {value.name for value in fixed.graph.output}, fixed.graph, channel_blocks)
    return ops, sizes, constants


def _loaded(model: onnx.ModelProto | Path | str) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load(str(model), load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{model} does not exist") from None
    except Exception as error:
        raise UserError(f"{model} is not a readable ONNX file ({type(error).__name__})") from None


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


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


def _fuse(
    nodes: list[onnx.NodeProto],
    sizes: dict[str, TensorSize],
    constants: set[str],
    outputs: set[str],
    graph: onnx.GraphProto,
    packs: bool,
) -> list[Op]:
    consumers = defaultdict(list)
    for node in nodes:
        for name in node.input:
            consumers[name].append(node)
    gone: set[int] = set()
    blocked: set[str] = set()
    read_as: dict[str, str] = {}  # what a product reads transposed (MatmulTransposeFusion) → the tensor itself

    def only_consumer(name: str, kinds: frozenset[str]) -> onnx.NodeProto | None:
        users = consumers[name]
        return users[0] if len(users) == 1 and name not in outputs and users[0].op_type in kinds else None

    ops = []
    for node in nodes:
        if id(node) in gone:
            continue
        if node.op_type == "Scan":
            ops.append(_scan(node, sizes, constants, graph, packs))
            continue
        if node.op_type == "Transpose" and _swaps_matrices(node) and only_consumer(node.output[0], PRODUCTS):
            read_as[node.output[0]] = node.input[0]
            continue
        inputs, outs = [read_as.get(name, name) for name in node.input], list(node.output)
        if node.op_type == "Conv":
            channels = sizes[outs[0]].shape[1]
            while node.input[1] in constants and (follower := only_consumer(outs[0], FOLDED)):
                others = [name for name in follower.input if name != outs[0]]
                if not all(
                    name in constants and _per_channel(follower, sizes[name].shape, channels) for name in others
                ):
                    break
                if follower.op_type != "Mul" and len(inputs) == 2:
                    inputs.append(others[-1])  # the bias that the fused convolution gets: one number a channel
                gone.add(id(follower))
                outs = [follower.output[0]]
            if follower := only_consumer(outs[0], ACTIVATIONS):
                gone.add(id(follower))
                outs = [follower.output[0]]
        if (follower := only_consumer(outs[0], COPIES)) and follower.output[0] in outputs and len(outs) == 1:
            gone.add(id(follower))  # what makes a graph output writes it itself (EliminateIdentity)
            outs = [follower.output[0]]
        if node.op_type == "Sigmoid" and (follower := only_consumer(outs[0], GATES)) and inputs[0] in follower.input:
            gone.add(id(follower))
            outs = [follower.output[0]]
        known = constants if packs or node.op_type != "Conv" else constants.difference(inputs[1:2])
        ops.append(_op(node, tuple(inputs), tuple(outs), sizes, known, blocked))
        if packs and leaves_blocked(
            node.op_type, not constants.isdisjoint(inputs[1:2]), not blocked.isdisjoint(inputs)
        ):
            blocked.update(outs)
    return ops


def _scan(
    node: onnx.NodeProto, sizes: dict[str, TensorSize], constants: set[str], graph: onnx.GraphProto, packs: bool
) -> Op:
    """A Scan as one op. What it is fed are views, what it gives is written in place: neither takes room in its body."""
    body, captured, trips = scan_body(node, sizes, graph)
    inner = tensor_sizes(body)
    folded, nodes = _fold_constants(body.graph)
    folded |= constants & set(captured)
    given = [value.name for value in body.graph.output]
    parts = _fuse(nodes, inner, folded, set(given), body.graph, packs)
    fed = frozenset(value.name for value in body.graph.input)
    scanned = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
    states = sum(sizes[name].bytes for name in node.input[:-scanned])
    trip = requests(execution_order(parts), inner, fed | folded | set(given), given)
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


def _swaps_matrices(node: onnx.NodeProto) -> bool:
    """Whether a Transpose exchanges the last two axes and no others."""
    perm = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])
    return len(perm) >= 2 and perm == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


def _per_channel(follower: onnx.NodeProto, shape: tuple[int, ...], channels: int) -> bool:
    """Whether a constant of this shape scales or shifts an [N, C, H, W] map channel by channel."""
    if follower.op_type == "BatchNormalization":
        return True
    aligned = (1,) * (4 - len(shape)) + shape
    return len(aligned) == 4 and aligned[0] == aligned[2] == aligned[3] == 1 and aligned[1] in (1, channels)


def _op(
    node: onnx.NodeProto,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    sizes: dict[str, TensorSize],
    constants: set[str],
    blocked: set[str],
) -> Op:
    written = sum(sizes[name].bytes for name in outputs if name)
    read = sum(sizes[name].bytes for name in set(inputs) if name)
    moved = read + written
    if node.op_type in ALIASES or node.op_type == "Shape":
        moved = 0
    elif node.op_type in READS_ITS_OUTPUT:
        moved = min(moved, 2 * written)
    kind, workspace = node.op_type, 0
    if kind == "Conv":
        kind = _conv_kind(node, sizes, constants)
        workspace = _columns_bytes(sizes[inputs[1]].shape, sizes[outputs[0]], node)
    if kind == "ConvTranspose":
        # onnxruntime multiplies one image at a time into a [Cout·kh·kw, H·W] column buffer, then scatters it
        image, weight = sizes[inputs[0]], sizes[inputs[1]]
        workspace = math.prod(weight.shape[1:]) * math.prod(image.shape[2:]) * image.item_bytes
    macs = _macs(node, sizes)
    work = _work(node, inputs, outputs, sizes, constants, macs, moved, not blocked.isdisjoint(inputs))
    return Op(kind, inputs, outputs, macs, moved, workspace, work)


def _work(
    node: onnx.NodeProto, inputs, outputs, sizes, constants, macs: int, moved: int, blocked: bool
) -> dict[str, float]:
    """Amounts by term; those of an operation on integers are the float operation's, whose times int8's are told by."""
    attributes = {item.name: list(item.ints) or item.i for item in node.attribute}
    weight = node.input[1] if len(node.input) > 1 else ""
    if node.domain != QUANTISED or not moved:
        return work_of(node.op_type, attributes, weight, inputs, outputs, sizes, constants, macs, moved, blocked)
    kind, tensors = float_twin(node)
    floats = {name: TensorSize(sizes[name].shape, 4) for name in (*tensors, *outputs)}
    moved = sum(size.bytes for size in floats.values())
    weight = tensors[1] if len(tensors) > 1 else ""
    return work_of(kind, attributes, weight, tensors, outputs, floats, constants, macs, moved, blocked)


def _columns_bytes(weight: tuple[int, ...], output: TensorSize, node: onnx.NodeProto) -> int:
    """The column buffer of a convolution that onnxruntime multiplies out: of all places where there are fewer of them than
    filters, otherwise of some at a time (a block of MLAS's matrix product, one thread)."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    places, terms = math.prod(output.shape[2:]), math.prod(weight[1:])
    if math.prod(weight[2:]) == 1:  # 1×1 (with stride 1; ours have no other) reads its input as it is
        return 0
    return (places * terms if weight[0] // groups > places else _COLUMNS_BLOCK) * output.item_bytes


def _conv_kind(node: onnx.NodeProto, sizes: dict[str, TensorSize], constants: set[str]) -> str:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    if groups > 1:
        return "Conv.depthwise" if sizes[node.input[1]].shape[1] == 1 else "Conv.grouped"
    return "Conv" if node.input[1] in constants else "Conv.fed"


def _macs(node: onnx.NodeProto, sizes: dict[str, TensorSize]) -> int:
    """Multiply-accumulates of one node, padding included; elementwise work and pooling count none.

    Conv: every output element reads Cin/groups·kh·kw weights. ConvTranspose: every input element writes
    Cout/groups·kh·kw products.
    """
    first = sizes[node.input[0]] if node.input and node.input[0] else None
    if node.op_type in _WEIGHT_AT:
        return sizes[node.output[0]].elements * math.prod(sizes[node.input[_WEIGHT_AT[node.op_type]]].shape[1:])
    if node.op_type == "ConvTranspose":
        return first.elements * math.prod(sizes[node.input[1]].shape[1:])
    if node.op_type in ("MatMul", "QLinearMatMul", "MatMulInteger"):
        return sizes[node.output[0]].elements * first.shape[-1]
    if node.op_type in ("Gemm", "QGemm"):
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transA"), 0)
        return sizes[node.output[0]].elements * first.shape[0 if transposed else 1]
    return 0


def _peak(model: onnx.ModelProto, ops: list[Op], sizes: dict[str, TensorSize], constants: set[str]) -> int:
    graph = model.graph
    return peak_bytes(
        execution_order(ops),
        sizes,
        [value.name for value in graph.input],
        [value.name for value in graph.output],
        frozenset(constants),
    )
