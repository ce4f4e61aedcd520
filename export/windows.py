"""What a window's places see of a map, cut out of it."""

from collections.abc import Sequence

from gems_edge.export.builder import GraphBuilder
from gems_edge.export.shapes import Window


def padded(b: GraphBuilder, x: str, window: Window, value: float = 0.0) -> str:
    """The map [N, C, H, W] with the padding that the window sees."""
    behind = window.behind()
    if not any((*window.padding, *behind)):
        return x
    filling = (b.constant(value),) if value else ()
    return b.op("Pad", x, b.constant([0, 0, *window.padding, 0, 0, *behind]), *filling)


def seen_from(b: GraphBuilder, x: str, window: Window, place: Sequence[int]) -> str:
    """What a place of the kernel sees of a `padded` map from all of its positions: [N, C, H', W']."""
    sides = [side + p + q for side, p, q in zip(window.sides, window.padding, window.behind())]
    if window.stride == (1, 1) and tuple(sides) == window.out_sides:
        return x
    ends = [at + (count - 1) * step + 1 for at, count, step in zip(place, window.out_sides, window.stride)]
    steps = (b.constant(list(window.stride)),) if window.stride != (1, 1) else ()
    return b.op("Slice", x, b.constant(list(place)), b.constant(ends), b.constant([2, 3]), *steps)
