"""Random networks of the layer set: adopting, shapes, widths and removed channels against plain torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from random_networks import ACTIVATIONS, BLOCKS, build
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gems_edge.files import sha256_bytes
from gems_edge.models.adopt import adopt
from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.network_file import NetworkFile
from gems_edge.models.normalization import Normalization, NormPass
from gems_edge.models.spec import ModelSpec, full_widths
from gems_edge.models.tensor_names import is_constant
from gems_edge.tickets.channels import remove_channels

SOURCE = (Path(__file__).parent / "random_networks.py").read_text()
SIZE = 24
# Shrinking takes minutes, and what fails is small anyway.
QUICK = settings(max_examples=40, phases=(Phase.explicit, Phase.generate))
NORMS = ("none", "batch", "group")


@st.composite
def recipes(draw, norms=NORMS):
    activation, norm = st.integers(0, len(ACTIVATIONS) - 1), st.sampled_from(norms)
    channels = st.sampled_from((4, 6, 8))
    unit = st.tuples(
        st.just("unit"), channels, st.sampled_from((1, 3, 5)), st.sampled_from((1, 2)),
        st.sampled_from(("one", "two", "depthwise")), norm, activation, st.sampled_from(("none", "three")),
    )  # fmt: skip
    block = st.tuples(st.sampled_from(tuple(BLOCKS)), channels, norm, activation)
    stem = ("unit", 8, 3, 1, "one", draw(norm), 0, draw(st.sampled_from(("none", "two"))))
    recipe = [stem, *draw(st.lists(block | unit, max_size=3))], draw(st.sampled_from(("mean", "map")))
    assume(not vanishes(recipe))
    return recipe


def vanishes(recipe) -> bool:
    """Whether strides and pools leave nothing of a small image."""
    try:
        with torch.device("meta"):
            build(3, *recipe)(torch.empty(2, 3, SIZE, SIZE))
    except RuntimeError:
        return True
    return False


def random_values(module: nn.Module) -> nn.Module:
    """In float64, normalisations with scales and statistics that are not 0 and 1."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | Normalization):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module.double()


@given(recipes(), st.integers(0, 2**31))
@QUICK
def test_an_adopted_network_is_torchs(recipe, seed):
    torch.manual_seed(seed)
    module, images = random_values(build(3, *recipe)), torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64)
    network = adopt(module, "random")
    given = NormPass({})
    for layer in network.modules():
        if isinstance(layer, Normalization):
            given.given |= {f"{layer.name}.mean": layer.running_mean, f"{layer.name}.var": layer.running_var}
    with torch.no_grad():
        assert torch.allclose(network(images, given), module.eval()(images), rtol=1e-8, atol=1e-10)
        assert torch.allclose(network(images, NormPass()), module.train()(images), rtol=1e-8, atol=1e-10)


def spec_of(recipe) -> ModelSpec:
    source = f"{SOURCE}\n\ndef make(channels):\n    return build(channels, *{recipe!r})\n"
    file = NetworkFile(sha256_bytes(source.encode()), source)
    widths = full_widths((), "random.py:make", channels=3, image_size=SIZE, file=file)
    return ModelSpec("random.py:make", widths, SIZE, 3, "support", "per-class", 5, file)


def masks(spec: ModelSpec, seed: int) -> list[np.ndarray]:
    """Of each group of channels that may shrink, a random part, at least one channel."""
    random = np.random.default_rng(seed)
    kept = [random.random(width) < 0.6 for width in spec.widths]
    for mask in kept:
        mask[random.integers(len(mask))] = True
    return kept


@given(recipes(), st.integers(0, 2**31))
@QUICK
def test_shapes_at_any_widths(recipe, seed):
    """Against tensors that are there, and torch's own counter."""
    dense = spec_of(recipe)
    for spec in (dense, replace(dense, widths=tuple(int(mask.sum()) for mask in masks(dense, seed)))):
        model = FewShotModel(spec)
        layers = {f"{layer.name}.weight" for layer in spec.shape.layers}
        tensors = dict(model.named_parameters())
        learned = [name for name in spec.topology.tensors if not is_constant(name)]
        assert list(tensors) == [*learned, "head.weight", "head.bias"]
        assert sum(tensors[name].numel() for name in layers) == spec.backbone_weights
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            answer = model(torch.rand(1, 3, SIZE, SIZE))
        assert counter.get_total_flops() == 2 * spec.macs and answer.features.shape == (1, spec.feature_size)
        amounts = spec.topology.amounts(np.array(spec.widths)[None])
        assert amounts.weights[0] == spec.shape.weights and amounts.macs[0] == spec.shape.macs
        assert amounts.features[0] == spec.feature_size


@given(recipes(("none", "batch")), st.integers(0, 2**31))
@QUICK
def test_a_network_without_channels_is_the_one_in_which_they_are_dead(recipe, seed):
    spec = spec_of(recipe)
    kept = masks(spec, seed)
    torch.manual_seed(seed)
    model = random_values(FewShotModel(spec))
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    for name, number, axis in spec.topology.tensor_axes:
        dead = torch.from_numpy(np.flatnonzero(~kept_entries(axis, kept)))
        if not is_constant(name):  # there are none in the batch modes
            weights[name].index_fill_(number, dead, 0)
    compact, sliced = remove_channels(model, weights, kept)
    small = FewShotModel(compact).double()
    small.load_state_dict(sliced)
    model.load_state_dict(weights)
    images = torch.rand(4, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(images).logits, small(images).logits, rtol=1e-8, atol=1e-10)
