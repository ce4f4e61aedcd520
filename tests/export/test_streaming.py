"""adapt.onnx image by image: the same numbers, in less memory."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from graph_models import made, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from gems_edge.device.onnxfile import initializers
from gems_edge.device.runtime import Session
from gems_edge.export.graphs import adapt_graph
from gems_edge.export.streaming import MEMORY, Memory, _is_product, stream
from gems_edge.graphs.cost import adapt_peak, describe
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import initial_weights

PLANNED = {"images": 10, "classes": 5}
GRAPHS: dict = {}


def graph_of(backbone, method, head, normalization, size):
    key = (backbone, method, head, normalization, size)
    if key not in GRAPHS:
        model, weights = made(backbone, head, normalization, size)
        # Half of the channels of a trained network may well have a negative weight.
        weights = {
            n: w * (1 - 2 * (torch.arange(len(w)) % 2)) if n.endswith("norm.weight") else w for n, w in weights.items()
        }
        weights = {name: weight.float() for name, weight in weights.items()}
        GRAPHS[key] = adapt_graph(model, weights, Descent(method, 0.1)), model, weights
    return GRAPHS[key]


def feeds_of(session, model, weights, images, classes):
    targets = np.eye(classes, dtype=np.float32)[np.arange(images) % classes]
    start = initial_weights(model, weights, classes)
    random = np.random.default_rng(0)
    feeds = {"images": pictures(images, 3, model.spec.image_size).numpy(), "targets": targets}
    for name in (*session.inputs, *session.overridable):
        if name not in feeds:
            feeds[name] = start[name].numpy()
            if name.startswith("head"):  # a shared head's rows start alike, and the backbone would not move
                feeds[name] = feeds[name] + 0.1 * random.standard_normal(start[name].shape).astype(np.float32)
    return feeds


def scans(model):
    return [node for node in model.graph.node if node.op_type == "Scan"]


CASES = [
    ("conv4", "maml", "shared", "support", 28),
    ("conv4", "maml", "per-class", "group", 37),
    ("conv4", "anil", "shared", "support", 28),
    ("conv4", "boil", "per-class", "support", 28),
    ("resnet12", "maml", "shared", "support", 42),
    ("resnet12", "boil", "per-class", "group", 42),
]


@pytest.mark.slow(12)
@settings(max_examples=12)
@given(
    case=st.sampled_from(CASES),
    least=st.sampled_from([1, 1 << 14, 1 << 16, 1 << 18]),
    convolutions=st.integers(0, 3),
    images=st.sampled_from([5, 7, 10]),
)
def test_streamed_steps_are_the_same(case, least, convolutions, images):
    whole, model, weights = graph_of(*case)
    streamed = stream(whole, Memory(least, convolutions), PLANNED)
    assert scans(streamed)
    one, other = (Session(g.SerializeToString(), "adapt.onnx", threads=1) for g in (whole, streamed))
    assert (one.inputs, one.overridable, one.outputs) == (other.inputs, other.overridable, other.outputs)
    feeds = feeds_of(one, model, weights, images, 5)
    for name, value, found in zip(one.outputs, one.run(one.outputs, feeds), other.run(one.outputs, feeds)):
        # Sums over images may round differently; nothing else is computed in another way.
        assert np.allclose(value, found, rtol=1e-5, atol=1e-6 * max(1, np.abs(value).max())), name


def test_weight_gradients_of_small_maps_are_one_product():
    whole, model, weights = graph_of("conv4", "maml", "shared", "support", 28)
    joined = stream(whole, MEMORY["fast"], PLANNED)

    def summed_products(graph):
        products = {name for node in graph.graph.node if node.op_type == "MatMul" for name in node.output}
        return [node for node in graph.graph.node if node.op_type == "ReduceSum" and node.input[0] in products]

    assert len(summed_products(whole)) == 4 and not summed_products(joined) and not scans(joined)
    one, other = (Session(g.SerializeToString(), "adapt.onnx", threads=1) for g in (whole, joined))
    for images in (5, 12):  # not only the planned number
        feeds = feeds_of(one, model, weights, images, 5)
        for name, value, found in zip(one.outputs, one.run(one.outputs, feeds), other.run(one.outputs, feeds)):
            assert np.allclose(value, found, rtol=1e-5, atol=1e-6 * max(1, np.abs(value).max())), name


def test_less_memory_is_less_and_an_untouched_graph_stays():
    whole, *_ = graph_of("conv4", "maml", "shared", "support", 84)
    sizes = {"images": 25, "classes": 5}
    peaks = {name: describe(stream(whole, memory, sizes), sizes)["peak_bytes"] for name, memory in MEMORY.items()}
    assert peaks["low"] < 0.6 * peaks["balanced"] < 0.6 * peaks["fast"] < 0.6 * describe(whole, sizes)["peak_bytes"]
    assert stream(whole, Memory(0, 0), sizes) is whole
    small, *_ = graph_of("conv4", "maml", "shared", "support", 28)
    assert not scans(stream(small, MEMORY["fast"], {"images": 5, "classes": 5}))


def test_work_of_a_scan_is_that_of_all_its_images():
    whole, *_ = graph_of("conv4", "maml", "shared", "support", 84)
    sizes = {"images": 25, "classes": 5}
    once, kept, again = (
        describe(graph, sizes)["macs"]
        for graph in (whole, *(stream(whole, Memory(1 << 20, convolutions), sizes) for convolutions in (0, 1)))
    )
    assert once == kept < again < 4 / 3 * once  # a step is a forward pass, and two more of its size
    again = stream(whole, Memory(1 << 20, 1), sizes)
    line = adapt_peak(again, sizes)
    for images in (5, 10, 40):
        peak = describe(again, sizes | {"images": images})["peak_bytes"]
        assert peak <= 1.25 * (line["fixed_bytes"] + images * line["bytes_per_image"])


def test_it_stays_plain_and_small():
    whole, *_ = graph_of("conv4", "maml", "shared", "support", 84)
    streamed = stream(whole, MEMORY["low"], {"images": 25, "classes": 5})
    model = streamed.SerializeToString()
    assert len(model) < 2 * len(whole.SerializeToString()) + 100_000
    assert set(initializers(model, "adapt.onnx")) >= {
        t.name for t in whole.graph.initializer if t.name in _used(streamed)
    }
    assert {item.domain for item in streamed.opset_import} == {""} and not streamed.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in streamed.graph.node)


def _used(model):
    names = {name for node in model.graph.node for name in node.input}
    for node in scans(model):
        body = next(a.g for a in node.attribute if a.name == "body")
        names |= {name for inner in body.node for name in inner.input}
    return names


@pytest.mark.parametrize("memory", ["low", "balanced", "fast"])
def test_unused_constants_are_left_out(memory):
    whole, *_ = graph_of("conv4", "maml", "shared", "support", 84)
    streamed = stream(whole, MEMORY[memory], {"images": 25, "classes": 5})
    assert {tensor.name for tensor in streamed.graph.initializer} <= _used(streamed) | {
        value.name for value in streamed.graph.input
    }
    onnx.checker.check_model(streamed, full_check=True)


def test_only_a_convolution_that_picks_is_no_product():
    """A frozen 1×1 convolution of as many filters as channels has a picking one's shape."""
    node = helper.make_node("Conv", ["x", "weight"], ["y"])

    def counts(weight):
        constants = {"weight": numpy_helper.from_array(weight.astype(np.float32))}
        return _is_product(SimpleNamespace(constants=constants), node)

    assert counts(np.full((8, 8, 1, 1), 0.5)) and not counts(np.eye(27).reshape(27, 3, 3, 3))
