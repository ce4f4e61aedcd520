"""The work that sets a graph's running time, in terms that each have one rate on a board. Plain Python.

Every op gives amounts of one or more terms; the amounts of a graph add up (`GRAPHCOST["work"]`), and a time is the sum
of amounts times the board's rates. Every amount grows with channels, pixels and images, so a pruned network is never
predicted to be slower than the network it comes from. Units: MACs, elements of 4 bytes (maps, weights), ops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
# - fed, matmul, transposed: MACs of convolutions whose weights are not constant, of products of two computed tensors
#   (as PACKED_COLUMNS says), and of transposed convolutions; columns: elements that convolutions lay out one by one for
#   a matrix product, or put back from one, and those of a first matrix that lies turned; matmul_maps: elements that
#   products of two computed tensors read and write; matrices: how many they multiply, each by a call of its own
# - rows: stretches of memory that Slice, Pad, Gather, Transpose, Concat and grouped convolutions copy one by one;
#   spans: stretches of the result that elementwise ops of unlike shapes, and normalisations, go through one by one;
#   selected: elements of Where; resized: elements that Resize writes; sums: results of reductions; windows,
#   byte_windows: elements in the windows of pools, of floats that no convolution left in channel blocks and of bytes
# - views: ops that only rename; setups: ops that work out shapes and places anew at every run before they begin
# - far: elements that ops other than convolutions and products move beyond FAR_BYTES
# - late_ops: ops of a graph beyond the first CLOSE_OPS
DERIVED_TERMS = (
    "fed", "columns", "matmul", "matmul_maps", "matrices", "transposed", "rows", "spans", "selected", "resized", "sums",
    "windows", "byte_windows", "views", "setups", "far", "late_ops",
)  # fmt: skip
TERMS = MEASURED_TERMS + DERIVED_TERMS

# An op that moves more than this does not find its maps in a core's cache.
FAR_BYTES = 1 << 20
# What the ops of a run need beside their maps, a core's caches hold until the next run if there are no more than these:
# on x86, 64 ops of fifteen kinds take 0.3 µs each beside their maps, a thousand 1.4.
CLOSE_OPS = 100
# A Slice with all of these goes in steps other than 1: every element for itself.
SLICE_INPUTS = ("data", "starts", "ends", "axes", "steps")
# A Transpose that exchanges a matrix's axes goes in blocks: so many elements take as long as one stretch (0.6 to 1.5 ns
# each on x86 for matrices of 1,000 to 2 million elements, onnxruntime 1.31.1).
MATRIX_STRETCH = 6
# A product takes its second matrix in strips of so many columns, of which it multiplies every one to its end.
PACKED_COLUMNS = 16
# onnxruntime's Where makes two tensors on its way: it moves so many times what it reads and writes.
WHERE_MOVES = 26 / 9
# A power and a window per element: what GoogLeNet's and CaffeNet's rows ask for, beside an addition's.
LRN_ELEMENTS = 20

Work = dict[str, float]  # amounts by term


class Size(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def item_bytes(self) -> int: ...

    @property
    def elements(self) -> int: ...

    @property
    def bytes(self) -> int: ...


@dataclass(frozen=True)
class Tensor:
    """A tensor as an op reads or writes it."""

    name: str
    size: Size
    constant: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size.shape

    @property
    def elements(self) -> int:
        return self.size.elements


@dataclass(frozen=True)
class Call:
    """One op with the tensors that it reads and writes; of nodes that onnxruntime fuses, with those of them all."""

    inputs: tuple[Tensor | None, ...]  # None for an optional input that is left out
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]  # of the node, e.g. strides, group; what has its default is not among them
    macs: int = 0
    bytes_moved: int = 0  # as in GRAPHCOST: 0 for views
    channel_blocks: bool = False  # its input lies in channel blocks (graphs/ops.py)

    @property
    def first(self) -> Tensor:
        tensor = self.inputs[0]
        assert tensor is not None
        return tensor

    @property
    def weight(self) -> Tensor:
        """The second input of a convolution or product."""
        tensor = self.inputs[1]
        assert tensor is not None
        return tensor

    @property
    def output(self) -> Tensor:
        return self.outputs[0]

    @property
    def read(self) -> list[Tensor]:
        return [tensor for tensor in self.inputs if tensor is not None]

    @property
    def maps(self) -> int:
        """Elements of all tensors that are no constants."""
        return sum(tensor.elements for tensor in {*self.read, *self.outputs} if not tensor.constant)


# What makes amounts by term of a call: the kind of an op's cost. graphs/ops.py says which op has which.
Cost = Callable[[Call], Work]


def work_of(cost: Cost, call: Call) -> Work:
    """Amounts by term of one op of this kind of cost; what moves nothing costs nothing but its call."""
    return {"ops": 1} | cost(call) if call.bytes_moved else {"views": 1}


def convolution(call: Call) -> Work:
    weight = call.weight
    if not weight.constant:
        return _fed_convolution(call)
    _, group_channels, *kernel = weight.shape
    if call.attributes.get("group", 1) > 1 and group_channels == 1:
        return {"depthwise": call.macs}
    if math.prod(call.output.shape[2:]) == 1:
        return {"gemm_weights": weight.elements, "conv1x1": max(0, call.macs - weight.elements)}
    dense: Work = {"conv_maps": call.maps, "conv_weights": weight.elements}
    if math.prod(kernel) == 1:
        return dense | {"conv1x1": call.macs}
    steps = {*call.attributes.get("strides", ()), *call.attributes.get("dilations", ())}
    if kernel == [3, 3] and steps <= {1}:
        return {"conv3x3": call.macs, "conv3x3_maps": call.maps, "conv3x3_weights": weight.elements}
    return dense | {"conv": call.macs}


def _fed_convolution(call: Call) -> Work:
    """Of a weight that is not constant: onnxruntime lays out columns and multiplies, group by group."""
    weight, groups = call.weight, call.attributes.get("group", 1)
    work: Work = {"setups": 1, "fed": call.macs}
    if math.prod(weight.shape[2:]) == 1:
        return work
    columns = call.macs * groups / weight.shape[0]
    return work | ({"columns": columns} if groups == 1 else _by_rows(call, columns, call.output.shape[-1]))


def _by_rows(call: Call, columns: float, width: int) -> Work:
    """Of columns that a grouped convolution lays out, or puts back where they belong, row after row of a map.

    Of few channels its product is nothing beside them (x86, one thread: 4.2 ns a row, and for each element of it
    another 0.1, or 0.3 where the convolution strides, for depthwise 3×3 and 5×5 of 6 to 84 pixels).
    """
    strided = set(call.attributes.get("strides", ())) - {1}
    return {"rows": columns / width, "columns" if strided else "elementwise": columns}


def transposed_convolution(call: Call) -> Work:
    """A product gives columns, which are then added up to the map."""
    weight, groups = call.weight, call.attributes.get("group", 1)
    columns = call.macs * groups / weight.shape[0]
    work: Work = {"setups": 1, "transposed": call.macs}
    return work | ({"columns": columns} if groups == 1 else _by_rows(call, columns, call.first.shape[-1]))


def linear(call: Call) -> Work:
    """Of a Gemm, whose weights arrive once for all rows."""
    stored = call.weight.elements
    return {"gemm_weights": stored, "conv1x1": max(0, call.macs - stored)}


def product(call: Call) -> Work:
    """The columns of the result are multiplied in whole strips, and a first matrix that lies turned is turned first."""
    if call.weight.constant and len(call.weight.shape) == 2:
        return linear(call)
    *many, _, columns = (1, 1, *call.output.shape)
    matrices = math.prod(many) if len(call.weight.shape) > 2 else 1  # rows of all images by one matrix are one product
    turned = call.first.elements if call.attributes.get("transA", 0) else 0
    work: Work = {"setups": 1, "matmul": call.macs / columns * _whole_strips(columns), "matmul_maps": call.maps}
    return work | {"matrices": matrices, "columns": turned}


def _whole_strips(columns: int) -> int:
    return -(-columns // PACKED_COLUMNS) * PACKED_COLUMNS


def elementwise(call: Call) -> Work:
    """Elements are of 4 bytes, but for ops that take as long for any."""
    return _far(call) | {"elementwise": call.bytes_moved / 4}


def broadcasting(call: Call) -> Work:
    """Of an elementwise op that may read tensors of unlike shapes."""
    shapes = {tensor.shape for tensor in (*call.read, call.output)}
    return elementwise(call) | {"spans": _spans(call) if len(shapes) > 1 else 0}


def normalization(call: Call) -> Work:
    """Of maps [N, C, …] by numbers of each channel."""
    return elementwise(call) | {"spans": math.prod(call.output.shape[:2])}


def selection(call: Call) -> Work:
    """Of Where."""
    return {"setups": 1} | _far(call, WHERE_MOVES) | {"selected": call.bytes_moved / 4}


def reduction(call: Call) -> Work:
    return {"setups": 1} | elementwise(call) | {"sums": call.output.elements}


def resizing(call: Call) -> Work:
    return {"setups": 1} | _far(call) | {"resized": call.output.elements}


def pool(call: Call) -> Work:
    if call.channel_blocks:
        return elementwise(call)
    windows = call.output.elements * math.prod(call.attributes["kernel_shape"])
    if call.output.size.item_bytes == 1:
        return _far(call) | {"byte_windows": windows}
    return elementwise(call) | {"windows": windows}


def local_normalization(call: Call) -> Work:
    """Of LRN."""
    return _far(call) | {"elementwise": call.bytes_moved / 4 * (LRN_ELEMENTS / 2)}


def expansion(call: Call) -> Work:
    return {"setups": 1} | elementwise(call)


def slicing(call: Call) -> Work:
    stepping = len(call.read) == len(SLICE_INPUTS)
    return {"setups": 1} | _copying(call, 1 if stepping else _shared(call.first.shape, call.output.shape))


def padding(call: Call) -> Work:
    return {"setups": 1} | _copying(call, _shared(call.first.shape, call.output.shape))


def gathering(call: Call) -> Work:
    return _copying(call, math.prod(call.first.shape[call.attributes.get("axis", 0) + 1 :]))


def concatenation(call: Call) -> Work:
    shape = call.output.shape
    rows = math.prod(shape[: call.attributes["axis"] % len(shape)]) * len(call.read)
    return {"setups": 1} | elementwise(call) | {"rows": rows}


def splitting(call: Call) -> Work:
    shape = call.first.shape
    rows = math.prod(shape[: call.attributes.get("axis", 0) % len(shape)]) * len(call.outputs)
    return {"setups": 1} | elementwise(call) | {"rows": rows}


def transposition(call: Call) -> Work:
    shape = call.output.shape
    order = list(call.attributes.get("perm") or reversed(range(len(shape))))
    return {"setups": 1} | _copying(call, MATRIX_STRETCH if _turns_matrices(order) else _unmoved(order, shape))


def _copying(call: Call, stretch: int) -> Work:
    """Of an op that copies stretches of so many elements one by one."""
    return elementwise(call) | {"rows": call.output.elements / stretch}


def _far(call: Call, times: float = 1) -> Work:
    return {"far": max(0.0, call.bytes_moved * times - FAR_BYTES) / 4}


def _spans(call: Call) -> float:
    """Stretches of the result for each of which every input is either one number or as long a stretch."""
    shape = call.output.shape
    smaller = [(1,) * (len(shape) - len(tensor.shape)) + tensor.shape for tensor in call.read]
    stretch, kinds = 1, None
    for axis in reversed([axis for axis, side in enumerate(shape) if side > 1]):
        at_axis = [sides[axis] == 1 for sides in smaller]
        if kinds not in (None, at_axis):
            break
        kinds, stretch = at_axis, stretch * shape[axis]
    return call.output.elements / stretch


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


def of_run(ops: Sequence[Mapping[str, float]]) -> Work:
    """Of a run of ops, each with its own work."""
    moving = sum("ops" in op for op in ops)
    return add_up([*ops, {"late_ops": max(0, moving - CLOSE_OPS)}])


def add_up(parts: Sequence[Mapping[str, float]]) -> Work:
    """The sum of works; terms in the order of TERMS, those of amount 0 left out."""
    totals = {term: sum(part.get(term, 0) for part in parts) for term in TERMS}
    return {term: total for term, total in totals.items() if total}
