"""The networks by name: where each is made. No torch before one is made.

A new network is a module here with `make(channels, width_multiplier)`, which may take an `image_size` besides, and a
line in BACKBONES: everything else about it (layers, widths, pruning, costs, gradients on a board) follows from its
layers (models/adopt.py, docs/networks.md).
One that is not here is a function in a file of the user's (models/network_file.py).
"""

import importlib
from typing import TYPE_CHECKING

from gems_edge.errors import UserError
from gems_edge.models.network_file import FORM, NO_FILE, NetworkFile, names_file, network_of_file, taken_by

if TYPE_CHECKING:
    from torch import nn

BACKBONES = {
    "conv4": "gems_edge.models.backbones.conv4",
    "resnet12": "gems_edge.models.backbones.resnet12",
    "mobilenet-v2": "gems_edge.models.backbones.mobilenet_v2",
    "mobilenet-v3-small": "gems_edge.models.backbones.mobilenet_v3_small",
    "efficientnet-lite0": "gems_edge.models.backbones.efficientnet_lite0",
    "resnet18": "gems_edge.models.backbones.resnet18",
}


def check_backbone(name: str) -> None:
    """UserError for a name that no network has and that names no function in a file."""
    if name not in BACKBONES and not names_file(name):
        raise UserError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}, or a file's {FORM}")


def make_backbone(
    name: str, channels: int, width_multiplier: float = 1.0, file: NetworkFile = NO_FILE, image_size: int = 224
) -> "nn.Module":
    """The network as its author wrote it: images [N, channels, image_size, image_size] → features [N, F]."""
    check_backbone(name)
    values = {"channels": channels, "width_multiplier": width_multiplier, "image_size": image_size}
    if name not in BACKBONES:
        return network_of_file(name, file, values)
    make = importlib.import_module(BACKBONES[name]).make
    network: nn.Module = make(**taken_by(make, name, values))
    return network
