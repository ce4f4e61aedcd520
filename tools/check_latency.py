"""Predicted times of bundles against measured ones on this machine, one thread: error, and whether the interval holds.

  gems-edge devices calibrate -o here.toml
  python tools/check_latency.py a.gems b.gems --profile here.toml [--json FILE]

Measured is the median of calls in processor time, which other programs can hardly lengthen; the bundles are run in
turn, round after round. The work is counted from the graphs themselves.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.device.measure import adapt_call, predict_call
from gems_edge.graphs.cost import describe
from gems_edge.predict.latency import latency
from gems_edge.predict.profiles import find_profile

GRAPHS = {"predict": "predict.onnx", "adapt step": "adapt.onnx"}
MOST_CALLS = 200  # a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--profile", required=True, help="of this machine: what `devices calibrate` wrote")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="per graph and round, three calls at least")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    profile = find_profile(options.profile)
    bundles = {path.name.removesuffix(".gems"): read_bundle(path) for path in options.bundles}
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, bundle in bundles.items():
            for what, call in calls(bundle).items():
                taken[name, what] += milliseconds(call, options.seconds)
    rows = []
    print(f"{'bundle':32}{'':12}{'measured ms':>12}{'predicted':>11}{'interval':>20}{'error':>8}  inside")
    for (name, what), times in taken.items():
        bundle = bundles[name]
        dims = {"images": 1 if what == "predict" else bundle.ways * bundle.shots, "classes": bundle.ways}
        predicted = latency(describe(bundle.path / GRAPHS[what], dims, channel_blocks=what == "predict"), profile, 1)
        measured = float(np.median(times))
        error, inside = predicted.value / measured - 1, predicted.low <= measured <= predicted.high
        rows.append({
            "bundle": name, "what": what, "measured_ms": measured, **predicted.as_dict("ms", digits=4), "error": error,
            "inside": inside,
        })  # fmt: skip
        interval = predicted.interval_text(".3g")
        print(
            f"{name:32}{what:12}{measured:12.3f}{predicted.value:11.3f}{interval:>20}{error:+8.0%}  "
            f"{'yes' if inside else 'NO'}"
        )
    for what in GRAPHS:
        errors = np.array([abs(row["error"]) for row in rows if row["what"] == what])
        inside = np.mean([row["inside"] for row in rows if row["what"] == what])
        print(
            f"{what}: {len(errors)} bundles, error {errors.mean():.1%} on average, {np.median(errors):.1%} in the "
            f"middle, {errors.max():.1%} at most; {inside:.0%} inside the interval"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def calls(bundle: Bundle) -> dict[str, Callable[[], object]]:
    return {"predict": predict_call(bundle, 1), "adapt step": adapt_call(bundle, 1)}


def milliseconds(call: Callable[[], object], seconds: float) -> list[float]:
    """Processor time of each call, after one that is not counted."""
    call()
    taken, deadline = [], time.perf_counter() + seconds
    while len(taken) < 3 or (len(taken) < MOST_CALLS and time.perf_counter() < deadline):
        start = time.process_time()
        call()
        taken.append(1e3 * (time.process_time() - start))
    return taken


if __name__ == "__main__":
    main()
