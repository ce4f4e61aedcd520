"""What MMSUP's subnets of several distributions have in common. No torch."""

from collections.abc import Sequence
from itertools import combinations


def subnet_overlap(keep: dict[str, Sequence[float]]) -> dict[str, list[float]]:
    """ "a|b" → per layer, what the mean subnets of two distributions share, over what either has.

    Subnets of one θ lie inside each other, so that is the smaller kept share over the larger.
    """
    return {
        f"{a}|{b}": [round(min(x, y) / max(x, y), 4) if max(x, y) else 1.0 for x, y in zip(keep[a], keep[b])]
        for a, b in combinations(keep, 2)
    }
