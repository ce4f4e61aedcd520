"""ResNet-12 as in KDD'22, section 3.1."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """conv-norm-ReLU, conv-norm-ReLU, conv-norm, 1×1-convolution skip, add, 2×2 max-pool."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.skip = nn.Conv2d(inputs, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.max_pool2d(y + self.skip(x), 2)


class ResNet12(nn.Module):
    """Four blocks; the features are the mean of the last map."""

    def __init__(self, channels: int, width_multiplier: float):
        super().__init__()
        widths = [max(1, round(width * width_multiplier)) for width in WIDTHS]
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip([channels, *widths], widths)))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images)
        return features.mean((2, 3))


def make(channels: int, width_multiplier: float = 1.0) -> ResNet12:
    return ResNet12(channels, width_multiplier)
