"""Predict of two bundles on onnxruntime, alternating in one run: `python tools/bench_compact.py DENSE.gems COMPACT.gems`.

Each round times a block of calls of both bundles at batch 1 on the same images, in alternating order; the figure is the
median over rounds of the blocks' medians, the ratio the median of the rounds' ratios. Both must answer alike in kind: the
same shape, finite values. Also prints the adapt step.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np

from gems_edge.device.bundle import HEAD
from gems_edge.device.learner import Learner, adapt_session, predict_session


def calls(path: Path, threads: int):
    """(predict, adapt step) of a bundle as functions without arguments, on fixed random images."""
    learner = Learner.load(path, threads)
    bundle = learner.bundle
    random = np.random.default_rng(0)
    shape = (bundle.channels, bundle.image_size, bundle.image_size)
    start = bundle.start_weights(bundle.ways)
    images = random.random((bundle.ways * bundle.shots, *shape), dtype=np.float32)
    predict = predict_session(bundle, bundle.weights, threads)
    query = {"images": images[:1], **{name: start[name] for name in HEAD}}
    adapt = adapt_session(bundle, threads)
    targets = np.repeat(np.eye(bundle.ways, dtype=np.float32), bundle.shots, axis=0)
    feeds = {"images": images, "targets": targets, **start}
    outputs = ["loss", *(f"updated.{name}" for name in bundle.adapted), *bundle.statistics]
    for result in (*predict.run(["logits"], query), *adapt.run(outputs, feeds)):
        assert np.isfinite(result).all()
    return (lambda: predict.run(["logits"], query)), (lambda: adapt.run(outputs, feeds))


def block(call, count: int) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


@click.command()
@click.argument("dense", type=click.Path(exists=True, path_type=Path))
@click.argument("compact", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=30, show_default=True)
def main(dense, compact, threads, rounds):
    subjects = [calls(path, threads) for path in (dense, compact)]
    document = {"threads": threads, "rounds": rounds}
    for index, (name, count) in enumerate((("predict", 200), ("adapt_step", 20))):
        for subject in subjects:
            block(subject[index], count)
        found = []
        for number in range(rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            pair = {side: block(subjects[side][index], count) for side in order}
            found.append((pair[0], pair[1]))
        ratios = sorted(a / b for a, b in found)
        document[name] = {
            "dense_ms": round(statistics.median(a for a, _ in found), 4),
            "compact_ms": round(statistics.median(b for _, b in found), 4),
            "times_faster": round(statistics.median(ratios), 2),
            "times_faster_p10_p90": [round(ratios[len(ratios) // 10], 2), round(ratios[-1 - len(ratios) // 10], 2)],
        }
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
