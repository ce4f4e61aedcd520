"""What a ticket is, as data: which weights, or which channels, of a dense network are kept. No torch here.

The file is safetensors: every mask as bits (numpy.packbits), everything else as JSON in the header.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.errors import UserError
from gems_edge.files import parse_json
from gems_edge.models.spec import ModelSpec
from gems_edge.models.tensor_names import ADAPTER
from gems_edge.sealed import by_name, read_sealed, write_sealed

# bool arrays by name, True where kept. Weight tickets: the shape of each weight, by its name in the model, in forward
# order, head last. Channel tickets: [channels] of each 3×3 convolution, by "widths.N" in the order of ModelSpec.widths.
Masks = dict[str, np.ndarray]

FORMAT = "gems-edge ticket 1"
UNITS = ("weight", "channel")


@dataclass(frozen=True)
class Ticket:
    method: str  # mwt, rr, rm, sr, snip, untrained, omt, pm, pmt
    unit: str  # weight or channel
    ratio: float  # asked: share of weights to remove
    masks: Masks
    model: dict[str, Any]  # the dense network it is a ticket of, see `model_of`
    found: dict[str, Any] = field(default_factory=dict)  # how: iterations, seconds, overlaps, …

    @property
    def kept(self) -> float:
        """Share of the positions (weights or channels) that the masks keep."""
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(mask.size for mask in self.masks.values())

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every 3×3 convolution after physical removal; the dense ones for a weight ticket."""
        if self.unit == "weight":
            return tuple(self.model["widths"])
        return tuple(int(mask.sum()) for mask in self.masks.values())

    def spec(self, dense: ModelSpec) -> ModelSpec:
        """The network that the ticket's weights live in: `dense` itself, or the compact one of a channel ticket."""
        return replace(dense, widths=self.widths)


def model_of(spec: ModelSpec) -> dict[str, Any]:
    """What must agree for a ticket to fit a model."""
    return {
        "backbone": spec.backbone,
        "widths": list(spec.widths),
        "image_size": spec.image_size,
        "channels": spec.channels,
        "head": spec.head,
        "ways": spec.ways if spec.head == "per-class" else 0,
        **({"learn_from": spec.learn_from} if spec.learn_from else {}),
    }


def maskable(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Names of the network's convolution and linear weights: tensors of two or more axes (KDD'22, 3.1).

    Meta-parameters of an update rule ("adapter.…") are not the network's.
    """
    return tuple(name for name, shape in shapes.items() if len(shape) >= 2 and not name.startswith(ADAPTER))


def check_fits(ticket: Ticket, spec: ModelSpec, where: Path | str) -> Ticket:
    """`ticket` if it is one of this dense model, else UserError that names the first difference."""
    wanted = model_of(spec)
    for name, value in wanted.items():
        if ticket.model.get(name) != value:
            raise UserError(
                f"{where} is a ticket of another model: its {name.replace('_', ' ')} is {ticket.model.get(name)}, "
                f"this model's is {value}"
            )
    if ticket.unit == "channel" and [mask.size for mask in ticket.masks.values()] != wanted["widths"]:
        raise UserError(f"{where} does not fit its own model: its masks are not of the widths {wanted['widths']}")
    return ticket


def save_ticket(path: Path | str, ticket: Ticket) -> None:
    from safetensors.numpy import save

    about = {
        "method": ticket.method,
        "unit": ticket.unit,
        "ratio": ticket.ratio,
        "model": ticket.model,
        "found": ticket.found,
        "shapes": {name: list(mask.shape) for name, mask in ticket.masks.items()},
    }
    bits = {name: np.packbits(mask.reshape(-1)) for name, mask in ticket.masks.items()}
    write_sealed(path, save(bits, {"format": FORMAT, "ticket": json.dumps(about)}))


def load_ticket(path: Path | str) -> Ticket:
    """UserError for a file that is missing, cut short, not a ticket, or whose masks leave a layer empty."""
    import safetensors
    from safetensors.numpy import load

    path = Path(path)
    try:
        content, header = read_sealed(path)
        bits = by_name(load(content))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path} is not there; give a ticket file or a run that was trained with --ticket") from None
    except UserError as error:
        raise UserError(f"{error}; make it anew with gems-edge ticket find") from None
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a type numpy has not (bfloat16)
        raise UserError(f"{path} is damaged or no ticket ({error}); make it anew with gems-edge ticket find") from None
    if header.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path} has the format {header['format']!r}; this version reads {FORMAT!r}")
    try:
        ticket = _ticket_of(header, bits)
    except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path} is no ticket ({error}); make it anew with gems-edge ticket find") from None
    for name, mask in ticket.masks.items():
        if not mask.any():
            raise UserError(f"{path} leaves {name} empty; such a network answers at random")
    return ticket


def _ticket_of(header: Mapping[str, str], bits: Mapping[str, np.ndarray]) -> Ticket:
    """The ticket in a file's metadata and tensors. UserError and what Python raises for anything else."""
    about = parse_json(header["ticket"].encode(), "what it says")
    masks = {name: _unpacked(bits[name], shape) for name, shape in about.pop("shapes").items()}
    ticket = Ticket(masks=masks, **about)
    if ticket.unit not in UNITS or not masks or not isinstance(ticket.model, dict):
        raise ValueError(f"unit {ticket.unit!r}, {len(masks)} masks, model {ticket.model!r}")
    if not isinstance(ticket.method, str) or not isinstance(ticket.found, dict) or not _is_share(ticket.ratio):
        raise ValueError(f"method {ticket.method!r}, ratio {ticket.ratio!r}, found {ticket.found!r}")
    if not isinstance(widths := ticket.model.get("widths"), list) or not all(type(width) is int for width in widths):
        raise ValueError(f"widths {widths!r}")
    return ticket


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _unpacked(bits: np.ndarray, shape: Any) -> np.ndarray:
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"shape {shape!r}")
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.ndim != 1 or len(bits) != (size + 7) // 8:
        raise ValueError(f"{len(bits)} bytes for a mask of {size} bits")
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)
