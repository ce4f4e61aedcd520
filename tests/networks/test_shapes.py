"""What is known of every network before it runs: multiply-accumulates, and the small network inside a large one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from every_network import NETWORKS, SIZE, author_module, narrow, settings, start
from torch.utils.flop_counter import FlopCounterMode

from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.fewshot import FewShotModel, body
from gems_edge.models.shapes import topology
from gems_edge.models.spec import ModelSpec
from gems_edge.models.tensor_names import is_constant
from gems_edge.tickets.channels import TOLERANCE, prune, remove_channels

pytestmark = pytest.mark.parametrize("network", NETWORKS)


@pytest.mark.parametrize("size, channels", [(SIZE, 3), (47, 1)])
def test_macs_are_those_that_torch_counts(network, size, channels):
    with FlopCounterMode(display=False) as counter:
        author_module(network, channels, size).eval()(torch.rand(1, channels, size, size))
    dense = topology(network, channels, size).dense
    assert dense.macs == counter.get_total_flops() // 2
    spec = ModelSpec(network, narrow(network), size, channels, "support", "per-class", 5)
    model = FewShotModel(spec)
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, channels, size, size))
    assert spec.macs == counter.get_total_flops() // 2
    assert spec.backbone_weights == sum(w.numel() for n, w in model.backbone.named_parameters() if w.ndim > 1)


@pytest.mark.parametrize("mode", ["support", "frozen"])
def test_the_compact_network_is_the_dense_one_without_channels(network, mode):
    model, weights, _ = start(replace(settings(network, "maml", (mode,)), widths=narrow(network, 16)), torch.float64)
    pruned = prune(model, weights, 0.5, round_to=2)
    assert abs(pruned.reached - 0.5) <= TOLERANCE
    zeroed = {name: weight.clone() for name, weight in weights.items()}
    for name, number, axis in model.spec.topology.tensor_axes:
        if number != 0:
            continue
        assert name in zeroed or is_constant(name), name
        if name in zeroed:  # what makes a channel; biases too, so that its map is 0
            zeroed[name][torch.from_numpy(~kept_entries(axis, pruned.kept))] = 0
    images = torch.rand(4, 3, SIZE, SIZE, dtype=torch.float64)
    kept = torch.from_numpy(kept_entries(model.spec.topology.features, pruned.kept))
    compact = FewShotModel(pruned.spec).double()
    dense = body(model, zeroed, images).features
    assert torch.allclose(body(compact, pruned.weights, images).features, dense[:, kept], rtol=1e-9, atol=1e-12)
    assert not dense[:, ~kept].any()


def test_full_widths_are_the_whole_network(network):
    model, weights, _ = start(settings(network, "bmp", ("support",)))
    whole = prune(model, weights, 0.0)
    assert whole.spec == model.spec and all(torch.equal(whole.weights[name], weights[name]) for name in weights)
    spec, same = remove_channels(model, weights, [np.ones(width, bool) for width in model.spec.widths])
    assert spec == model.spec and same.keys() == weights.keys()
    assert all(torch.equal(same[name], weights[name]) for name in weights)
