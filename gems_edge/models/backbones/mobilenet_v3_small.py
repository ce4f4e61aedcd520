"""MobileNetV3-Small (Howard et al. 2019) as torchvision builds it: squeeze-and-excitation, hardswish, 5×5 depthwise."""

import torchvision
from torch import nn
from torchvision.models.mobilenetv3 import _mobilenet_v3_conf


def make(channels: int, width_multiplier: float = 1.0) -> nn.Sequential:
    """The names of tensors are those of torchvision's own weights."""
    settings, last = _mobilenet_v3_conf("mobilenet_v3_small", width_mult=width_multiplier)
    features = torchvision.models.MobileNetV3(settings, last).features
    stem: nn.Conv2d = features[0][0]
    features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, stride=2, padding=1, bias=False)
    network = nn.Sequential()
    network.add_module("features", features)
    return network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
