"""Channel tickets: the network that is trained is the small one, a slice of the dense one's weights."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from ticket_runs import CHANNEL_RUNS, overlaps_logged, same, ticket_of

from gems_edge.meta.run import Run
from gems_edge.models.fewshot import FewShotModel
from gems_edge.tickets.channels import channel_importances
from gems_edge.tickets.primary import read_primary_masks


@pytest.mark.parametrize("name", CHANNEL_RUNS)
def test_a_channel_ticket_is_the_slice_of_the_first_weights(trained, name):
    run = trained(name)
    config, ticket = run.config(), ticket_of(run)
    assert ticket.unit == "channel" and list(ticket.masks) == [f"widths.{n}" for n in range(4)]
    dense = config.model_spec()
    compact = dataclasses.replace(dense, widths=ticket.widths)
    assert all(width < 16 for width in ticket.widths) and [m.size for m in ticket.masks.values()] == [16] * 4
    assert abs(1 - compact.backbone_weights / dense.backbone_weights - 0.6) <= 0.02
    whole, start = trained("dense").kept(4 if name == "channel-rewound" else 0), run.initial()
    inputs = np.ones(1, bool)
    for n, mask in enumerate(ticket.masks.values()):
        block = f"backbone.blocks.{n}"
        assert torch.equal(start[f"{block}.conv.weight"], whole[f"{block}.conv.weight"][mask][:, inputs])
        for part in ("norm.weight", "norm.bias"):
            assert torch.equal(start[f"{block}.{part}"], whole[f"{block}.{part}"][mask])
        inputs = mask
    assert torch.equal(start["head.weight"], whole["head.weight"][:, inputs])
    assert torch.equal(start["head.bias"], whole["head.bias"])
    model, weights = run.model()
    assert model.spec == compact and not model.masks and not same(weights, start)


def test_channel_tickets_keep_the_most_important_channels(trained):
    for name in ("channel-mwt", "channel-pmt"):
        run = trained(name)
        model = FewShotModel(run.config().model_spec())
        weights = Run(run.directory / "search").checkpoint().weights
        for importance, mask in zip(channel_importances(model, weights), ticket_of(run).masks.values()):
            assert importance[torch.from_numpy(mask)].min() >= importance[torch.from_numpy(~mask)].max(), name


def test_channel_pmt_watches_the_first_layers_channels(trained):
    run = trained("channel-pmt")
    search, found = Run(run.directory / "search"), ticket_of(run).found
    assert found["settled"] and found["iterations"] == 8 and found["overlaps"] == overlaps_logged(search)
    seen = read_primary_masks(search.directory / "primary.safetensors")
    assert np.array_equal(seen[-1][1], ticket_of(run).masks["widths.0"])


@pytest.mark.parametrize("name", ["mwt", "rr", "channel-mwt", "channel-pmt"])
def test_evaluate_works_on_a_ticket(trained, gems, name):
    document = json.loads(gems("evaluate", trained(name).directory, "--episodes", "4", "--json"))
    assert document["episodes"] == 4 and 0 <= document["accuracy"] <= 1 and document["steps"] == 2
