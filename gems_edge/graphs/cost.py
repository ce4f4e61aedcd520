"""What an ONNX graph costs: exact MACs, bytes moved, peak of activations, constants. Needs onnx (workstation only)."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from gems_edge.errors import UserError
from gems_edge.graphs.executed import Executed, executed
from gems_edge.graphs.liveness import Op, Request
from gems_edge.graphs.passes.optimised import optimise
from gems_edge.graphs.shapes import fix_dims, sized
from gems_edge.graphs.unknown import unknown_ops, with_stand_ins
from gems_edge.predict.work import of_run

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
    run = _executed(fixed, channel_blocks)
    return {
        "dims": dict(dims),
        "macs": sum(op.macs for op in run.ops),
        "bytes": sum(op.bytes for op in run.ops),
        "peak_bytes": run.peak_bytes(),
        "constant_bytes": _constant_bytes(model, run),
        "work": of_run([op.work for op in run.ops]),
        **({"unknown": unknown} if unknown else {}),
        "ops": _by_kind(run.ops),
    }


def _constant_bytes(model: onnx.ModelProto, run: Executed) -> int:
    """Bytes of the initialisers that are left after folding, those that may be fed (the head) at their own size."""
    used = {name for op in run.ops for name in op.inputs}.union(run.outputs)
    folded = sum(run.sizes[name].bytes for name in run.constants & used)
    fed = {value.name for value in model.graph.input}
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
    run = _executed(fix_dims(load_model(model), dims))
    return RunRequests(run.requests(), run.outputs)


def _executed(fixed: onnx.ModelProto, channel_blocks: bool = True) -> Executed:
    model = sized(fixed)
    optimise(model)
    return executed(model.graph, channel_blocks=channel_blocks)


def load_model(model: onnx.ModelProto | Path | str) -> onnx.ModelProto:
    """The model in a file, without its external data; a ModelProto is returned as it is."""
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        loaded = onnx.load(str(model), load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{model} does not exist") from None
    except Exception as error:
        raise UserError(f"{model} is not a readable ONNX file ({type(error).__name__})") from None
    if not loaded.graph.node:  # an empty file is a model to protobuf
        raise UserError(f"{model} holds no graph; name a whole ONNX file")
    return loaded


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    item_bytes: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    elements: int = math.prod(tensor.dims)
    return elements * item_bytes
