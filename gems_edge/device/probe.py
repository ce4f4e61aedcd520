"""The process whose memory `bench` measures.

python -m gems_edge.device.probe BUNDLE predict|adapt IMAGES THREADS STEPS
"""

import json
import sys

from gems_edge.device import Learner
from gems_edge.device.measure import random_pixels
from gems_edge.errors import MachineError, UserError
from gems_edge.process_memory import file_rss_mb, peak_rss_mb


def main(path: str, what: str, images: str, threads: str, steps: str) -> None:
    baseline = peak_rss_mb()
    learner = Learner.load(path, int(threads) or None, "fp32")
    pixels = random_pixels(learner.bundle, int(images))
    if what == "adapt":
        taken = int(steps) if learner.bundle.takes_steps else 0
        learner.adapt(pixels, [index % learner.bundle.ways for index in range(len(pixels))], taken)
    else:
        for _ in range(int(steps)):
            learner.predict(pixels)
    print(json.dumps({"baseline_mb": baseline, "peak_mb": peak_rss_mb(), "files_mb": file_rss_mb()}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (UserError, MachineError) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
