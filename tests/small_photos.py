"""Photos that tests teach from: coloured shapes on a noisy ground."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def write_photo(path: Path, kind: int, number: int) -> None:
    """Each kind has its own colour and number of corners."""
    random = np.random.default_rng([kind, number])
    image = Image.fromarray(random.integers(180, 255, (48, 60, 3), dtype=np.uint8))
    red, green, blue = (int(value) for value in np.random.default_rng(kind).integers(0, 200, 3))
    corners, radius = 3 + kind % 6, 14 + number % 5
    ImageDraw.Draw(image).regular_polygon((30, 24, radius), corners, rotation=10 * number, fill=(red, green, blue))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_kinds(directory: Path, kinds: int, each: int) -> None:
    """A folder for every kind."""
    for kind in range(kinds):
        for number in range(each):
            write_photo(directory / f"kind-{kind}" / f"{number}.jpg", kind, number)
