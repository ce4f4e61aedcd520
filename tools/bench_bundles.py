"""Bundles against each other on onnxruntime, alternating in one run.

    python tools/bench_bundles.py FIRST.gems OTHER.gems…

Each round times a block of calls of every bundle on the same images, in an order that turns with the round. A figure is
the median over rounds of the blocks' medians; how many times faster a bundle is than the first, the median of the
rounds' ratios. All must answer alike in kind: the same shape, finite values. Peak memory is that of fresh processes,
which alternate too (`--processes`).
"""

import json
import statistics
import sys
from pathlib import Path

import click
import numpy as np
from alternating import alternate, times_faster

from gems_edge.device.bundle import read_bundle
from gems_edge.device.measure import adapt_call, fresh_memory, predict_call


def calls(path: Path, threads: int):
    """(predict, adapt step) of a bundle as functions without arguments, on fixed random images (above a trunk, on
    random features)."""
    bundle = read_bundle(path)
    both = predict_call(bundle, threads), adapt_call(bundle, threads)
    for call in both:
        assert all(np.isfinite(result).all() for result in call())
    return both


def timings(subjects: list, index: int, seconds: float, rounds: int) -> list[dict]:
    calls = {str(place): subject[index] for place, subject in enumerate(subjects)}
    found = list(alternate(calls, rounds=rounds, block_seconds=seconds).values())
    rows = []
    for times in found:
        faster = times_faster(found[0], times)
        rows.append({
            "ms": round(statistics.median(times), 4),
            "times_faster": faster["median"],
            "times_faster_p10_p90": faster["p10_p90"],
        })  # fmt: skip
    return rows


def memory(paths: tuple[Path, ...], threads: int, processes: int) -> list[dict]:
    peaks: list[list[float]] = [[] for _ in paths]
    bundles = [read_bundle(path) for path in paths]
    for _ in range(processes):
        for place, bundle in enumerate(bundles):
            images = bundle.ways * bundle.shots
            peaks[place] += [one["peak_mb"] for one in fresh_memory(bundle.path, "adapt", images, threads, repeats=1)]
    return [
        {"peak_mb": round(statistics.median(found), 1), "least_most_mb": [min(found), max(found)]} for found in peaks
    ]


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--processes", default=5, show_default=True, help="Fresh processes of each for peak memory; 0: none.")
def main(bundles, threads, rounds, processes):
    subjects = [calls(path, threads) for path in bundles]
    parts = {name: timings(subjects, index, 0.2, rounds) for index, name in enumerate(("predict", "adapt_step"))}
    if processes:
        parts["adapt_memory"] = memory(bundles, threads, processes)
    figures = {str(path): {name: rows[number] for name, rows in parts.items()} for number, path in enumerate(bundles)}
    document = {"threads": threads, "rounds": rounds, "first": str(bundles[0]), "bundles": figures}
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
