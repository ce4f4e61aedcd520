"""Conv-4 and ResNet-12 as in KDD'22, section 3.1, with the width of every convolution as data."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from gems_edge.models.layers import Normalization, NormPass, convolution


class ConvBlock(nn.Module):
    """3×3 convolution, normalisation, ReLU, 2×2 max-pool; ReLU keeps the order of values, so it comes last, on a
    quarter of them."""

    def __init__(self, inputs: int, outputs: int, name: str, grouped: bool):
        super().__init__()
        self.conv = convolution(inputs, outputs, 3)
        self.norm = Normalization(outputs, f"{name}.norm", grouped)

    def forward(self, x: Tensor, norm: NormPass) -> Tensor:
        return F.relu(self.norm(self.conv, x, norm, halve=True))


class Conv4(nn.Module):
    """Four ConvBlocks; features [N, C·h·w] are the flattened last map."""

    def __init__(self, widths: Sequence[int], channels: int, grouped: bool):
        super().__init__()
        inputs = [channels, *widths[:-1]]
        self.blocks = nn.ModuleList(
            ConvBlock(i, o, f"backbone.blocks.{n}", grouped) for n, (i, o) in enumerate(zip(inputs, widths))
        )

    def forward(self, images: Tensor, norm: NormPass) -> Tensor:
        x = images
        for block in self.blocks:
            x = block(x, norm)
        return x.flatten(1)


class ResidualBlock(nn.Module):
    """conv-norm-ReLU, conv-norm-ReLU, conv-norm, 1×1-convolution skip, add, 2×2 max-pool."""

    def __init__(self, inputs: int, widths: Sequence[int], name: str, grouped: bool):
        super().__init__()
        first, second, third = widths
        self.conv1, self.norm1 = convolution(inputs, first, 3), Normalization(first, f"{name}.norm1", grouped)
        self.conv2, self.norm2 = convolution(first, second, 3), Normalization(second, f"{name}.norm2", grouped)
        self.conv3, self.norm3 = convolution(second, third, 3), Normalization(third, f"{name}.norm3", grouped)
        self.skip = convolution(inputs, third, 1)

    def forward(self, x: Tensor, norm: NormPass) -> Tensor:
        y = F.relu(self.norm1(self.conv1, x, norm))
        y = F.relu(self.norm2(self.conv2, y, norm))
        y = self.norm3(self.conv3, y, norm)
        return F.max_pool2d(y + self.skip(x), 2)


class ResNet12(nn.Module):
    """Four ResidualBlocks; features [N, C] are the mean of the last map."""

    def __init__(self, widths: Sequence[int], channels: int, grouped: bool):
        super().__init__()
        triples = [tuple(widths[i : i + 3]) for i in range(0, len(widths), 3)]
        inputs = [channels, *(triple[-1] for triple in triples[:-1])]
        self.blocks = nn.ModuleList(
            ResidualBlock(i, triple, f"backbone.blocks.{n}", grouped)
            for n, (i, triple) in enumerate(zip(inputs, triples))
        )

    def forward(self, images: Tensor, norm: NormPass) -> Tensor:
        x = images
        for block in self.blocks:
            x = block(x, norm)
        return x.mean((2, 3))


BACKBONE_CLASSES = {"conv4": Conv4, "resnet12": ResNet12}
