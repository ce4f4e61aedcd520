"""Conv-4 as in KDD'22, section 3.1."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 64, 64, 64)


class Block(nn.Module):
    """3×3 convolution, normalisation, ReLU, 2×2 max-pool."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)


class Conv4(nn.Module):
    """Four blocks; the features are the flattened last map."""

    def __init__(self, channels: int, width_multiplier: float):
        super().__init__()
        widths = [max(1, round(width * width_multiplier)) for width in WIDTHS]
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip([channels, *widths], widths)))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images)
        return features.flatten(1)


def make(channels: int, width_multiplier: float = 1.0) -> Conv4:
    return Conv4(channels, width_multiplier)
