"""What is folded into a convolution's weight and bias."""

import pytest
from onnx import helper
from small_graphs import ones, run_by_onnxruntime, run_by_the_passes, shaped, small_model

from gems_edge.graphs.passes.channel_scales import RULE
from gems_edge.graphs.passes.rule import apply, refusals


def scaled(follower, constants, group=1, fed=False):
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], group=group), follower]
    constants = dict(constants) | ({} if fed else {"w": ones(8, 8 // group, 3, 3)})
    inputs = {"x": ["images", 8, 6, 6]} | ({"w": [8, 8 // group, 3, 3]} if fed else {})
    return small_model(nodes, inputs, ["y"], constants)


NORM = ["c", "s", "s", "s", "s"]
FOLDED = [
    (helper.make_node("Mul", ["c", "k"], ["y"]), {"k": ones(8, 1, 1)}),
    (helper.make_node("Add", ["c", "k"], ["y"]), {"k": ones(8, 1, 1)}),
    (helper.make_node("BatchNormalization", NORM, ["y"]), {"s": ones(8)}),
]


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("follower, constants", FOLDED)
def test_a_number_a_channel_is_folded(follower, constants, group):
    model = scaled(follower, constants, group)
    assert run_by_the_passes(model) == run_by_onnxruntime(model) == [("Conv", "y")]


@pytest.mark.parametrize("follower, constants", FOLDED)
def test_into_a_fed_weight_nothing_is(follower, constants):
    model = scaled(follower, constants, fed=True)
    assert run_by_the_passes(model) == run_by_onnxruntime(model)
    assert refusals(RULE, shaped(model)) == ["the convolution's weight is not constant"]


def test_what_is_not_constant_or_of_whole_maps_stays():
    whole = scaled(helper.make_node("Mul", ["c", "k"], ["y"]), {"k": ones(1, 8, 4, 4)})
    assert refusals(RULE, shaped(whole)) == ["Mul brings in more than a number a channel"]
    residual = scaled(helper.make_node("Add", ["c", "c2"], ["y"]), {})
    residual.graph.node.insert(0, helper.make_node("Relu", ["x2"], ["c2"]))
    residual.graph.input.append(helper.make_tensor_value_info("x2", 1, [2, 8, 4, 4]))
    assert refusals(RULE, shaped(residual)) == ["what Add brings in is not constant"]


def test_a_shift_becomes_the_bias():
    graph = shaped(scaled(helper.make_node("Add", ["c", "k"], ["y"]), {"k": ones(8, 1, 1)}))
    assert apply(RULE, graph) == 1
    (convolution,) = graph
    assert [value.name for value in convolution.inputs] == ["x", "w", "k"] and graph.outputs[0].name == "y"
