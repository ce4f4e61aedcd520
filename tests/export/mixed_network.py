"""A small network with every kind of layer that int8 treats in a way of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mixed(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.depthwise, self.norm1 = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.plain = nn.Conv2d(8, 8, 1)
        self.wide, self.norm2 = nn.Conv2d(8, 8, 5, padding=2, groups=2, bias=False), nn.BatchNorm2d(8)
        self.norm3 = nn.BatchNorm2d(16)
        self.last, self.norm4 = nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.BatchNorm2d(16, eps=1e-4)
        self.features = nn.Linear(16, 12)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self.norm0(self.stem(images)))
        x = F.hardswish(self.norm1(self.depthwise(self.pad(x))))
        gate = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = x * F.hardsigmoid(self.excite(gate))
        x = F.relu(x + self.plain(x))
        x = torch.cat([x, F.silu(self.norm2(self.wide(x)))], 1)
        x = F.avg_pool2d(x, 3, 1, 1)
        x = F.relu(self.norm3(x))
        x = F.max_pool2d(F.relu6(self.norm4(self.last(x))), 2)
        return F.relu(self.features(x.mean((2, 3))))


def make(channels: int, width_multiplier: float = 1.0) -> Mixed:
    return Mixed(channels)
