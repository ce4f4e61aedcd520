"""The work that sets a graph's running time, in terms that each have one rate on a board. Plain Python.

Every op gives amounts of one or more terms; the amounts of a graph add up (`GRAPHCOST["work"]`), and a time is the sum
of amounts times the board's rates. Every amount grows with channels, pixels and images, so a pruned network is never
predicted to be slower than the network it comes from. Units: MACs, elements of 4 bytes (maps, weights), ops.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

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
# - fed, matmul, transposed: MACs of convolutions whose weights are not constant, of products of two computed tensors, and
#   of transposed convolutions; columns: elements that the first lay out for a matrix product; matmul_maps: elements that
#   the second read and write
# - rows: stretches of memory that Slice, Pad, Gather, Transpose and Concat copy one by one; selected: elements of Where;
#   resized: elements that Resize writes; sums: results of reductions; windows, byte_windows: elements in the windows of
#   maximum pools, of floats that no convolution left in blocks and of bytes
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
# A Transpose that exchanges a matrix's axes goes in blocks: so many elements take as long as one stretch (0.6 to 1.5 ns each on
# x86 for matrices of 1,000 to 2 million elements, onnxruntime 1.31.1).
MATRIX_STRETCH = 6
# onnxruntime's Where makes two tensors on its way: it moves so many times what it reads and writes.
WHERE_MOVES = 26 / 9
# A power and a window per element: what GoogLeNet's and CaffeNet's rows ask for, beside an addition's.
LRN_ELEMENTS = 20


class Size(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def elements(self) -> int: ...

    @property
    def bytes(self) -> int: ...


def work_of(
    kind: str,
    attributes: Mapping[str, Sequence[int] | int],
    weight: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: Mapping[str, Size],
    constants: frozenset[str] | set[str],
    macs: int,
    bytes_moved: int,
    blocked: bool = False,
) -> dict[str, float]:
    """Amounts by term of one op after fusion.

    `kind` is the ONNX op type, `weight` the name of a convolution's or product's second input ("" if none),
    `attributes` its strides, dilations and group; `bytes_moved` as in GRAPHCOST: 0 for views, which cost nothing.
    `blocked`: its input is as convolutions with constant weights leave it (see `leaves_blocked`).
    """
    if not bytes_moved:
        return {"views": 1}
    maps = sum(sizes[name].elements for name in {*inputs, *outputs} if name and name not in constants)
    if kind == "Conv":
        return {"ops": 1} | _convolution(attributes, sizes[weight], sizes[outputs[0]], maps, macs, weight in constants)
    if kind == "ConvTranspose":
        return {"ops": 1, "transposed": macs, "conv_maps": maps}
    if kind in ("Gemm", "MatMul"):
        stored = sizes[weight].elements
        if kind == "Gemm" or weight in constants and len(sizes[weight].shape) == 2:
            return {"ops": 1, "gemm_weights": stored, "conv1x1": max(0, macs - stored)}
        return {"ops": 1, "setups": 1, "matmul": macs, "matmul_maps": maps}
    given = [sizes[name] for name in inputs if name]
    beginning = {"ops": 1, "setups": 1} if kind in SETUPS else {"ops": 1}
    return beginning | _elements(kind, attributes, given, sizes[outputs[0]], bytes_moved, blocked)


def leaves_blocked(kind: str, weight_is_constant: bool, blocked: bool) -> bool:
    """Whether an op's result lies in blocks of channels, as onnxruntime's convolutions and pools exchange it on x86: a
    pool between two of them need not turn its maps round and back."""
    return kind == "Conv" and weight_is_constant or kind == "MaxPool" and blocked


def _elements(
    kind, attributes, given: Sequence[Size], output: Size, bytes_moved: int, blocked: bool
) -> dict[str, float]:
    """Amounts of an op that multiplies no matrices. Elements are of 4 bytes, but for ops that take as long for any."""
    really = bytes_moved * (WHERE_MOVES if kind == "Where" else 1)
    elements, far = bytes_moved / 4, {"far": max(0.0, really - FAR_BYTES) / 4}
    if kind == "MaxPool" and not blocked:
        windows = output.elements * math.prod(attributes["kernel_shape"])
        in_bytes = output.bytes == output.elements
        return far | ({"byte_windows": windows} if in_bytes else {"elementwise": elements, "windows": windows})
    if kind == "Resize":
        return far | {"resized": output.elements}
    if kind == "Where":
        return far | {"selected": elements}
    made = far | {"elementwise": elements * (LRN_ELEMENTS / 2 if kind == "LRN" else 1)}
    if kind in REDUCTIONS:
        return made | {"sums": output.elements}
    if kind == "Slice" and len(given) == len(SLICE_INPUTS):
        return made | {"rows": output.elements}
    if kind in ("Slice", "Pad"):
        return made | {"rows": output.elements / _shared(given[0].shape, output.shape)}
    if kind == "Gather":
        return made | {"rows": output.elements / math.prod(given[0].shape[attributes.get("axis", 0) + 1 :])}
    if kind == "Concat":
        return made | {"rows": math.prod(output.shape[: attributes["axis"] % len(output.shape)]) * len(given)}
    if kind == "Transpose":
        order = list(attributes.get("perm") or reversed(range(len(output.shape))))
        stretch = MATRIX_STRETCH if _turns_matrices(order) else _kept(order, output.shape)
        return made | {"rows": output.elements / stretch}
    return made


def _shared(shape: Sequence[int], other: Sequence[int]) -> int:
    """Elements that lie in one stretch both in a tensor and in the part of it that is cut out of it or put into it."""
    stretch = 1
    for one, two in zip(reversed(shape), reversed(other)):
        stretch *= max(1, min(one, two))
        if one != two:
            break
    return stretch


def _kept(order: Sequence[int], shape: Sequence[int]) -> int:
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


def _convolution(attributes, weight: Size, output: Size, maps: int, macs: int, constant: bool) -> dict[str, float]:
    if not constant:
        return {"setups": 1, "fed": macs, "columns": macs / weight.shape[0] if math.prod(weight.shape[2:]) > 1 else 0}
    stored = weight.elements
    _, group_channels, *kernel = weight.shape
    groups = attributes.get("group", 1)
    if groups > 1 and group_channels == 1:
        return {"depthwise": macs}
    if math.prod(output.shape[2:]) == 1:
        return {"gemm_weights": stored, "conv1x1": max(0, macs - stored)}
    dense = {"conv_maps": maps, "conv_weights": stored}
    if math.prod(kernel) == 1:
        return dense | {"conv1x1": macs}
    steps = {*attributes.get("strides", ()), *attributes.get("dilations", ())}
    if kernel == [3, 3] and steps <= {1}:
        return {"conv3x3": macs, "conv3x3_maps": maps, "conv3x3_weights": stored}
    return dense | {"conv": macs}


def add_up(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of works; terms in the order of TERMS, those of amount 0 left out."""
    totals = {term: sum(part.get(term, 0) for part in parts) for term in TERMS}
    return {term: total for term, total in totals.items() if total}


# Kinds of `ops` in a GRAPHCOST → the term that their MACs are.
_KINDS = {
    "Conv": "conv", "Conv.grouped": "conv", "Conv.depthwise": "depthwise", "Conv.fed": "fed", "MatMul": "matmul",
    "Gemm": "conv1x1", "ConvTranspose": "transposed",
}  # fmt: skip


def work_of_ops(ops: Sequence[Mapping]) -> dict[str, float]:
    """Work as far as the `ops` of a GRAPHCOST tell it, for bundles of before `work` was written."""
    parts = []
    for op in ops:
        if not op["bytes"]:
            continue
        moved = "conv_maps" if op["kind"] in _KINDS else "selected" if op["kind"] == "Where" else "elementwise"
        parts.append({"ops": op["count"], moved: op["bytes"] / 4, _KINDS.get(op["kind"], "conv"): op["macs"]})
    return add_up(parts)
