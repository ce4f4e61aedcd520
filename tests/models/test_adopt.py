"""Modules of the layer set become networks of ours that compute the same; what is outside is refused by its place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gems_edge.errors import UserError
from gems_edge.models.adopt import adopt
from gems_edge.models.normalization import Normalization, NormPass
from gems_edge.models.shapes import topology_of


class Everything(nn.Module):
    """Every layer of the set, in modules and in functions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8, 1e-3), nn.SiLU())
        self.same = nn.Conv2d(8, 8, (2, 3), padding="same", groups=2)
        self.group = nn.GroupNorm(4, 8)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.branch = nn.Conv2d(8, 6, 3, padding=(0, 1))
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(14, 10)

    def forward(self, images):
        x = self.stem(images)
        x = F.max_pool2d(F.relu6(self.group(self.same(x))), 3, 2, padding=1)
        y = F.hardswish(self.norm(self.depthwise(x)))
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(y, 1)))))
        y = x + gate * y * 0.5
        z = F.avg_pool2d(F.pad(F.hardsigmoid(self.branch(y)), (0, 0, 1, 1)), 2)
        both = torch.cat([F.avg_pool2d(y, 2), z], 1)
        return self.drop(self.last(both.mean([2, 3])))


def test_a_network_of_every_layer_computes_what_it_did():
    torch.manual_seed(0)
    module = Everything().double().train()
    module.drop.p = 0.0
    for norm in (module.stem[2], module.group, module.norm):
        nn.init.normal_(norm.weight)
    images = torch.rand(4, 3, 21, 20, dtype=torch.float64)
    network, norms = adopt(module, "everything"), NormPass()
    assert torch.allclose(network(images, norms), module(images), rtol=1e-10)
    assert set(norms.seen) == {f"backbone.{path}.{kind}" for path in ("stem.2", "norm") for kind in ("mean", "var")}
    # Given statistics: those that torch's own layers keep.
    given = NormPass({})
    for path in ("stem.2", "norm"):
        layer = network.get_submodule(path)
        assert isinstance(layer, Normalization) and layer.epsilon == module.get_submodule(path).eps
        given.given |= {f"backbone.{path}.mean": layer.running_mean, f"backbone.{path}.var": layer.running_var}
    assert torch.allclose(network(images, given), module.eval()(images), rtol=1e-10)
    assert {n for n, _ in network.named_parameters()} == {n for n, _ in module.named_parameters()}


def features(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Functional(nn.Module):
    """A convolution, then `function`."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, images):
        return self.function(self.conv(images)).mean((2, 3))


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        return self.conv(self.conv(self.first(images))).mean((2, 3))


class Branches(Repeated):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class Parameter(Repeated):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, images):
        return (self.first(images) * self.scale).mean((2, 3))


class Two(Repeated):
    def forward(self, images):
        x = self.first(images).mean((2, 3))
        return x, x


OUTSIDE = [
    (features(nn.Conv2d(3, 4, 3), nn.GELU()), r"GELU \(the layer 1\).*use Conv2d"),
    (features(nn.Conv2d(3, 4, 3, dilation=2)), r"Conv2d \(the layer 0\).*dilation 1"),
    (features(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), r"the layer 0.*zeros"),
    (features(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), r"the layer 1.*affine=True"),
    (features(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True)), r"the layer 1.*ceil_mode"),
    (features(nn.ConvTranspose2d(3, 4, 3)), r"ConvTranspose2d \(the layer 0\)"),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten()), r"the layer 1.*AvgPool2d"),
    (Functional(torch.tanh), r"tanh \(test_adopt.py:\d+\)"),
    (Functional(lambda x: x.amax((2, 3), keepdim=True)), r"amax \(test_adopt.py:\d+\)"),
    (Functional(lambda x: x[:, :2]), r"getitem \(test_adopt.py:\d+\)"),
    (Repeated(), r"the layer conv runs twice"),
    (Branches(), r"test_adopt.py:\d+ .*decides by the data"),
    (Parameter(), r"the tensor scale is used without a layer"),
    (Two(), r"forward returns tuple, not features"),
]


@pytest.mark.parametrize("module, message", OUTSIDE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_outside_the_set_is_refused_by_name_and_place(module, message):
    with pytest.raises(UserError, match=rf"^net: .*{message}") as error:
        adopt(module, "net")
    assert "\n" not in str(error.value)


def on_meta(make):
    with torch.device("meta"):
        return make()


UNFIT = [
    (
        lambda: features(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 3, 9)),
        r"16 pixels vanish at the layer 2; use at least 20",
    ),
    (
        lambda: features(nn.Conv2d(3, 4, 3), nn.AvgPool2d(20)),
        r"16 pixels vanish at avg_pool2d behind the layer 0; use at least 22",
    ),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), r"ends in \[4, 14, 14\] for an image, not in features"),
]


@pytest.mark.parametrize("make, message", UNFIT)
def test_sizes_that_vanish_and_maps_for_features(make, message):
    with pytest.raises(UserError, match=message):
        topology_of(on_meta(make), "net", 3, 16)
