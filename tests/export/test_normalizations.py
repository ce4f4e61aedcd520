"""Batch normalisation and its gradient as onnxruntime's own operations."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from adaptation_steps import assert_same_results, feeds_of
from graph_models import made

import gems_edge.export.graphs as graphs
from gems_edge.device.runtime import Session
from gems_edge.export.passes.lean import lean
from gems_edge.export.passes.normalizations import gradient_of, norm_of, write_normalizations
from gems_edge.export.passes.views import merge_views
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.backbones import registry


@pytest.fixture
def traced(monkeypatch):
    """(backbone, normalization) → the graph of a step as it is traced, its model and weights."""
    monkeypatch.setitem(registry.BACKBONES, "mixed", "mixed_network")
    monkeypatch.setattr(graphs, "lean", lambda model: model)

    def step(normalization):
        model, weights = made("mixed", "shared", normalization, 36, divisor=1)
        weights = {name: weight.float() for name, weight in weights.items()}
        # Half of the channels of a trained network may well have a negative scale.
        weights |= {name: weights[name] * (1 - 2 * every_other(weights[name])) for name in scales(weights)}
        return graphs.adapt_graph(model, weights, Descent("maml", 0.1)), model, weights

    return step


def scales(weights):
    return [name for name, weight in weights.items() if weight.ndim == 1 and name.endswith("weight")]


def every_other(vector):
    return torch.arange(len(vector)) % 2


def patterns(model):
    norms = [norm for node in model.graph if (norm := norm_of(node))]
    of_map = {norm.affine.inputs[0]: norm for norm in norms}
    return norms, [found for node in model.graph if (found := gradient_of(node, of_map))]


def test_every_normalisation_that_is_not_pooled_and_its_gradient_are_found(traced):
    whole, model, weights = traced("support")
    rewritten = ir.from_proto(whole)
    merge_views(rewritten)
    norms, gradients = patterns(rewritten)
    assert norms and len(gradients) == len(norms)
    write_normalizations(rewritten)
    assert not any(found for found in patterns(rewritten))
    for images in (5, 12):
        assert_same_results(whole, ir.to_proto(rewritten), model, weights, images)


def test_of_groups_nothing_is_a_pattern(traced):
    whole, *_ = traced("group")
    rewritten = ir.from_proto(whole)
    merge_views(rewritten)
    assert not any(patterns(rewritten))


def test_another_number_in_the_gradient_is_another_gradient(traced):
    """The factors are compared with their number: a gradient of twice the variance's part is left as it is."""
    whole, *_ = traced("support")
    rewritten = ir.from_proto(whole)
    merge_views(rewritten)
    _, gradients = patterns(rewritten)
    covariance = gradients[0].covariance
    doubled = ir.tape.Tape(rewritten.graph).op("Add", [covariance, covariance])
    for user, slot in list(covariance.uses()):
        if user is not doubled.producer():
            user.replace_input_with(slot, doubled)
    assert len(patterns(rewritten)[1]) == len(gradients) - 1


@pytest.mark.parametrize("normalization", ["support", "group"])
def test_lean_graphs_have_the_same_results_in_fewer_nodes(traced, normalization):
    whole, model, weights = traced(normalization)
    small = lean(whole)
    assert len(small.graph.node) < len(whole.graph.node)
    assert_same_results(whole, small, model, weights, 7)


def test_channels_whose_scale_is_0_have_no_gradient_below(traced):
    whole, model, weights = traced("support")
    zeros = {name: weights[name] * every_other(weights[name]) for name in scales(weights)}
    session = Session(lean(whole).SerializeToString(), "it", threads=1)
    results = session.run(session.outputs, feeds_of(session, model, weights | zeros, 5, 5))
    assert all(np.isfinite(result).all() for result in results)
