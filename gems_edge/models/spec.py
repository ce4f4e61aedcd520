"""What a model is, as plain data: a compact model differs from a dense one in `widths` alone. No torch here."""

import itertools
from dataclasses import dataclass

from gems_edge.errors import UserError

NORMALIZATIONS = ("transductive", "support", "group")
HEADS = ("per-class", "shared")
# Names of an update rule's meta-parameters, which travel with a model's weights, begin with this.
ADAPTER = "adapter."
# Output channels of every 3×3 convolution, in order. ResNet-12 has three a block; the block's skip has the third's.
FULL_WIDTHS = {"conv4": (64,) * 4, "resnet12": (64,) * 3 + (128,) * 3 + (256,) * 3 + (512,) * 3}
BACKBONES = tuple(FULL_WIDTHS)


@dataclass(frozen=True)
class ConvolutionShape:
    """Shape of one convolution: channels, kernel side, and the side of its (equal) input and output maps."""

    inputs: int
    outputs: int
    kernel: int
    side: int

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return self.weights * self.side**2


@dataclass(frozen=True)
class ModelSpec:
    """Shape and mode of a few-shot model; `ways` counts only for the head "per-class"."""

    backbone: str
    widths: tuple[int, ...]
    image_size: int
    channels: int
    normalization: str
    head: str
    ways: int

    def __post_init__(self) -> None:
        if self.backbone not in FULL_WIDTHS:
            raise UserError(f"unknown backbone {self.backbone!r}; choose one of {', '.join(BACKBONES)}")
        expected = len(FULL_WIDTHS[self.backbone])
        if len(self.widths) != expected or min(self.widths) < 1:
            raise UserError(
                f"{self.backbone} takes {expected} positive widths, one per convolution; got {list(self.widths)}"
            )
        if self.normalization not in NORMALIZATIONS:
            raise UserError(f"unknown normalization {self.normalization!r}; choose one of {', '.join(NORMALIZATIONS)}")
        if self.head not in HEADS:
            raise UserError(f"unknown head {self.head!r}; choose one of {', '.join(HEADS)}")
        if self.channels not in (1, 3):
            raise UserError(f"images have 1 or 3 channels, not {self.channels}")
        if self.image_size < 16:
            raise UserError(f"images of {self.image_size} pixels vanish in four 2×2 pools; use at least 16")
        if self.ways < 2:
            raise UserError(f"a classifier needs at least 2 ways, not {self.ways}")

    @property
    def feature_size(self) -> int:
        """Length of the feature vector: Conv-4 flattens its last map, ResNet-12 averages it."""
        side = self.image_size // 16
        return self.widths[-1] * (side * side if self.backbone == "conv4" else 1)

    def convolutions(self) -> list[ConvolutionShape]:
        """Every convolution of the backbone in forward order."""
        if self.backbone == "conv4":
            channels = (self.channels, *self.widths)
            return [
                ConvolutionShape(inputs, outputs, 3, self.image_size >> block)
                for block, (inputs, outputs) in enumerate(itertools.pairwise(channels))
            ]
        layers, inputs = [], self.channels
        for block in range(len(self.widths) // 3):
            first, second, third = self.widths[3 * block : 3 * block + 3]
            side = self.image_size >> block
            shapes = ((inputs, first, 3), (first, second, 3), (second, third, 3), (inputs, third, 1))
            layers += [ConvolutionShape(i, o, kernel, side) for i, o, kernel in shapes]
            inputs = third
        return layers

    @property
    def backbone_weights(self) -> int:
        """Convolution weights of the backbone: what a pruning ratio is a share of."""
        return sum(layer.weights for layer in self.convolutions())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass, head of `ways` rows included."""
        return sum(layer.macs for layer in self.convolutions()) + self.feature_size * self.ways


def full_widths(widths: tuple[int, ...], backbone: str) -> tuple[int, ...]:
    """One width per convolution, from none (the backbone's own), one N (all scaled so that the first is N) or all.

    UserError for an unknown backbone and for a width below 1.
    """
    full = FULL_WIDTHS.get(backbone)
    if full is None:
        raise UserError(f"unknown backbone {backbone!r}; choose one of {', '.join(BACKBONES)}")
    if not widths:
        return full
    if min(widths) < 1:
        raise UserError(f"--widths {','.join(map(str, widths))}: every width must be 1 or more")
    if len(widths) == 1:
        return tuple(max(1, widths[0] * width // full[0]) for width in full)
    return widths
