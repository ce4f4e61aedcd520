"""Zeros around a map that only a convolution reads become the convolution's own padding.

onnxruntime does the same to a float32 graph (graphs/passes/paddings.py has its pattern and when it applies); between
QuantizeLinear and DequantizeLinear it does not. A pool's stay: a mean would no longer count them.
"""

import onnx_ir as ir

from gems_edge.graphs.passes.paddings import RULE


def absorb_pads(model: ir.Model) -> None:
    for node in list(model.graph):
        match = RULE.pattern(node)
        if match is not None and match.reader.op_type == "Conv" and not RULE.check(match):
            RULE.rewrite(match)
