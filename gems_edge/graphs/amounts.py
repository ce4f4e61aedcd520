"""Multiply-accumulates and bytes moved of one op, from its kind and its tensors' sizes. No onnx here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gems_edge.graphs.liveness import ALIASES, TensorSize

# Ops that read no more than they write, however large their input is.
READS_ITS_OUTPUT = frozenset({"Slice", "Gather"})
# The position of a convolution's weight among its inputs.
_WEIGHT_AT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


def macs_of(
    kind: str, inputs: Sequence[str], output: str, sizes: Mapping[str, TensorSize], attributes: Mapping[str, Any]
) -> int:
    """Multiply-accumulates, padding included; elementwise ops and pools have none.

    Conv: every output element reads Cin/groups·kh·kw weights. ConvTranspose: every input element writes
    Cout/groups·kh·kw products.
    """
    if kind in _WEIGHT_AT:
        return sizes[output].elements * math.prod(sizes[inputs[_WEIGHT_AT[kind]]].shape[1:])
    if kind == "ConvTranspose":
        return sizes[inputs[0]].elements * math.prod(sizes[inputs[1]].shape[1:])
    if kind in ("MatMul", "QLinearMatMul", "MatMulInteger"):
        return sizes[output].elements * sizes[inputs[0]].shape[-1]
    if kind in ("Gemm", "QGemm"):
        return sizes[output].elements * sizes[inputs[0]].shape[0 if attributes.get("transA", 0) else 1]
    return 0


def bytes_moved(kind: str, inputs: Sequence[str], outputs: Sequence[str], sizes: Mapping[str, TensorSize]) -> int:
    """Bytes read and written, a tensor that is read twice counted once; 0 for views."""
    if kind in ALIASES or kind == "Shape":
        return 0
    written = sum(sizes[name].bytes for name in outputs if name)
    moved = written + sum(sizes[name].bytes for name in set(inputs) if name)
    return min(moved, 2 * written) if kind in READS_ITS_OUTPUT else moved
