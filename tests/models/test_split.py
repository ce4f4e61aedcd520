"""Cuts of networks: trunk, then top, are the whole to the bit; names of places, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_random_networks import QUICK, random_values, recipes, spec_of
from test_zoo import SOURCE
from torch.utils.flop_counter import FlopCounterMode

from gems_edge.device.manifest import NORMALIZATIONS
from gems_edge.errors import UserError
from gems_edge.models.backbones.registry import BACKBONES
from gems_edge.models.cuts import blocks_of
from gems_edge.models.fewshot import FewShotModel, forward
from gems_edge.models.network_file import NetworkFile
from gems_edge.models.shapes import topology
from gems_edge.models.spec import PER_IMAGE, ModelSpec, full_widths
from gems_edge.models.split import split

SIZE = 48
ZOO = ("resnet18", "densenet121", "efficientnet_b0")
OWN = """
from torch import nn

def make(channels):
    layers = nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten())
"""
MODES = [mode for mode in PER_IMAGE if mode in NORMALIZATIONS]


def spec_named(name: str, mode: str = "group") -> ModelSpec:
    """Of the registry, at odd widths, or of torchvision's."""
    file = NetworkFile("zoo-" + name, SOURCE.format(name)) if name in ZOO else NetworkFile()
    backbone = "zoo.py:make" if name in ZOO else name
    widths = full_widths((), backbone, channels=3, image_size=SIZE, file=file)
    if name in BACKBONES:
        widths = tuple(width // 2 - width % 3 for width in widths)
    return ModelSpec(backbone, widths, SIZE, 3, mode, "shared", 5, file)


def check_every_cut(spec: ModelSpec) -> None:
    model = random_values(FewShotModel(spec)).float()
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    if spec.normalization == "frozen":
        weights = model.tensors()
    images = torch.rand(2, 3, spec.image_size, spec.image_size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        whole = forward(model, weights, images)
        for cut in spec.topology.cuts:
            both = split(model, cut)
            below, above = both.below(weights), both.above(weights)
            with FlopCounterMode(display=False) as counter:
                features = both.trunk(below, images)
            assert counter.get_total_flops() == 2 * 2 * replace(spec, learn_from=cut.name).macs_below
            assert features.shape[1:] == both.top.input_shape == cut.shape(spec.widths)
            answer = forward(both.top, above, features)
            assert torch.equal(answer.logits, whole.logits) and torch.equal(answer.features, whole.features)
            assert {*below, *above} == {*weights} and not {*below} & {*above} and below
            assert [name for name, _ in both.top.named_parameters()] == [n for n in above if "running" not in n]
            assert cut == spec.topology.cut(cut.name) and (
                cut.layer in ("", *"0123456") or cut == spec.topology.cut(cut.layer)
            )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*BACKBONES, *ZOO])
def test_trunk_and_top_are_the_whole(name, mode):
    torch.manual_seed(0)
    check_every_cut(spec_named(name, mode))


@given(recipes(), st.integers(0, 2**31))
@QUICK
def test_trunk_and_top_of_random_networks(recipe, seed):
    torch.manual_seed(seed)
    check_every_cut(replace(spec_of(recipe), normalization="group"))


def test_the_whole_stays_as_it_is():
    spec = spec_named("conv4")
    model = FewShotModel(spec, {"backbone.blocks.0.conv.weight": torch.zeros(31, 3, 3, 3).numpy()})
    before = dict(model.named_parameters())
    top = split(model, spec.topology.cut("blocks.2")).top
    assert dict(model.named_parameters()) == before and model.masks and not top.masks
    assert all(tensor is before[name] for name, tensor in top.named_parameters())
    assert model.input_shape == (3, SIZE, SIZE) and top.backbone is not model.backbone


@pytest.mark.parametrize(
    "name, places",
    [
        ("conv4", "blocks.1 blocks.2 blocks.3"),
        ("resnet18", "layer1.0 layer1.1 layer2.0 layer2.1 layer3.0 layer3.1 layer4.0 layer4.1"),
        ("mobilenet-v2", " ".join(f"features.{number}" for number in range(1, 19))),
        (
            "densenet121",
            "features.denseblock1 features.transition1 features.denseblock2 features.transition2 "
            "features.denseblock3 features.transition3 features.denseblock4 features.norm5",
        ),
    ],
)
def test_blocks(name, places):
    whole = spec_named(name).topology
    assert [cut.name for cut in blocks_of(whole.cuts)] == places.split()
    for number, place in enumerate(reversed(places.split()), 1):
        assert whole.cut(str(number)) == whole.cut(place)
    assert whole.cut("0") == whole.cut("head") == whole.cuts[-1]


@pytest.mark.parametrize(
    "name, learn_from, message",
    [
        ("conv4", "blocks.7", "has no such layer or block; choose one of blocks.1, blocks.2, blocks.3, head, or a num"),
        ("conv4", "block", "has no such layer"),
        ("conv4", "blocks.0", "nothing of conv4 lies below it"),
        ("conv4", "4", "has no 4 blocks with something below them.* from 0 .the head alone. to 3"),
        ("mobilenet-v2", "features.3.conv.1", "more than one tensor goes up"),
        ("resnet12", "blocks.1.skip", "more than one tensor goes up"),
    ],
)
def test_no_place(name, learn_from, message):
    with pytest.raises(UserError, match=f"^--learn-from {learn_from}: .*{message}") as error:
        replace(spec_named(name), learn_from=learn_from)
    assert "\n" not in str(error.value)


def test_a_trunk_does_not_know_the_batch():
    spec = spec_named("mobilenet-v2")
    for mode in ("support", "transductive"):
        with pytest.raises(UserError, match="features.0.1 there depends on the batch; use --normalization .*group"):
            replace(spec, normalization=mode, learn_from="features.3")
    file = NetworkFile("own", OWN)
    assert topology("own.py:make", 3, SIZE, file=file).cut("backbone.2").batch_statistics == ()
    ModelSpec("own.py:make", (8, 8), SIZE, 3, "support", "shared", 5, file, learn_from="backbone.2")
