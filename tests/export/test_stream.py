"""adapt.onnx image by image: the same numbers, in less memory."""

import onnx
import pytest
from adaptation_steps import assert_same_results, step_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.device.onnxfile import initializers
from gems_edge.export.passes.stream import MEMORY, Memory, stream
from gems_edge.graphs.cost import adapt_peak, describe

PLANNED = {"images": 10, "classes": 5}


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
    whole, model, weights = step_of(*case)
    streamed = stream(whole, Memory(least, convolutions), PLANNED)
    assert scans(streamed)
    assert_same_results(whole, streamed, model, weights, images)


def test_less_memory_is_less_and_an_untouched_graph_stays():
    whole, *_ = step_of("conv4", "maml", "shared", "support", 84)
    sizes = {"images": 25, "classes": 5}
    peaks = {name: describe(stream(whole, memory, sizes), sizes)["peak_bytes"] for name, memory in MEMORY.items()}
    assert peaks["low"] < 0.6 * peaks["balanced"] < 0.6 * peaks["fast"] < 0.6 * describe(whole, sizes)["peak_bytes"]
    assert stream(whole, Memory(0, 0), sizes) is whole
    small, *_ = step_of("conv4", "maml", "shared", "support", 28)
    assert not scans(stream(small, MEMORY["fast"], {"images": 5, "classes": 5}))


def test_work_of_a_scan_is_that_of_all_its_images():
    whole, *_ = step_of("conv4", "maml", "shared", "support", 84)
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
    whole, *_ = step_of("conv4", "maml", "shared", "support", 84)
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
    whole, *_ = step_of("conv4", "maml", "shared", "support", 84)
    streamed = stream(whole, MEMORY[memory], {"images": 25, "classes": 5})
    assert {tensor.name for tensor in streamed.graph.initializer} <= _used(streamed) | {
        value.name for value in streamed.graph.input
    }
    onnx.checker.check_model(streamed, full_check=True)
