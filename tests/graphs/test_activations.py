"""Activations behind convolutions become part of them, and which do not."""

import numpy as np
import pytest
from onnx import helper
from small_graphs import ones, run_by_onnxruntime, run_by_the_passes, shaped, small_model

from gems_edge.graphs.passes.activations import RULE
from gems_edge.graphs.passes.rule import refusals

LIMITS = {"low": np.float32(0), "high": np.float32(6)}


def activated(kind, *extra, fed=False, **attributes):
    """Conv, then `kind`; the weight is an input of the graph where it is `fed`."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node(kind, ["c", *extra], ["y"], **attributes),
    ]
    inputs = {"x": ["images", 8, 6, 6]} | ({"w": [8, 8, 3, 3]} if fed else {})
    return small_model(nodes, inputs, ["y"], LIMITS | ({} if fed else {"w": ones(8, 8, 3, 3)}))


@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("kind", ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Softplus", "Clip"])
def test_they_are_those_of_onnxruntime(kind, fed):
    model = activated(kind, *(("low", "high") if kind == "Clip" else ()), fed=fed)
    assert run_by_the_passes(model) == run_by_onnxruntime(model)


def test_a_clip_with_computed_limits_stays():
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c", "low", "high"], ["y"])]
    model = small_model(
        nodes, {"x": ["images", 4, 4, 4], "low": [], "high": []}, ["y"], {"w": ones(4, 4, 1, 1)}
    )  # fmt: skip
    assert refusals(RULE, shaped(model)) == ["its limits are computed"]
    kinds = [kind for kind, _ in run_by_the_passes(model)]
    assert kinds == ["Clip", "Conv"] == [kind for kind, _ in run_by_onnxruntime(model)]


def test_a_map_that_something_else_reads_too_is_kept():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
        helper.make_node("Exp", ["c"], ["z"]),
    ]
    model = small_model(nodes, {"x": ["images", 4, 4, 4]}, ["y", "z"], {"w": ones(4, 4, 1, 1)})
    assert run_by_the_passes(model) == run_by_onnxruntime(model) == [("Conv", "c"), ("Exp", "z"), ("Relu", "y")]
