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


class Tied(Repeated):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(3, 4, 1)
        self.conv.weight = self.first.weight

    def forward(self, images):
        return (self.first(images) + self.conv(images)).mean((2, 3))


class Hooked(Repeated):
    def __init__(self):
        super().__init__()
        self.conv.register_forward_hook(lambda layer, inputs, output: output * 2)

    def forward(self, images):
        return self.conv(self.first(images)).mean((2, 3))


class TwoInputs(Repeated):
    def forward(self, images, other):
        return self.conv(self.first(images) + other).mean((2, 3))


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
    (features(nn.Conv2d(3, 4, 3), nn.GELU()), r"GELU \(the layer 1\).*use SiLU"),
    (features(nn.Conv2d(3, 4, 3), nn.Softshrink()), r"Softshrink \(the layer 1\).*use Conv2d"),
    (features(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 6, 6))), r"LayerNorm \(the layer 1\).*use GroupNorm"),
    (features(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2)), r"Upsample \(the layer 1\).*enlarges"),
    (features(nn.LazyConv2d(4, 3)), r"LazyConv2d \(the layer 0\).*number of its inputs"),
    (features(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), r"the layer 0.*weight is computed"),
    (nn.DataParallel(features(nn.Conv2d(3, 4, 3))), r"the network is wrapped in DataParallel; use the module inside"),
    (features(torch.jit.script(nn.Conv2d(3, 4, 3))), r"the layer 0 is wrapped in RecursiveScriptModule"),
    (features(nn.Conv2d(3, 4, 3).requires_grad_(False)), r"the layer 0.*frozen"),
    (features(nn.Conv2d(3, 4, 3, dilation=2)), r"Conv2d \(the layer 0\).*dilation 1"),
    (features(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), r"the layer 0.*zeros"),
    (features(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), r"the layer 1.*affine=True"),
    (features(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True)), r"the layer 1.*ceil_mode"),
    (features(nn.ConvTranspose2d(3, 4, 3)), r"ConvTranspose2d \(the layer 0\)"),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten()), r"the layer 1.*AvgPool2d"),
    (Functional(torch.tanh), r"tanh \(test_adopt.py:\d+\)"),
    (Functional(lambda x: x.amax((2, 3), keepdim=True)), r"amax \(test_adopt.py:\d+\)"),
    (Functional(lambda x: x[:, :2]), r"getitem \(test_adopt.py:\d+\).*a convolution for each part"),
    (Functional(lambda x: x.chunk(2, 1)[0]), r"chunk \(test_adopt.py:\d+\).*a convolution for each part"),
    (Functional(lambda x: x.max(1, keepdim=True)[0]), r"max \(test_adopt.py:\d+\).*use MaxPool2d"),
    (Functional(lambda x: (x - 0.5) / 2), r"sub \(test_adopt.py:\d+\).*use add and multiply"),
    (Functional(lambda x: x.permute(0, 2, 3, 1)), r"permute \(test_adopt.py:\d+\).*\[N, C, H, W\]"),
    (Functional(lambda x: F.interpolate(x, scale_factor=2)), r"interpolate \(.*enlarges"),
    (Functional(lambda x: F.avg_pool2d(x, x.size()[2:])), r"avg_pool2d \(.*AdaptiveAvgPool2d\(1\)"),
    (Functional(lambda x: x.view(x.shape[0], 2, -1)), r"view \(.*use flatten\(1\)"),
    (Functional(lambda x: x.mean(3)), r"mean \(.*use mean\(\(2, 3\)\)"),
    (Functional(lambda x: x.mean()), r"mean \(.*use mean\(\(2, 3\)\)"),
    (Functional(lambda x: x * torch.linspace(0, 1, 4).view(4, 1, 1)), r"tensor .* is used without a layer"),
    (Functional(lambda x: x * x.shape[2]), r"mul \(.*a tensor's size"),
    (Functional(lambda x: [x for _ in range(x.shape[1])][0]), r"test_adopt.py:\d+ .*decides by the data"),
    (Functional(lambda x: x * float(x.max())), r"test_adopt.py:\d+ .*decides by the data"),
    (Functional(lambda x: x * int(x.argmax())), r"test_adopt.py:\d+ .*decides by the data"),
    (Functional(lambda x: [x for _ in range(x.argmax())][0]), r"test_adopt.py:\d+ .*decides by the data"),
    (Repeated(), r"the layer conv runs twice \(again in test_adopt.py:\d+\)"),
    (Tied(), r"the layer conv shares its tensors with first; .* a layer for each place"),
    (Hooked(), r"the layer conv.*has hooks"),
    (TwoInputs(), r"forward takes other beside the images"),
    (Branches(), r"test_adopt.py:\d+ .*decides by the data"),
    (Parameter(), r"the tensor scale is used without a layer"),
    (Two(), r"forward returns tuple, not features"),
]


@pytest.mark.parametrize("module, message", OUTSIDE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_outside_the_set_is_refused_by_name_and_place(module, message):
    with pytest.raises(UserError, match=rf"^net: .*{message}") as error:
        adopt(module, "net")
    assert "\n" not in str(error.value)


class Conv3x3(nn.Conv2d):
    """A layer of the set by another name, and with numbers of its own."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 3, padding=1)


class Usual(nn.Module):
    """What people write: a list in a loop, additions in place, sizes in front of a view, a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.stem, self.unused = Conv3x3(3, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(inplace=True)) for _ in range(3))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            y += x
            x = torch.relu_(y)
        images, channels, height, width = x.shape
        return F.dropout(x, 0.5, self.training).view(images, -1)


def test_what_people_write_is_adopted():
    torch.manual_seed(0)
    module, images = Usual().eval(), torch.rand(3, 3, 5, 5)
    network = adopt(module, "usual")
    assert torch.allclose(network(images, NormPass({})), module(images), atol=1e-6)
    assert not any(name.startswith("unused") for name, _ in network.named_parameters())
    assert topology_of(module.to("meta"), "usual", 3, 5).dense.widths == (6,)


def on_meta(make):
    with torch.device("meta"):
        return make()


class Crooked(Repeated):
    def forward(self, images):
        x = self.first(images)
        return (x + F.max_pool2d(self.conv(x), 2)).mean((2, 3))


UNFIT = [
    (
        lambda: features(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 3, 9)),
        r"16 pixels vanish at the layer 2; use at least 20",
    ),
    (
        lambda: features(nn.Conv2d(3, 4, 3), nn.AvgPool2d(20)),
        r"16 pixels vanish at avg_pool2d behind the layer 0; use at least 22",
    ),
    (
        lambda: features(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)),
        r"the layer 1 reads 5 inputs and gets 4 of images of 16 pixels",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(100, 9)),
        r"the layer 2 reads 100 inputs and gets 784 of images of 16 pixels; make it read 784",
    ),
    (lambda: features(nn.Conv2d(3, 4, 3), nn.Linear(14, 9)), r"Linear \(the layer 1\) reads a map; put flatten"),
    (lambda: Crooked(), r"16 pixels do not fit at add behind the layer first \(.*see its strides and paddings"),
    (lambda: features(nn.ReLU()), r"has no convolution or linear layer"),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), r"ends in \[4, 14, 14\] for an image, not in features"),
]


@pytest.mark.parametrize("make, message", UNFIT)
def test_sizes_that_vanish_and_maps_for_features(make, message):
    with pytest.raises(UserError, match=message):
        topology_of(on_meta(make), "net", 3, 16)
