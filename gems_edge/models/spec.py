"""What a model is, as plain data: a compact model differs from a dense one in `widths` alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from gems_edge.device.manifest import HEADS, NORMALIZATIONS
from gems_edge.errors import UserError
from gems_edge.models.backbones.registry import check_backbone
from gems_edge.models.network_file import NO_FILE, NetworkFile

if TYPE_CHECKING:
    from gems_edge.models.cuts import Cut
    from gems_edge.models.shapes import NetworkShape, Topology

PER_IMAGE = ("group", "frozen")  # what an image gives does not depend on others
METRICS = ("cosine", "euclidean")

T = TypeVar("T")


@dataclass(frozen=True)
class Pixels:
    """What a network does first to pixels in 0…1: (x − mean) / deviation, for each channel or one for all.

    Empty: nothing.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def check(self, channels: int) -> None:
        """UserError for numbers that are not those of so many channels."""
        if not self.mean and not self.deviation:
            return
        if len(self.mean) != len(self.deviation) or len(self.mean) not in (1, channels) or min(self.deviation) <= 0:
            raise UserError(
                f"pixels of {channels} channels have as many means and deviations above 0, or one of each; not "
                f"{list(self.mean)} and {list(self.deviation)}"
            )


@dataclass(frozen=True)
class ModelSpec:
    """Shape and mode of a few-shot model; `ways` counts only for the head "per-class".

    `widths`: the sizes of the backbone's groups of channels (models/channel_groups.py) in forward order; `file`: of a
    backbone that is in no registry; `learn_from`: what lies below that layer or block (models/cuts.py) is a frozen
    trunk, "": nothing; `metric`: what a prototype head compares features by; `pixels`: what a pretrained backbone wants
    of them.
    """

    backbone: str
    widths: tuple[int, ...]
    image_size: int
    channels: int
    normalization: str
    head: str
    ways: int
    file: NetworkFile = NO_FILE
    learn_from: str = ""
    metric: str = "cosine"
    pixels: Pixels = Pixels()

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        if self.normalization not in NORMALIZATIONS:
            raise UserError(f"unknown normalization {self.normalization!r}; choose one of {', '.join(NORMALIZATIONS)}")
        if self.head not in HEADS:
            raise UserError(f"unknown head {self.head!r}; choose one of {', '.join(HEADS)}")
        if self.metric not in METRICS:
            raise UserError(f"unknown metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        if self.channels not in (1, 3):
            raise UserError(f"images have 1 or 3 channels, not {self.channels}")
        if self.ways < 2:
            raise UserError(f"a classifier needs at least 2 ways, not {self.ways}")
        self.pixels.check(self.channels)
        self.shape  # noqa: B018  # raises for widths and an image size that do not fit
        self.cut  # noqa: B018  # raises for a cut that is none

    @property
    def cut(self) -> "Cut | None":
        """Where trunk and top meet; None: there is no trunk."""
        if not self.learn_from:
            return None
        cut = self.topology.cut(self.learn_from)
        if cut.batch_statistics and self.normalization not in PER_IMAGE:
            raise UserError(
                f"--learn-from {self.learn_from} with --normalization {self.normalization}: what lies below is "
                f"computed once per image, but {cut.batch_statistics[0]} there depends on the batch; use "
                f"--normalization {' or '.join(PER_IMAGE)}"
            )
        return cut

    def learning(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Of a model's tensors, or what goes by their names, those that a trunk does not hold still."""
        cut = self.cut
        return dict(tensors) if cut is None else cut.above(tensors)

    @property
    def macs_below(self) -> int:
        """Of `macs`, what the trunk has: once per image."""
        cut = self.cut
        return sum(layer.macs for layer in self.shape.layers[: cut.layers]) if cut else 0

    @property
    def topology(self) -> "Topology":
        """The backbone at its full widths."""
        from gems_edge.models.shapes import topology

        return topology(self.backbone, self.channels, self.image_size, file=self.file)

    @cached_property
    def shape(self) -> "NetworkShape":
        """Every layer of the backbone."""
        return self.topology.shape(self.widths)

    @property
    def feature_size(self) -> int:
        """Length of the feature vector."""
        return self.shape.feature_size

    @property
    def backbone_weights(self) -> int:
        """Weights of the backbone's layers: what a pruning ratio is a share of."""
        return self.shape.weights

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass, head of `ways` rows included."""
        return self.shape.macs + self.feature_size * self.ways


def full_widths(
    widths: tuple[int, ...], backbone: str, width_multiplier: float = 1.0, channels: int = 3, image_size: int = 96,
    file: NetworkFile = NO_FILE,
) -> tuple[int, ...]:  # fmt: skip
    """A width per group of channels, from none (the backbone's own), one N (all scaled so that the first is N) or all.

    `width_multiplier`: of the backbone's own widths, as its authors scale them. `channels` and `image_size` matter to
    a backbone alone that takes no others. UserError for an unknown backbone, a width below 1, and a multiplier that
    changes more than widths.
    """
    from gems_edge.models.shapes import topology

    check_backbone(backbone)
    if widths and min(widths) < 1:
        raise UserError(f"--widths {','.join(map(str, widths))}: every width must be 1 or more")
    if len(widths) > 1:
        return widths
    whole = topology(backbone, channels, image_size, file=file)
    if widths and whole.dense.widths:
        return tuple(max(1, widths[0] * width // whole.dense.widths[0]) for width in whole.dense.widths)
    if width_multiplier == 1:
        return whole.dense.widths
    scaled = topology(backbone, channels, image_size, width_multiplier, file)
    if not whole.narrows_to(scaled.dense):
        raise UserError(
            f"--width-multiplier {width_multiplier:g}: {backbone} then has other layers, not narrower ones (a sum or a "
            f"group more or less); use --widths N, which scales all from N channels of the first layer"
        )
    return scaled.dense.widths
