"""The networks that benchmarks measure: any backbone of the registry, at any width and image size."""

from dataclasses import dataclass

from gems_edge.errors import UserError
from gems_edge.models.backbones.registry import check_backbone
from gems_edge.models.spec import ModelSpec, full_widths


@dataclass(frozen=True)
class Network:
    """A backbone whose widths are multiplied, for images of `size` pixels; those of 84 and more have colours."""

    backbone: str
    multiplier: float
    size: int

    @property
    def label(self) -> str:
        """What `read_label` reads: conv4, mobilenet-v2@0.35."""
        return self.backbone if self.multiplier == 1 else f"{self.backbone}@{self.multiplier:g}"

    @property
    def name(self) -> str:
        return f"{self.label}-{self.size}"

    @property
    def channels(self) -> int:
        return 1 if self.size < 84 else 3

    def spec(self, head: str, ways: int) -> ModelSpec:
        widths = full_widths((), self.backbone, self.multiplier, self.channels, self.size)
        return ModelSpec(self.backbone, widths, self.size, self.channels, "support", head, ways)


def read_label(label: str) -> tuple[str, float]:
    """(backbone, width multiplier) of a text like mobilenet-v2@0.35. UserError for other texts."""
    backbone, _, multiplier = label.partition("@")
    check_backbone(backbone)
    try:
        return backbone, float(multiplier or 1)
    except ValueError:
        raise UserError(f"{label!r} is no network; write BACKBONE or BACKBONE@WIDTH_MULTIPLIER") from None


def read_name(name: str) -> Network:
    """The network of a name like mobilenet-v2@0.35-96. UserError for other texts."""
    label, _, size = name.rpartition("-")
    if not size.isdigit():
        raise UserError(f"{name!r} is no network; write BACKBONE@WIDTH_MULTIPLIER-PIXELS")
    return Network(*read_label(label), int(size))
