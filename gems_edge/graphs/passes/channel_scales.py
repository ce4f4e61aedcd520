"""ConvMulFusion, ConvAddFusion, ConvBNFusion: scales and shifts of a channel go into a constant weight, and a bias."""

from typing import NamedTuple

import onnx_ir as ir

from gems_edge.graphs.ops import row_or_unknown
from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import absorb, inputs_of, only_reader, shape_of


class _Scaled(NamedTuple):
    convolution: ir.Node
    follower: ir.Node  # the scale or shift

    @property
    def others(self) -> list[ir.Value]:
        """What the follower reads beside the convolution's result."""
        return [value for value in inputs_of(self.follower) if value is not self.convolution.outputs[0]]


def _pattern(node: ir.Node) -> _Scaled | None:
    if node.op_type != "Conv":
        return None
    follower = only_reader(node.outputs[0])
    if follower is None or not row_or_unknown(follower.op_type).folds:
        return None
    return _Scaled(node, follower)


def _check(match: _Scaled) -> str:
    weight = match.convolution.inputs[1]
    if weight is None or not weight.is_initializer():
        return "the convolution's weight is not constant"
    if not all(value.is_initializer() for value in match.others):
        return f"what {match.follower.op_type} brings in is not constant"
    channels = shape_of(match.convolution.outputs[0])[1]
    if match.follower.op_type == "BatchNormalization":
        return ""
    if not all(_is_per_channel(shape_of(value), channels) for value in match.others):
        return f"{match.follower.op_type} brings in more than a number a channel"
    return ""


def _is_per_channel(shape: tuple[int, ...], channels: int) -> bool:
    """Whether a constant of this shape scales or shifts an [N, C, H, W] map channel by channel."""
    aligned = (1,) * (4 - len(shape)) + shape
    return len(aligned) == 4 and aligned[0] == aligned[2] == aligned[3] == 1 and aligned[1] in (1, channels)


def _rewrite(match: _Scaled) -> None:
    convolution, bias = match.convolution, match.others[-1]
    if match.follower.op_type != "Mul" and len(convolution.inputs) == 2:
        convolution.resize_inputs(3)
        convolution.replace_input_with(2, bias)
    absorb(convolution, match.follower)


RULE = Rule("ConvMulFusion, ConvAddFusion, ConvBNFusion", _pattern, _check, _rewrite)
