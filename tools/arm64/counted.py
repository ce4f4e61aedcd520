"""Runs on the emulated board: python counted.py BUNDLE. Marks what count.c counts between."""

import gc
import sys

import numpy as np
from marking import WARM_UP, mark, mark_nothing, mark_warm

from gems_edge.device import Learner

STEP, PREDICT = 20, 30


def main(path: str) -> None:
    learner = Learner.load(path, threads=1)
    bundle = learner.bundle
    count = bundle.ways * bundle.shots
    shape = (bundle.image_size, bundle.image_size, bundle.channels)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = [number % bundle.ways for number in range(count)]
    gc.disable()
    mark_nothing()
    learner.adapt(pixels, labels, WARM_UP + 1, lambda step, loss, seconds: mark(STEP + step - WARM_UP))
    mark_warm(lambda: learner.predict(pixels[:1]), PREDICT)


if __name__ == "__main__":
    main(sys.argv[1])
