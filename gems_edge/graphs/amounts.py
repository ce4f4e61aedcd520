"""Multiply-accumulates and bytes moved of one op: a rule for each kind of op (ops.py says which has which). No onnx."""

import math
from collections.abc import Callable
from enum import Enum

from gems_edge.predict.work import Call

Macs = Callable[[Call], int]


class Moves(Enum):
    """Which of its tensors an op reads and writes."""

    ALL = "all inputs and outputs"
    OUTPUT = "no more than it writes, however large its input is"
    NOTHING = "none: it renames, or tells a shape"


def none(call: Call) -> int:
    """Elementwise ops, copies, reductions and pools multiply no matrices."""
    return 0


def convolution(call: Call) -> int:
    """Padding included: every output element reads Cin/groups·kh·kw weights."""
    return call.output.elements * math.prod(call.weight.shape[1:])


def integer_convolution(call: Call) -> int:
    """Of QLinearConv: x, its scale and zero point, weight, …"""
    weight = call.inputs[3]
    assert weight is not None
    return call.output.elements * math.prod(weight.shape[1:])


def transposed_convolution(call: Call) -> int:
    """Every input element writes Cout/groups·kh·kw products."""
    return call.first.elements * math.prod(call.weight.shape[1:])


def product(call: Call) -> int:
    """Of a MatMul or Gemm, which may read its first matrix transposed (passes/turned_matrices.py)."""
    return call.output.elements * call.first.shape[-2 if call.attributes.get("transA", 0) else -1]


def bytes_moved(moves: Moves, call: Call) -> int:
    """Bytes read and written, a tensor that is read twice counted once."""
    if moves is Moves.NOTHING:
        return 0
    written = sum(tensor.size.bytes for tensor in call.outputs)
    moved = written + sum(tensor.size.bytes for tensor in set(call.read))
    return min(moved, 2 * written) if moves is Moves.OUTPUT else moved
