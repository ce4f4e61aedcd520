"""Weight gradients of small maps as one product over the pixels of all images."""

import onnx_ir as ir
import pytest
from adaptation_steps import assert_same_results, step_of
from graph_models import made

from gems_edge.export.graphs import adapt_graph
from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.join_images import join_images, summed_product, why_apart
from gems_edge.export.passes.stream import MEMORY, Memory, stream
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.backbones import registry

PLANNED = {"images": 10, "classes": 5}


def products(model):
    batches = Batches.of(model, PLANNED)
    return batches, [product for node in model.graph if (product := summed_product(batches, node))]


@pytest.mark.slow(3)
def test_weight_gradients_of_small_maps_are_one_product():
    whole, model, weights = step_of("conv4", "maml", "shared", "support", 28)
    joined = stream(whole, MEMORY["fast"], PLANNED)
    assert len(products(ir.from_proto(whole))[1]) == 4 and not products(ir.from_proto(joined))[1]
    assert not any(node.op_type == "Scan" for node in joined.graph.node)
    for images in (5, 12):  # not only the planned number
        assert_same_results(whole, joined, model, weights, images)


def test_a_product_of_large_maps_is_left_and_says_why():
    whole, *_ = step_of("conv4", "maml", "shared", "support", 28)
    model = ir.from_proto(whole)
    batches, (*_, first) = products(model)
    assert why_apart(batches, first, 1 << 30) is None
    assert "over all images take" in why_apart(batches, first, 1)
    assert not join_images(model, PLANNED, 1) and len(products(model)[1]) == 4


def test_a_sum_over_the_images_of_anything_else_is_no_pattern():
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["": 20]>
        step (float[images, 3, 4] a, float[images, 4, 5] b) => (float[3, 5] total)
        <int64[1] first = {0}>
        {
            product = MatMul(a, b)
            total = ReduceSum<keepdims = 0>(product, first)
        }
    """)
    assert not products(model)[1] and not join_images(model, PLANNED, 1 << 30)


def test_products_of_groups_stay_what_they_are(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "mixed", "mixed_network")
    model, weights = made("mixed", "shared", "support", 36, divisor=1)
    weights = {name: weight.float() for name, weight in weights.items()}
    whole = adapt_graph(model, weights, Descent("maml", 0.1))
    for least_bytes in (1 << 16, 1 << 20):
        assert_same_results(whole, stream(whole, Memory(least_bytes, 1), PLANNED), model, weights, 7)
