"""Networks of the layer set, drawn at random: `networks()` gives recipes, `build(recipe)` the torch module of one."""

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Sigmoid, nn.Hardsigmoid, nn.Identity)


class Unit(nn.Sequential):
    """Convolution, perhaps normalisation, activation, perhaps max-pool."""

    def __init__(self, inputs, outputs, kernel, stride, groups, norm, activation, pool):
        self.outputs = outputs = inputs if groups == "depthwise" else outputs
        super().__init__(
            nn.ZeroPad2d((kernel // 2, 0, kernel // 2, 1)) if stride == 2 else nn.Identity(),
            nn.Conv2d(
                inputs, outputs, kernel, stride, 0 if stride == 2 else "same",
                groups={"one": 1, "two": 2, "depthwise": inputs}[groups], bias=norm == "none",
            ),
            {"none": nn.Identity, "batch": nn.BatchNorm2d, "group": lambda n: nn.GroupNorm(2, n)}[norm](outputs)
            if norm != "none"
            else nn.Identity(),
            activation(),
            {"none": nn.Identity(), "two": nn.MaxPool2d(2), "three": nn.MaxPool2d(3, 2, 1)}[pool],
        )  # fmt: skip


class Sum(nn.Module):
    """A residual block whose branch is an inverted bottleneck."""

    def __init__(self, channels, inner, norm, activation):
        super().__init__()
        self.outputs = channels
        self.expand = Unit(channels, inner, 1, 1, "one", norm, activation, "none")
        self.depthwise = Unit(inner, inner, 3, 1, "depthwise", norm, activation, "none")
        self.project = Unit(inner, channels, 1, 1, "one", norm, nn.Identity, "none")

    def forward(self, x):
        return x + self.project(self.depthwise(self.expand(x)))


class Concatenation(nn.Module):
    """A map and what a convolution makes of it."""

    def __init__(self, channels, inner, norm, activation):
        super().__init__()
        self.outputs, self.unit = channels + inner, Unit(channels, inner, 3, 1, "one", norm, activation, "none")

    def forward(self, x):
        return torch.cat([x, self.unit(x)], dim=1)


class SqueezeExcite(nn.Module):
    def __init__(self, channels, inner, norm, activation):
        super().__init__()
        self.outputs = channels
        self.fc1, self.activation, self.fc2 = nn.Conv2d(channels, inner, 1), activation(), nn.Conv2d(inner, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


BLOCKS = {"sum": Sum, "concatenation": Concatenation, "squeeze": SqueezeExcite}


def build(channels, units, ending):
    """`units`: arguments of Unit behind its inputs, or (block, inner, norm, activation)."""
    layers = []
    for kind, *arguments in units:
        arguments = [ACTIVATIONS[a] if isinstance(a, int) and n == len(arguments) - 1 - (kind == "unit") else a
                     for n, a in enumerate(arguments)]  # fmt: skip
        layers.append((Unit if kind == "unit" else BLOCKS[kind])(channels, *arguments))
        channels = layers[-1].outputs
    layers.append({"mean": nn.AdaptiveAvgPool2d(1), "pool": nn.AvgPool2d(2), "map": nn.Dropout2d(0.0)}[ending])
    return nn.Sequential(*layers, nn.Flatten())
