"""The work that sets a graph's running time, in terms that each have one rate on a board. Plain Python.

Every op gives amounts of one or more terms; the amounts of a graph add up (`GRAPHCOST["work"]`), and a time is the sum
of amounts times the board's rates. Every amount grows with channels, pixels and images, so a pruned network is never
predicted to be slower than the network it comes from. Units: MACs, elements of 4 bytes (maps, weights), ops.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

# Terms behind which there are published measurements: conv1x1 also takes further rows of a Gemm; conv3x3 has stride 1
# and no dilation (ncnn runs it by Winograd's method); conv is every other kernel, grouped ones included; maps are
# elements that convolutions read and write, weights the elements of their weights; a Gemm's first row, or a convolution
# on a 1×1 map, takes as long as its weights take to arrive. No term depends on a number of channels being large or
# small: an op would change its rate where pruning crosses that number.
MEASURED_TERMS = (
    "conv1x1", "conv3x3", "conv", "depthwise", "conv_maps", "conv_weights", "conv3x3_maps", "conv3x3_weights",
    "gemm_weights", "elementwise", "ops",
)  # fmt: skip
# Terms of gradient steps, which nobody has published times of, as onnxruntime's kernels spend them.
# - fed, matmul, transposed: MACs of convolutions whose weights are not constant, of products of two computed tensors,
#   and of transposed convolutions; columns: elements that the first lay out for a matrix product; matmul_maps: elements
#   that the second read and write
# - rows: stretches of memory that Slice, Pad, Gather, Transpose and Concat copy one by one; selected: elements of
#   Where; resized: elements that Resize writes; sums: results of reductions; windows, byte_windows: elements in the
#   windows of maximum pools, of floats that no convolution left in channel blocks and of bytes
# - views: ops that only rename; setups: ops that work out shapes and places anew at every run before they begin
# - far: elements that ops other than convolutions and products move beyond FAR_BYTES
DERIVED_TERMS = (
    "fed", "columns", "matmul", "matmul_maps", "transposed", "rows", "selected", "resized", "sums", "windows",
    "byte_windows", "views", "setups", "far",
)  # fmt: skip
TERMS = MEASURED_TERMS + DERIVED_TERMS

REDUCTIONS = frozenset({"ReduceSum", "ReduceMean", "ReduceMax"})
SETUPS = REDUCTIONS | {"Where", "Resize", "Slice", "Pad", "Concat", "Transpose", "Expand"}
# An op that moves more than this does not find its maps in a core's cache.
FAR_BYTES = 1 << 20
# A Slice with all of these goes in steps other than 1: every element for itself.
SLICE_INPUTS = ("data", "starts", "ends", "axes", "steps")
# A Transpose that exchanges a matrix's axes goes in blocks: so many elements take as long as one stretch (0.6 to 1.5 ns
# each on x86 for matrices of 1,000 to 2 million elements, onnxruntime 1.31.1).
MATRIX_STRETCH = 6
# onnxruntime's Where makes two tensors on its way: it moves so many times what it reads and writes.
WHERE_MOVES = 26 / 9
# A power and a window per element: what GoogLeNet's and CaffeNet's rows ask for, beside an addition's.
LRN_ELEMENTS = 20

Work = dict[str, float]  # amounts by term


class Size(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def elements(self) -> int: ...

    @property
    def bytes(self) -> int: ...


@dataclass(frozen=True)
class FusedOp:
    """One op as onnxruntime runs it, after fusion; tensors by name."""

    kind: str  # ONNX op type
    attributes: Mapping[str, Any]  # of the node, e.g. strides, dilations, group
    weight: str  # the second input of a convolution or product; "" if there is none
    inputs: Sequence[str]
    outputs: Sequence[str]
    macs: int
    bytes_moved: int  # as in GRAPHCOST: 0 for views
    channel_blocks: bool = False  # its input lies in channel blocks (see leaves_channel_blocks)


def work_of(op: FusedOp, sizes: Mapping[str, Size], constants: Set[str]) -> Work:
    """Amounts by term of one op; views cost nothing but their call."""
    if not op.bytes_moved:
        return {"views": 1}
    maps = sum(sizes[name].elements for name in {*op.inputs, *op.outputs} if name and name not in constants)
    output = sizes[op.outputs[0]]
    if op.kind == "Conv":
        if op.weight not in constants:
            return {"ops": 1} | _fed_convolution(sizes[op.weight], op.macs)
        return {"ops": 1} | _convolution(op, sizes[op.weight], output, maps)
    if op.kind == "ConvTranspose":
        return {"ops": 1, "transposed": op.macs, "conv_maps": maps}
    if op.kind in ("Gemm", "MatMul"):
        stored = sizes[op.weight].elements
        if op.kind == "Gemm" or op.weight in constants and len(sizes[op.weight].shape) == 2:
            return {"ops": 1, "gemm_weights": stored, "conv1x1": max(0, op.macs - stored)}
        return {"ops": 1, "setups": 1, "matmul": op.macs, "matmul_maps": maps}
    call = {"ops": 1, "setups": 1} if op.kind in SETUPS else {"ops": 1}
    return call | _elements(op, [sizes[name] for name in op.inputs if name], output)


def leaves_channel_blocks(kind: str, constant_weight: bool, channel_blocks: bool) -> bool:
    """Whether an op's result lies in channel blocks, as onnxruntime's convolutions and pools exchange it on x86: a pool
    between two of them need not turn its maps round and back. `channel_blocks`: its input does."""
    return kind == "Conv" and constant_weight or kind == "MaxPool" and channel_blocks


def _fed_convolution(weight: Size, macs: int) -> Work:
    return {"setups": 1, "fed": macs, "columns": macs / weight.shape[0] if math.prod(weight.shape[2:]) > 1 else 0}


def _convolution(op: FusedOp, weight: Size, output: Size, maps: int) -> Work:
    _, group_channels, *kernel = weight.shape
    if op.attributes.get("group", 1) > 1 and group_channels == 1:
        return {"depthwise": op.macs}
    if math.prod(output.shape[2:]) == 1:
        return {"gemm_weights": weight.elements, "conv1x1": max(0, op.macs - weight.elements)}
    dense: Work = {"conv_maps": maps, "conv_weights": weight.elements}
    if math.prod(kernel) == 1:
        return dense | {"conv1x1": op.macs}
    steps = {*op.attributes.get("strides", ()), *op.attributes.get("dilations", ())}
    if kernel == [3, 3] and steps <= {1}:
        return {"conv3x3": op.macs, "conv3x3_maps": maps, "conv3x3_weights": weight.elements}
    return dense | {"conv": op.macs}


def _elements(op: FusedOp, inputs: Sequence[Size], output: Size) -> Work:
    """Amounts of an op that multiplies no matrices. Elements are of 4 bytes, but for ops that take as long for any."""
    moved = op.bytes_moved * (WHERE_MOVES if op.kind == "Where" else 1)
    elements, far = op.bytes_moved / 4, {"far": max(0.0, moved - FAR_BYTES) / 4}
    if op.kind == "MaxPool" and not op.channel_blocks:
        windows = output.elements * math.prod(op.attributes["kernel_shape"])
        of_bytes = output.bytes == output.elements
        return far | ({"byte_windows": windows} if of_bytes else {"elementwise": elements, "windows": windows})
    if op.kind == "Resize":
        return far | {"resized": output.elements}
    if op.kind == "Where":
        return far | {"selected": elements}
    if op.kind in REDUCTIONS:
        return far | {"elementwise": elements, "sums": output.elements}
    if op.kind == "LRN":
        return far | {"elementwise": elements * (LRN_ELEMENTS / 2)}
    rows = _rows(op, inputs, output)
    return far | {"elementwise": elements} | ({} if rows is None else {"rows": rows})


def _rows(op: FusedOp, inputs: Sequence[Size], output: Size) -> float | None:
    """Stretches of memory that an op copies one by one; None for an op that copies none."""
    if op.kind == "Slice" and len(inputs) == len(SLICE_INPUTS):
        return output.elements
    if op.kind in ("Slice", "Pad"):
        return output.elements / _shared(inputs[0].shape, output.shape)
    if op.kind == "Gather":
        return output.elements / math.prod(inputs[0].shape[op.attributes.get("axis", 0) + 1 :])
    if op.kind == "Concat":
        return math.prod(output.shape[: op.attributes["axis"] % len(output.shape)]) * len(inputs)
    if op.kind == "Transpose":
        order = list(op.attributes.get("perm") or reversed(range(len(output.shape))))
        return output.elements / (MATRIX_STRETCH if _turns_matrices(order) else _unmoved(order, output.shape))
    return None


def _shared(shape: Sequence[int], other: Sequence[int]) -> int:
    """Elements that are contiguous both in a tensor and in what Slice cuts out of it or Pad makes around it."""
    stretch = 1
    for side, other_side in zip(reversed(shape), reversed(other)):
        stretch *= max(1, min(side, other_side))
        if side != other_side:
            break
    return stretch


def _unmoved(order: Sequence[int], shape: Sequence[int]) -> int:
    """Elements that stay side by side when axes are permuted so."""
    stretch = 1
    for axis in reversed(range(len(shape))):
        if order[axis] != axis:
            break
        stretch *= max(1, shape[axis])
    return stretch


def _turns_matrices(order: Sequence[int]) -> bool:
    """Whether a permutation of axes keeps the first ones and exchanges two groups of neighbours behind them."""
    first = next((at for at, axis in enumerate(order) if at != axis), len(order))
    rest = [axis - first for axis in order[first:]]
    return bool(rest) and all((axis - rest[0]) % len(rest) == at for at, axis in enumerate(rest))


def add_up(parts: Sequence[Mapping[str, float]]) -> Work:
    """The sum of works; terms in the order of TERMS, those of amount 0 left out."""
    totals = {term: sum(part.get(term, 0) for part in parts) for term in TERMS}
    return {term: total for term, total in totals.items() if total}
