"""A Pad of zeros is part of the convolution or average pool behind it."""

import numpy as np
import pytest
from onnx import helper
from small_graphs import ones, run_by_onnxruntime, run_by_the_passes, shaped, small_model

from gems_edge.graphs.passes.paddings import RULE
from gems_edge.graphs.passes.rule import apply, refusals

CORNER = [0, 0, 0, 0, 0, 0, 1, 1]


def padded(reader, pads=CORNER, value=None, fed=False, more=()):
    nodes = [helper.make_node("Pad", ["x", "p", *(["v"] if value is not None else [])], ["q"]), reader, *more]
    constants = {"p": np.array(pads)} | ({} if value is None else {"v": np.float32(value)})
    constants |= {} if fed else {"w": ones(8, 1, 3, 3)}
    inputs = {"x": ["images", 8, 6, 6]} | ({"w": [8, 1, 3, 3]} if fed else {})
    return small_model(nodes, inputs, ["y", *(node.output[0] for node in more)], constants)


def depthwise(**attributes):
    return helper.make_node("Conv", ["q", "w"], ["y"], group=8, strides=[2, 2], **attributes)


def average(**attributes):
    return helper.make_node("AveragePool", ["q"], ["y"], kernel_shape=[3, 3], strides=[2, 2], **attributes)


CUTS = "it pads images or channels, or cuts"
CASES = [
    (padded(depthwise()), None),
    (padded(depthwise(), fed=True), None),
    (padded(depthwise(pads=[1] * 4)), None),
    (padded(depthwise(), value=0), None),
    (padded(average()), None),
    (padded(depthwise(), value=1), "it pads with something else than zeros"),
    (padded(depthwise(), [0, 0, 0, -1, 0, 0, 0, 0]), CUTS),
    (padded(average(pads=[1] * 4)), "AveragePool has a padding of its own"),
]


@pytest.mark.parametrize("model, reason", CASES)
def test_it_is_as_in_onnxruntime(model, reason):
    kinds = [kind for kind, _ in run_by_the_passes(model)]
    assert kinds == [kind for kind, _ in run_by_onnxruntime(model)] and ("Pad" in kinds) == (reason is not None)
    assert refusals(RULE, shaped(model)) == ([] if reason is None else [reason])


def test_a_padded_map_that_something_else_reads_is_made():
    model = padded(depthwise(), more=[helper.make_node("Relu", ["q"], ["z"])])
    assert run_by_the_passes(model) == run_by_onnxruntime(model) == [("Conv", "y"), ("Pad", "q"), ("Relu", "z")]


def test_paddings_add_up():
    graph = shaped(padded(depthwise(pads=[1, 2, 1, 2])))
    assert apply(RULE, graph) == 1
    (convolution,) = graph
    assert list(convolution.attributes["pads"].as_ints()) == [1, 2, 2, 3]
