"""The networks by name: where each is made. No torch before one is made.

A new network is a module here with `make(channels, width_multiplier)`, and a line in BACKBONES: everything else about
it (layers, widths, pruning, costs, gradients on a board) follows from its layers (models/adopt.py, docs/networks.md).
"""

import importlib
from typing import TYPE_CHECKING

from gems_edge.errors import UserError

if TYPE_CHECKING:
    from torch import nn

BACKBONES = {
    "conv4": "gems_edge.models.backbones.conv4",
    "resnet12": "gems_edge.models.backbones.resnet12",
}


def check_backbone(name: str) -> None:
    """UserError for a name that no network has."""
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}")


def make_backbone(name: str, channels: int, width_multiplier: float = 1.0) -> "nn.Module":
    """The network as its author wrote it: images [N, channels, H, W] → features [N, F]."""
    check_backbone(name)
    network: nn.Module = importlib.import_module(BACKBONES[name]).make(channels, width_multiplier)
    return network
