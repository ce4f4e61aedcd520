"""What can be computed on loading is, and takes its room as a constant."""

import numpy as np
import pytest
from onnx import helper
from small_graphs import ones, run_by_the_passes, shaped, small_model

from gems_edge.graphs.cost import describe
from gems_edge.graphs.passes.constants import RULE
from gems_edge.graphs.passes.rule import apply


def chained():
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Concat", ["t", "t"], ["tt"], axis=1),
        helper.make_node("MatMul", ["x", "tt"], ["y"]),
    ]
    return small_model(nodes, {"x": ["images", 6]}, ["y"], {"w": ones(4, 6)})


def test_chains_of_constants_are_one():
    model = chained()
    assert run_by_the_passes(model) == [("MatMul", "y")]
    assert describe(model, {"images": 2})["constant_bytes"] == 4 * 6 * 8


def test_values_are_not_computed():
    graph = shaped(chained())
    assert apply(RULE, graph) == 2
    folded = graph.initializers["tt"]
    assert folded.shape.numpy() == (6, 8)
    with pytest.raises(ValueError, match="only its size matters"):
        folded.const_value.numpy()


def test_what_depends_on_an_input_stays():
    nodes = [helper.make_node("Add", ["x", "one"], ["a"]), helper.make_node("Add", ["a", "one"], ["y"])]
    model = small_model(nodes, {"x": ["images", 2]}, ["y"], {"one": np.float32([1])})
    assert apply(RULE, shaped(model)) == 0
