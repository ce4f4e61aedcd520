"""fp32 against int8 of the same bundle in one run: `python tools/bench_int8.py BUNDLE…`, bundles exported with --int8.

Both graphs predict the same image in blocks that alternate and change their order; a figure is the median over rounds
of the blocks' ratios, with the order statistics at its 95 % ranks. Before it is timed, the bundle is taught some coarse
patterns, and both graphs must name the same classes on 95 of 100 of its own support images. Also printed: the bytes of
both graphs, and what it takes to make a session from taught weights, which for int8 includes quantising them.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np

from gems_edge.device.host import host_facts
from gems_edge.device.int8 import PRECISIONS
from gems_edge.device.learner import Learner
from gems_edge.device.measure import predict_call, summarise, time_calls, times_faster
from gems_edge.device.sessions import predict_session

_MEDIAN = {"p50": 0.5}
_TILES = 4  # of a pattern's side


def check_labels(learner: Learner) -> float:
    """Share of pictures that both graphs name alike after teaching; SystemExit below 0.95."""
    bundle, random = learner.bundle, np.random.default_rng(0)
    size, labels = bundle.image_size, np.repeat(np.arange(bundle.ways), 20)
    place = np.arange(size) * _TILES // size
    patterns = random.integers(30, 226, (bundle.ways, _TILES, _TILES, bundle.channels))[:, place][:, :, place]
    noise = random.normal(0, 12, (len(labels), size, size, bundle.channels))
    images = (noise + patterns[labels]).clip(0, 255).astype(np.uint8)
    learner.adapt(images, labels.tolist())
    answers = [learner.in_precision(precision).predict(images).argmax(1) for precision in PRECISIONS]
    same = float((answers[0] == answers[1]).mean())
    if same < 0.95:
        sys.exit(
            f"{bundle.path}: int8 names {100 * (1 - same):.1f} % of the pictures otherwise than fp32; nothing timed"
        )
    return same


def session_ms(learner: Learner, precision: str, repeats: int = 15) -> float:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        predict_session(learner.bundle, learner._now.weights, learner.threads, precision)
        taken.append(1e3 * (time.perf_counter() - started))
    return round(statistics.median(taken), 2)


def measured(path: Path, threads: int, rounds: int) -> dict:
    learner = Learner.load(path, threads, "int8")
    bundle, same = learner.bundle, check_labels(learner)
    fp32, int8 = (predict_call(bundle, threads, precision) for precision in PRECISIONS)
    ratio = summarise(times_faster(fp32, int8, rounds=rounds), _MEDIAN)
    times = {precision: summarise(time_calls(call), _MEDIAN) for precision, call in zip(PRECISIONS, (fp32, int8))}
    files = bundle.manifest["files"]
    return {
        "network": {**bundle.manifest["backbone"], "image_size": bundle.image_size, "channels": bundle.channels},
        "same_labels": same,
        "ms": {precision: round(sample.quantiles["p50"], 4) for precision, sample in times.items()},
        "int8_times_faster": [round(x, 2) for x in (ratio.quantiles["p50"], *ratio.intervals["p50"])],
        "bytes": {"fp32": files["predict.onnx"]["bytes"], "int8": files["predict.int8.onnx"]["bytes"]},
        "session_ms": {precision: session_ms(learner, precision) for precision in PRECISIONS},
    }


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=40, show_default=True)
def main(bundles, threads, rounds):
    found = {str(path): measured(path, threads, rounds) for path in bundles}
    json.dump({"host": host_facts(), "threads": threads, "rounds": rounds, "bundles": found}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
