"""Products of weights are computed for each of their readers: the same results, and less that is alive at once."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graph_models import pictures

from gems_edge.device.runtime import Session
from gems_edge.export.graphs import adapt_graph
from gems_edge.export.passes.again import compute_again
from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.stream import MEMORY, stream
from gems_edge.graphs.footprint import arena_bytes
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec, full_widths

SIZES = {"images": 40, "classes": 3}


def made(mode):
    torch.manual_seed(0)
    model = FewShotModel(ModelSpec("mobilenet-v2", full_widths((), "mobilenet-v2", 0.5), 32, 3, mode, "per-class", 3))
    return model, {name: tensor.detach() for name, tensor in model.tensors().items()}


def run(graph, weights):
    session = Session(graph.SerializeToString(), "adapt", threads=1, channel_blocks=False)
    feeds = {name: weights[name].numpy() for name in (*session.inputs, *session.overridable) if name in weights}
    feeds |= {"images": pictures(6, 3, 32).numpy(), "targets": np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]}
    return dict(zip(session.outputs, session.run(session.outputs, feeds)))


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_frozen_network_steps_as_before_with_less_alive(memory, monkeypatch):
    model, weights = made("frozen")
    whole = adapt_graph(model, weights, Descent("maml", 0.01))
    again = stream(whole, MEMORY[memory], SIZES)
    monkeypatch.setattr("gems_edge.export.passes.stream.compute_again", lambda model, batches: False)
    before = stream(whole, MEMORY[memory], SIZES)
    expected, found = run(whole, weights), run(again, weights)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    held = sum(weight.nbytes for name, weight in weights.items() if weight.ndim == 4 and weight.nbytes >= 1 << 16)
    assert (arena_bytes(again, SIZES) - arena_bytes(before, SIZES)) / held < -0.25


def test_a_graph_without_products_of_weights_stays():
    model, weights = made("group")
    graph = ir.from_proto(adapt_graph(model, weights, Descent("maml", 0.01)))
    nodes = len(list(graph.graph))
    assert not compute_again(graph, Batches.of(graph, SIZES)) and len(list(graph.graph)) == nodes
