"""What tickets of one network have in common (KDD'22, sections 4.2 and 4.3), computed from their masks. numpy only.

Every function that compares tickets raises UserError where they do not have the same layers and shapes.
"""

from collections.abc import Sequence

import numpy as np

from gems_edge.errors import UserError
from gems_edge.models.ticket import Masks

# Positions compared at a time by `hamming`: float32 holds their count exactly (2^24), and 100 checkpoints fit in 26 MB.
_CHUNK = 1 << 16


def layer_ratios(masks: Masks) -> dict[str, float]:
    """Share of each layer's positions that the ticket removes, 0…1 (Fig. 6)."""
    return {name: 1 - int(mask.sum()) / mask.size for name, mask in masks.items()}


def overlap(tickets: Sequence[Masks]) -> dict[str, list[float]]:
    """O_g of each layer for g = 1…G (section 4.2, Figs. 7 and 15): [O_1, …, O_G], each 0…1.

    O_g is the share of positions kept by all of the first g tickets. The paper's denominator ‖m‖0 is the number of
    positions that the first ticket keeps in the layer: O_1 is 1 and O_g never rises. With global pruning the tickets'
    counts differ a little, so the order of the tickets matters a little. UserError also if the first ticket keeps
    nothing of a layer.
    """
    check_alike(tickets)
    shares: dict[str, list[float]] = {}
    for name, first in tickets[0].items():
        kept = int(first.sum())
        if not kept:
            raise UserError(f"ticket 1 keeps nothing of {name}; there is no overlap to measure, use a lower ratio")
        common, shares[name] = first.astype(bool), []
        for masks in tickets:
            common = common & masks[name].astype(bool)
            shares[name].append(int(common.sum()) / kept)
    return shares


def primary(tickets: Sequence[Masks], first_layer: str) -> np.ndarray:
    """The primary mask: the positions of the first layer that all tickets keep (section 4.2), in the layer's shape.

    UserError if there is none, or no such layer.
    """
    check_alike(tickets)
    if first_layer not in tickets[0]:
        raise UserError(f"the tickets have no layer {first_layer}; they have {', '.join(tickets[0])}")
    common: np.ndarray = np.logical_and.reduce([masks[first_layer] for masks in tickets])
    if not common.any():
        raise UserError(
            f"the primary mask is empty: no position of {first_layer} is kept by all {len(tickets)} tickets; "
            "use a lower ratio or tickets of the same initial weights"
        )
    return common


def emergence(first_layer_masks: Sequence[tuple[int, np.ndarray]], primary: np.ndarray) -> list[tuple[int, float]]:
    """The occurrence rate of the primary mask while training goes on (section 4.3, Fig. 9).

    Pairs (iteration, mask of the first layer then) → pairs (iteration, share of the primary mask that this mask has,
    0…1). UserError if the primary mask is empty.
    """
    total = int(primary.sum())
    if not total:
        raise UserError("the primary mask is empty; use a lower ratio or tickets of the same initial weights")
    shares = []
    for iteration, mask in first_layer_masks:
        if mask.shape != primary.shape:
            raise UserError(
                f"the mask of iteration {iteration} has the shape {mask.shape}, the primary mask {primary.shape}; "
                "they must be of the same network"
            )
        shares.append((iteration, int(np.logical_and(mask, primary).sum()) / total))
    return shares


def hamming(checkpoints: Sequence[Masks]) -> np.ndarray:
    """Distances [T, T] between whole-network masks: the share of all positions that differ, 0…1 (Figs. 10 and 11).

    Early-Bird's criterion (You et al. 2020), which section 4.3 finds not to settle for ResNet-12.
    """
    check_alike(checkpoints, "checkpoint")
    differing = np.zeros((len(checkpoints), len(checkpoints)))
    positions = 0
    for name in checkpoints[0]:
        layers = [masks[name].reshape(-1) for masks in checkpoints]
        positions += layers[0].size
        for start in range(0, layers[0].size, _CHUNK):
            kept = np.stack([layer[start : start + _CHUNK] for layer in layers]).astype(np.float32)
            both = (kept @ kept.T).astype(np.float64)
            count = np.diagonal(both)
            differing += count[:, None] + count[None, :] - 2 * both
    return differing / positions


def overlap_of(previous: np.ndarray, current: np.ndarray) -> float:
    """|previous ∧ current| / ‖current‖0, 0…1, of two masks of the first layer.

    It is what PMT watches (Algorithm 2, line 10). UserError if the shapes differ or `current` keeps nothing.
    """
    if previous.shape != current.shape:
        raise UserError(f"masks of the shapes {previous.shape} and {current.shape} have no overlap")
    kept = int(np.count_nonzero(current))
    if not kept:
        raise UserError("the mask of the first layer keeps nothing; use a lower ratio")
    return int(np.logical_and(previous, current).sum()) / kept


def check_alike(tickets: Sequence[Masks], what: str = "ticket", names: Sequence[str] = ()) -> None:
    """UserError that names the first difference in layers or shapes between the first ticket and another, and which.

    `names` say what the tickets are called, such as their paths; without them they are "ticket 1", "ticket 2", …
    """
    if not tickets:
        raise UserError(f"there is no {what} to analyse; give at least one")
    labels = list(names) or [f"{what} {number}" for number in range(1, len(tickets) + 1)]
    first = tickets[0]
    for label, masks in zip(labels[1:], tickets[1:], strict=True):
        for layer in (*first, *masks):
            if layer not in masks or layer not in first:
                has, lacks = (labels[0], label) if layer in first else (label, labels[0])
                raise UserError(f"{lacks} has no layer {layer}, which {has} has; compare tickets of one network")
            if masks[layer].shape != first[layer].shape:
                raise UserError(
                    f"{layer} has the shape {masks[layer].shape} in {label} and {first[layer].shape} in {labels[0]}; "
                    "compare tickets of one network"
                )
