"""ResNet-18 (He et al. 2016) as torchvision builds it."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3×3 convolutions, and what they read added: by a 1×1 convolution where their stride or width changes it."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


def _stage(inputs: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, width, stride), Block(width, width, 1))


class ResNet18(nn.Module):
    """The names of tensors are those of torchvision's own weights."""

    def __init__(self, channels: int, width_multiplier: float):
        super().__init__()
        widths = [max(1, round(width * width_multiplier)) for width in WIDTHS]
        self.conv1, self.bn1 = nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], 1)
        self.layer2 = _stage(widths[0], widths[1], 2)
        self.layer3 = _stage(widths[1], widths[2], 2)
        self.layer4 = _stage(widths[2], widths[3], 2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features.mean((2, 3))


def make(channels: int, width_multiplier: float = 1.0) -> ResNet18:
    return ResNet18(channels, width_multiplier)
