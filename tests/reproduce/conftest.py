"""Two small image sets made of glyphs, packed by the real command: turned ones, and ink for paper, in colour."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gems_edge.data.glyphs import load_glyphs

# Classes of each split: enough for 5-way episodes.
CLASSES = {"train": 8, "val": 5, "test": 5}
IMAGES = 6


@pytest.fixture(scope="session")
def sets(cli_here, environment, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        glyphs = load_glyphs()
    for name, change in (("turned", np.rot90), ("tinted", _tinted)):
        for split, count in CLASSES.items():
            for number in glyphs.of_split(split)[:count]:
                folder = place / name / split / f"glyph{number}"
                folder.mkdir(parents=True)
                for index in np.flatnonzero(glyphs.label == number)[:IMAGES]:
                    Image.fromarray(change(glyphs.images[index, :, :, 0])).save(folder / f"{index}.png")
        cli_here("data", "pack", place / name, "-o", place / f"{name}.npz")
    return {name: place / f"{name}.npz" for name in ("turned", "tinted")}


def _tinted(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels, 255 - pixels, pixels // 2], -1)
