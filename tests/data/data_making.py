"""Small image sets and image files for the tests of the data room."""

import numpy as np
from PIL import Image

from gems_edge.data.imageset import ImageSet


def make_set(sizes, split, group=None, size=4, channels=1, inverted=False):
    """A small set: `sizes` images per class, each image filled with its own number."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    images = np.broadcast_to(
        (np.arange(len(label)) % 256).astype(np.uint8)[:, None, None, None], (len(label), size, size, channels)
    ).copy()
    classes = tuple(f"c{i}" for i in range(len(sizes)))
    group = None if group is None else np.asarray(group, dtype=np.int64)
    return ImageSet("made", images, label, classes, np.array(split, dtype="<U5"), group, inverted, "made by a test")


def write_image(path, seed, mode="RGB", size=(20, 24), paper=False):
    """A random image file; `paper` gives dark ink on a white border."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (size[1], size[0]) + ((3,) if mode == "RGB" else ()), dtype=np.uint8)
    if paper:
        pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = 255, 255, 255, 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_tree(root, classes=6, images=3, **options):
    """root/class_i/j.png, all different."""
    for i in range(classes):
        for j in range(images):
            write_image(root / f"class_{i:02d}" / f"{j}.png", 1000 * i + j, **options)
    return root
