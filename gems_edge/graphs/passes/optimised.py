"""All the rules, in the order in which they see the graph."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gems_edge.graphs.passes import (
    activations,
    channel_scales,
    constants,
    functions,
    gates,
    integers,
    output_copies,
    paddings,
    turned_matrices,
)
from gems_edge.graphs.passes.rule import apply

RULES = (
    functions.RULE,
    integers.RULE,
    constants.RULE,
    turned_matrices.RULE,
    paddings.RULE,
    channel_scales.RULE,
    activations.RULE,
    gates.RULE,
    output_copies.RULE,
)


def optimise(model: ir.Model) -> None:
    """Rewrite a model whose shapes are known (shapes.py), in place, to what onnxruntime runs."""
    RemoveUnusedNodesPass()(model)
    for rule in RULES:
        apply(rule, model.graph)
