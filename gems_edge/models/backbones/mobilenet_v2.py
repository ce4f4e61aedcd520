"""MobileNetV2 (Sandler et al. 2018) as torchvision builds it: inverted residuals, depthwise convolutions, ReLU6."""

import torchvision
from torch import nn


def make(channels: int, width_multiplier: float = 1.0) -> nn.Sequential:
    """The names of tensors are those of torchvision's own weights."""
    features = torchvision.models.mobilenet_v2(width_mult=width_multiplier).features
    stem: nn.Conv2d = features[0][0]
    features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, stride=2, padding=1, bias=False)
    network = nn.Sequential()
    network.add_module("features", features)
    return network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
