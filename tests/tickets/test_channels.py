"""Physical pruning: the ratio is of weights, widths stay round, and what is removed is what matters least."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.errors import UserError
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec, full_widths
from gems_edge.tickets.channels import TOLERANCE, prune


def made(backbone="conv4", normalization="support", head="shared", widths=None, size=28):
    torch.manual_seed(1)
    model = FewShotModel(ModelSpec(backbone, widths or full_widths((), backbone), size, 1, normalization, head, 5))
    return model, {name: weight.detach().clone() for name, weight in model.named_parameters()}


@given(st.floats(0.05, 0.97))
@settings(max_examples=25)
def test_the_ratio_is_met_within_two_points(ratio):
    model, weights = made()
    pruned = prune(model, weights, ratio)
    assert abs(pruned.reached - ratio) <= TOLERANCE
    assert pruned.reached == pytest.approx(1 - pruned.spec.backbone_weights / model.spec.backbone_weights)
    assert all(width % pruned.round_to == 0 for width in pruned.spec.widths)
    FewShotModel(pruned.spec).load_state_dict(pruned.weights)


@pytest.mark.parametrize("normalization", ["support", "group"])
@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_resnet12(ratio, normalization):
    model, weights = made("resnet12", normalization)
    pruned = prune(model, weights, ratio)
    assert abs(pruned.reached - ratio) <= TOLERANCE and pruned.round_to == 16
    assert pruned.spec.macs < (1.1 - ratio) * model.spec.macs  # no stage is spared
    compact = FewShotModel(pruned.spec)
    compact.load_state_dict(pruned.weights)
    assert compact(torch.rand(2, 1, 28, 28))[0].shape == (2, 1)


@pytest.mark.parametrize("backbone", ["conv4", "resnet12"])
def test_removing_dead_channels_changes_no_answer(backbone):
    """Channels whose filter, scale and readers are zero go first, and without them the network computes the same."""
    model, weights = made(backbone, widths=(32,) * len(full_widths((), backbone)))
    dead, layers = torch.arange(0, 32, 2), {n: w for n, w in weights.items() if w.dim() == 4}
    for weight in layers.values():
        weight[dead] = 0
        if weight.shape[1] == 32:
            weight[:, dead] = 0
    for name, weight in weights.items():
        if "norm" in name:
            weight[dead] = 0
    side = model.spec.feature_size // 32
    weights["head.weight"].view(-1, 32, side)[:, dead] = 0
    half = replace(model.spec, widths=(16,) * len(model.spec.widths))
    pruned = prune(model, weights, 1 - half.backbone_weights / model.spec.backbone_weights, round_to=16)
    assert pruned.spec == half
    compact, images = FewShotModel(pruned.spec).double(), torch.rand(6, 1, 28, 28, dtype=torch.float64)
    model.load_state_dict(weights)
    compact.load_state_dict(pruned.weights)
    assert torch.allclose(model.double()(images)[0], compact(images)[0], rtol=1e-9, atol=1e-12)


def test_ratio_zero_is_the_dense_model():
    model, weights = made()
    pruned = prune(model, weights, 0)
    assert pruned.spec == model.spec and pruned.reached == 0
    assert all(torch.equal(pruned.weights[name], weights[name]) for name in weights)


@pytest.mark.parametrize("ratio", [1, -1, 0.999, float("nan"), 2])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(UserError, match="--ratio"):
        prune(*made(), ratio)
