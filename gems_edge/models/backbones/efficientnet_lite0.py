"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation): inverted residuals as MobileNetV2's.

TensorFlow's "same" padding: where a stride leaves a rest, more zeros lie behind a map than before it.
"""

from torch import Tensor, nn

STEM, LAST = 32, 1280  # not scaled with the other widths
EPSILON = 1e-3
# Of each stage: blocks, kernel, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


class Unit(nn.Module):
    """Convolution with "same" padding of maps with `side` pixels, normalisation, and ReLU6 if it is `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, side: int, groups: int = 1, active: bool = True
    ):
        super().__init__()
        zeros = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        before, behind = zeros // 2, zeros - zeros // 2
        self.pad = nn.ZeroPad2d((before, behind, before, behind)) if before != behind else nn.Identity()
        padding = before if before == behind else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, EPSILON)
        self.activation = nn.ReLU6() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(self.pad(x))))
        return y


class Block(nn.Module):
    """Expand, depthwise, project; added to what it read where nothing changed its shape."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, side: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = Unit(inputs, wide, 1, 1, side) if expansion > 1 else nn.Identity()
        self.depthwise = Unit(wide, wide, kernel, stride, side, groups=wide)
        self.project = Unit(wide, outputs, 1, 1, side, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def _scaled(channels: int, multiplier: float) -> int:
    """A multiple of 8, at most a tenth less than asked."""
    scaled = channels * multiplier
    near = max(8, int(scaled + 4) // 8 * 8)
    return near + 8 if near < 0.9 * scaled else near


def make(channels: int, width_multiplier: float = 1.0, image_size: int = 224) -> nn.Sequential:
    side = -(-image_size // 2)
    network = nn.Sequential()
    network.add_module("stem", Unit(channels, STEM, 3, 2, image_size))
    blocks, inputs = nn.Sequential(), STEM
    for count, kernel, first_stride, expansion, width in STAGES:
        outputs = _scaled(width, width_multiplier)
        for stride in (first_stride, *[1] * (count - 1)):
            blocks.append(Block(inputs, outputs, kernel, stride, expansion, side))
            inputs, side = outputs, -(-side // stride)
    network.add_module("blocks", blocks)
    network.add_module("last", Unit(inputs, LAST, 1, 1, side))
    return network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
