"""What is known of every ONNX op: a row each. What export may write, what a graph costs, what may run image by image.

An op that export writes must have a row (export/builder.py asks for it); an op of a user's graph without one is counted
as unknown. A new op is a row here, and a function where none of those of amounts.py (MACs), work.py (what its time is
made of) and batch_axes.py (what it computes for each image apart) fits.
"""

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gems_edge.graphs import amounts, batch_axes
from gems_edge.graphs.amounts import Macs, Moves
from gems_edge.graphs.batch_axes import Apart
from gems_edge.predict import work
from gems_edge.predict.work import Cost

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Row:
    """An op. `None` and `False` say that it is not so, or that nobody knows."""

    # What sets its time.
    cost: Cost
    macs: Macs = amounts.none
    moves: Moves = Moves.ALL
    # How it computes each image's part of its output from the same image's part of its inputs …
    apart: Apart | None = None
    # … or that over all images it is this very op of each image's result (sums, means, maxima).
    over_images: bool = False
    # It multiplies matrices: too much to compute twice only in order to hold a result a shorter time.
    product: bool = False
    # A pool of the network, whose result is a fraction of its input and what the next layer starts with.
    pool: bool = False
    # Its output is another view of its first input: onnxruntime copies nothing.
    view: bool = False
    # It may write over its first input where that has the same shape and type and dies there (seen in the log of the
    # arena of onnxruntime 1.31.1 and 1.32.0; sums, products, roots and the like get room of their own).
    in_place: bool = False
    # What onnxruntime does with it behind a convolution: into its weight and bias if these are constant (ConvMul,
    # ConvAdd and ConvBN fusion); as its activation, behind any (FusedConv).
    folds: bool = False
    activation: bool = False
    # On x86 onnxruntime's convolutions and pools exchange maps in blocks of channels. The op leaves such a map if its
    # weight is constant; or if it reads one: a pool between two convolutions need not turn its maps round and back.
    makes_blocks: bool = False
    keeps_blocks: bool = False
    # What it is on integers between DequantizeLinear and QuantizeLinear; and whether the range of the bytes that
    # QuantizeLinear writes does the same.
    integer: str | None = None
    clamps: bool = False


_VIEW = Row(work.elementwise, moves=Moves.NOTHING, view=True)
_ELEMENTWISE = Row(work.broadcasting, apart=batch_axes.elementwise)
_ACTIVATION = Row(work.elementwise, apart=batch_axes.elementwise, in_place=True)
_FIRST_ALONE = Row(work.elementwise, apart=batch_axes.first_alone)
_NORMALIZATION = replace(_FIRST_ALONE, cost=work.normalization)
_REDUCTION = Row(work.reduction, apart=batch_axes.reduction)
_POOL = Row(work.pool, apart=batch_axes.first_alone, pool=True, keeps_blocks=True)
_UNSPLIT = Row(work.elementwise)  # nothing is known of its images

ROWS: dict[str, Row] = {
    # Products
    "Conv": Row(
        work.convolution,
        amounts.convolution,
        apart=batch_axes.first_alone,
        product=True,
        makes_blocks=True,
        integer="QLinearConv",
    ),
    "ConvTranspose": Row(
        work.transposed_convolution, amounts.transposed_convolution, apart=batch_axes.first_alone, product=True
    ),
    "MatMul": Row(work.product, amounts.product, apart=batch_axes.product, product=True, integer="QLinearMatMul"),
    "Gemm": Row(work.linear, amounts.product, apart=batch_axes.linear, product=True, integer="QGemm"),
    # … of integers
    "QLinearConv": Row(work.elementwise, amounts.integer_convolution, apart=batch_axes.first_alone, product=True),
    "ConvInteger": Row(work.elementwise, amounts.convolution, apart=batch_axes.first_alone, product=True),
    "QLinearMatMul": Row(work.elementwise, amounts.product, product=True),
    "MatMulInteger": Row(work.elementwise, amounts.product, product=True),
    "QGemm": Row(work.elementwise, amounts.product, product=True),
    # Activations
    "Relu": replace(_ACTIVATION, activation=True, clamps=True),
    "LeakyRelu": replace(_ACTIVATION, activation=True),
    "Clip": replace(_ACTIVATION, activation=True, clamps=True),
    "Sigmoid": replace(_ACTIVATION, activation=True, integer="QLinearSigmoid"),
    "Tanh": replace(_ACTIVATION, activation=True),
    "HardSigmoid": replace(_ACTIVATION, activation=True),
    "Elu": _ACTIVATION,
    "Softplus": _ACTIVATION,
    "HardSwish": _ELEMENTWISE,
    "PRelu": _ELEMENTWISE,
    "Selu": _ACTIVATION,
    "Celu": _ACTIVATION,
    "Gelu": _ELEMENTWISE,
    "Mish": _ELEMENTWISE,
    "QuickGelu": _ELEMENTWISE,  # onnxruntime's x·sigmoid(x)
    "Softsign": _ACTIVATION,
    "ThresholdedRelu": _ACTIVATION,
    "Softmax": Row(work.elementwise, apart=batch_axes.along_axis(-1), in_place=True),
    "LogSoftmax": Row(work.elementwise, apart=batch_axes.along_axis(-1)),
    # Arithmetic
    "Add": replace(_ELEMENTWISE, folds=True, integer="QLinearAdd"),
    "Mul": replace(_ELEMENTWISE, folds=True, integer="QLinearMul"),
    "Sub": _ELEMENTWISE,
    "Div": _ELEMENTWISE,
    "Neg": _ELEMENTWISE,
    "Abs": _ELEMENTWISE,
    "Sign": _ELEMENTWISE,
    "Sqrt": _ELEMENTWISE,
    "Reciprocal": _ELEMENTWISE,
    "Exp": _ELEMENTWISE,
    "Log": _ELEMENTWISE,
    "Pow": _ELEMENTWISE,
    "Erf": _ELEMENTWISE,
    "Sin": _ELEMENTWISE,
    "Cos": _ELEMENTWISE,
    "Floor": _ELEMENTWISE,
    "Ceil": _ELEMENTWISE,
    "Round": _ELEMENTWISE,
    "Mod": _ELEMENTWISE,
    "Max": _ELEMENTWISE,
    "Min": _ELEMENTWISE,
    "Sum": _ELEMENTWISE,
    "Mean": _ELEMENTWISE,
    # Conditions
    "Equal": _ELEMENTWISE,
    "Greater": _ELEMENTWISE,
    "GreaterOrEqual": _ELEMENTWISE,
    "Less": _ELEMENTWISE,
    "LessOrEqual": _ELEMENTWISE,
    "And": _ELEMENTWISE,
    "Or": _ELEMENTWISE,
    "Xor": _ELEMENTWISE,
    "Not": _ELEMENTWISE,
    "IsNaN": _ELEMENTWISE,
    "IsInf": _ELEMENTWISE,
    "Where": Row(work.selection, apart=batch_axes.elementwise),
    # Types
    "Cast": _ELEMENTWISE,
    "CastLike": _ELEMENTWISE,
    "QuantizeLinear": _FIRST_ALONE,
    "DequantizeLinear": _FIRST_ALONE,
    "DynamicQuantizeLinear": _UNSPLIT,
    # Normalisation
    "BatchNormalization": replace(_NORMALIZATION, folds=True),
    "InstanceNormalization": _NORMALIZATION,
    "GroupNormalization": _NORMALIZATION,
    "LayerNormalization": Row(work.elementwise, apart=batch_axes.along_axis(-1)),
    "LRN": Row(work.local_normalization, apart=batch_axes.first_alone),
    # Sums and the like
    "ReduceSum": replace(_REDUCTION, over_images=True),
    "ReduceMean": replace(_REDUCTION, over_images=True),
    "ReduceMax": replace(_REDUCTION, over_images=True),
    "ReduceMin": replace(_REDUCTION, over_images=True),
    "ReduceProd": _REDUCTION,
    "ReduceL1": _REDUCTION,
    "ReduceL2": _REDUCTION,
    "ReduceSumSquare": _REDUCTION,
    "ReduceLogSumExp": _REDUCTION,
    "ArgMax": Row(work.elementwise, apart=batch_axes.along_axis(0)),
    "ArgMin": Row(work.elementwise, apart=batch_axes.along_axis(0)),
    "TopK": Row(work.elementwise, apart=batch_axes.along_axis(-1)),
    "CumSum": Row(work.elementwise, apart=batch_axes.axes_at(1)),
    # Pools
    "MaxPool": replace(_POOL, integer="MaxPool"),
    "AveragePool": replace(_POOL, integer="QLinearAveragePool"),
    "GlobalAveragePool": replace(_FIRST_ALONE, pool=True, integer="QLinearGlobalAveragePool"),
    "GlobalMaxPool": replace(_FIRST_ALONE, pool=True),
    # Views
    "Identity": replace(_VIEW, apart=batch_axes.elementwise),
    "Dropout": replace(_VIEW, apart=batch_axes.elementwise),
    "Reshape": replace(_VIEW, apart=batch_axes.reshape, integer="Reshape"),
    "Flatten": replace(_VIEW, apart=batch_axes.flatten, integer="Flatten"),
    "Squeeze": replace(_VIEW, apart=batch_axes.axes_at(1), integer="Squeeze"),
    "Unsqueeze": replace(_VIEW, apart=batch_axes.axes_at(1), integer="Unsqueeze"),
    # Copies
    "Slice": Row(work.slicing, moves=Moves.OUTPUT, apart=batch_axes.axes_at(3), integer="Slice"),
    "Pad": Row(work.padding, apart=batch_axes.padding),
    "Gather": Row(work.gathering, moves=Moves.OUTPUT, apart=batch_axes.along_axis(0)),
    "Concat": Row(work.concatenation, apart=batch_axes.concatenation, integer="QLinearConcat"),
    "Split": Row(work.splitting, apart=batch_axes.along_axis(0)),
    "Transpose": Row(work.transposition, apart=batch_axes.transposition, integer="Transpose"),
    "Expand": Row(work.expansion),
    "Tile": Row(work.expansion),
    "Resize": Row(work.resizing, apart=batch_axes.resizing, integer="Resize"),
    "Upsample": Row(work.resizing),
    "DepthToSpace": _FIRST_ALONE,
    "SpaceToDepth": _FIRST_ALONE,
    "GatherElements": _UNSPLIT,
    "GatherND": _UNSPLIT,
    "ScatterElements": _UNSPLIT,
    "ScatterND": _UNSPLIT,
    "Trilu": _UNSPLIT,
    # Sizes and what is made of them
    "Shape": Row(work.elementwise, moves=Moves.NOTHING),
    "Size": _UNSPLIT,
    "Constant": Row(work.elementwise, moves=Moves.NOTHING),
    "ConstantOfShape": _UNSPLIT,
    "Range": _UNSPLIT,
    "NonZero": _UNSPLIT,
    "OneHot": _UNSPLIT,
    # The graph inside runs for each image: graphs/executed.py counts its ops.
    "Scan": _UNSPLIT,
}

# What an op without a row is taken to be in a user's graph, where it is told to be unknown.
UNKNOWN = _UNSPLIT


def row_of(kind: str) -> Row:
    """The row of an op of ONNX's own domain. ValueError if there is none."""
    row = ROWS.get(kind)
    if row is None:
        raise ValueError(f"the ONNX op {kind} has no row in gems_edge/graphs/ops.py")
    return row


def row_or_unknown(kind: str) -> Row:
    """The row of an op, of a user's graph perhaps; UNKNOWN where there is none."""
    return ROWS.get(kind, UNKNOWN)


def is_apart(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    """Whether the node computes each image's part of its outputs from the same image's part of its inputs.

    `batched`: the tensors whose first axis is the images; the node must read one, and all that it gives must be such.
    Shapes of all its tensors must be known, as numbers.
    """
    read = {value for value in node.inputs if value is not None and value in batched}
    if not read or any(value not in batched for value in node.outputs if value.name):
        return False
    rule = row_of(node.op_type).apart
    return rule is not None and rule(node, read)


def is_over_images(node: "ir.Node", batched: Set["ir.Value"]) -> bool:
    """Whether the node adds up over the images (or takes their mean or maximum) and can be split: each image's part,
    then the same op of these."""
    if not row_of(node.op_type).over_images or node.inputs[0] not in batched:
        return False
    axes = batch_axes.reduced_axes(node)
    return axes is not None and 0 in axes


def leaves_blocks(kind: str, constant_weight: bool, channel_blocks: bool) -> bool:
    """Whether an op's result lies in blocks of channels. `channel_blocks`: its input does."""
    row = row_or_unknown(kind)
    return row.makes_blocks and constant_weight or row.keeps_blocks and channel_blocks
