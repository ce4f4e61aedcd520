"""Measuring on this machine: time, memory of a fresh process, cold start."""

import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gems_edge.device.bundle import FEATURES, IMAGES, Bundle
from gems_edge.device.manifest import Trunk
from gems_edge.device.sessions import adapt_session, predict_session, trunk_session
from gems_edge.errors import MachineError, UserError

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Sample:
    """Quantiles of repeated measurements, each with a 95 % interval from the order statistics."""

    quantiles: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    runs: int

    def as_dict(self, unit: str, source: str, digits: int = 4) -> dict[str, Any]:
        """The form in which `bench --json` gives numbers: values by name, then unit, interval, tag and source."""
        values = {name: round(value, digits) for name, value in self.quantiles.items()}
        intervals = {name: [round(low, digits), round(high, digits)] for name, (low, high) in self.intervals.items()}
        return {**values, "unit": unit, "interval": intervals, "runs": self.runs, "tag": "measured", "source": source}


def summarise(values: Sequence[float], quantiles: dict[str, float] = QUANTILES) -> Sample:
    """Quantiles of `values`, each with the order statistics at its binomial 95 % ranks, clipped to the extremes."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    intervals = {}
    for name, q in quantiles.items():
        margin = 1.96 * np.sqrt(count * q * (1 - q))
        # Ranks count from 1 and indices from 0: so the lower one always lies below the interpolated quantile.
        ranks = [np.floor(count * q - margin) - 1, np.ceil(count * q + margin)]
        low, high = np.clip(ranks, 0, count - 1).astype(int)
        intervals[name] = (float(ordered[low]), float(ordered[high]))
    return Sample({name: float(np.quantile(ordered, q)) for name, q in quantiles.items()}, intervals, count)


def time_calls(call: Callable[[], Any], *, warm_up: int = 10, runs: int = 300, seconds: float = 5.0) -> list[float]:
    """Milliseconds of each call after the warm-up: `runs` of them or as many as `seconds` allow, at least 5."""
    for _ in range(warm_up if _milliseconds(call) * warm_up < 1e3 * seconds else 1):
        call()
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(taken) < 5 or (len(taken) < runs and time.perf_counter() < deadline):
        taken.append(_milliseconds(call))
    return taken


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def times_faster(
    call: Callable[[], Any], other: Callable[[], Any], *, rounds: int = 30, seconds: float = 0.05
) -> list[float]:
    """How many times as fast `other` is as `call`, once a round: the ratio of the medians of two blocks of calls, which
    take about `seconds` each and change their order from round to round."""
    pair = (call, other)
    counts = [max(3, round(1e3 * seconds / min(_milliseconds(each) for _ in range(3)))) for each in pair]
    ratios = []
    for number in range(rounds):
        medians = {}
        for index in (0, 1) if number % 2 else (1, 0):
            medians[index] = np.median([_milliseconds(pair[index]) for _ in range(counts[index])])
        ratios.append(float(medians[0] / medians[1]))
    return ratios


def predict_call(bundle: Bundle, threads: int | None, precision: str = "fp32") -> Callable[[], list[np.ndarray]]:
    """The untaught predict graph on one image, weights packed as initialisers, as a function without arguments."""
    head = bundle.start_head(bundle.ways)
    session = predict_session(bundle, head, threads, precision)
    feeds = {IMAGES: random_input(bundle, 1), **head}
    return lambda: session.run(["logits"], feeds)


def adapt_call(bundle: Bundle, threads: int | None) -> Callable[[], list[np.ndarray]]:
    """One gradient step on ways × shots images, as a function without arguments: on random features where there is a
    trunk."""
    weights = bundle.start_weights(bundle.ways, bundle.carried)
    session = adapt_session(bundle, threads)
    images = bundle.ways * bundle.shots
    targets = np.eye(bundle.ways, dtype=np.float32)[np.arange(images) % bundle.ways]
    inputs = random_input(bundle, images) if bundle.trunk is None else _random_features(bundle.trunk, images)
    feeds = {bundle.step_input: inputs, "targets": targets, **weights, **bundle.first_feed(True)}
    return lambda: session.run(bundle.step_outputs, feeds)


def trunk_call(bundle: Bundle, threads: int | None, precision: str = "fp32") -> Callable[[], list[np.ndarray]]:
    """The trunk on one image, as a function without arguments."""
    session = trunk_session(bundle, threads, precision)
    feeds = {IMAGES: random_input(bundle, 1)}
    return lambda: session.run([FEATURES], feeds)


def _random_features(trunk: Trunk, images: int) -> np.ndarray:
    return np.random.default_rng(0).random((images, *trunk.features), dtype=np.float32)


def random_pixels(bundle: Bundle, images: int) -> np.ndarray:
    """Noise, uint8 [N, S, S, C]: dense kernels take the same time for any content.

    It comes from Python's own generator: numpy's takes 2 MB of a process whose memory is measured.
    """
    shape = (images, bundle.image_size, bundle.image_size, bundle.channels)
    return np.frombuffer(random.Random(0).randbytes(math.prod(shape)), np.uint8).reshape(shape)


def random_input(bundle: Bundle, images: int) -> np.ndarray:
    return np.ascontiguousarray(random_pixels(bundle, images).transpose(0, 3, 1, 2), np.float32) / 255


def fresh_memory(
    path: Path, what: str, images: int, threads: int | None, repeats: int = 3, seconds: float = 15.0, steps: int = 3
) -> list[dict[str, float]]:
    """Peak resident memory of a fresh process that loads the bundle and does `what`, predict or adapt, with `images`.

    `steps` gradient steps or predictions: the memory of a step is not at its highest in the first run. `repeats`
    processes, or as many as end in `seconds`, at least two of them.
    One entry per repeat: baseline_mb after the imports, peak_mb at the end (VmHWM), files_mb of it (file_rss_mb).
    """
    numbers = map(str, (images, threads or 0, steps))
    command = [sys.executable, "-m", "gems_edge.device.probe", str(path), what, *numbers]
    return list(_repeated(lambda: json.loads(run_child(command)), repeats, seconds))


def _repeated(call: Callable[[], Any], repeats: int, seconds: float) -> Iterator[Any]:
    """Results of `repeats` calls, or of as many as `seconds` allow, then at least two."""
    deadline = time.perf_counter() + seconds
    for number in range(repeats):
        if number < 2 or time.perf_counter() < deadline:
            yield call()


def cold_starts(
    bundle: Bundle, threads: int | None, repeats: int = 5, seconds: float = 15.0, state: Path | None = None
) -> list[float]:
    """Seconds from starting `gems-edge predict BUNDLE IMAGE` to its end; a first one, which fills caches, is left out.

    With `state` what was taught is loaded too. `repeats` of them, or as many as `seconds` allow, at least two.
    """
    with tempfile.TemporaryDirectory(prefix="gems-edge-") as directory:
        image = Path(directory) / "image.png"
        Image.fromarray(random_pixels(bundle, 1)[0].squeeze()).save(image)
        command = [sys.executable, "-m", "gems_edge", "predict", str(bundle.path), str(image), "--json"]
        command += ["--threads", str(threads)] if threads else []
        command += ["--state", str(state)] if state else []
        run_child(command)
        return list(_repeated(lambda: _milliseconds(lambda: run_child(command)) / 1e3, repeats, seconds))


def run_child(command: list[str]) -> str:
    """What a process says on stdout. Raises UserError or MachineError with what it says of its failure."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        reasons = {
            "SIGILL": "this onnxruntime does not fit the processor; install another version",
            "SIGKILL": "out of memory",
        }
        raise MachineError(f"the measured process died of {name} ({reasons.get(name, 'a crash in onnxruntime')})")
    lines = done.stderr.strip().splitlines() or ["no message"]
    raise (UserError if done.returncode == 2 else MachineError)(lines[-1].removeprefix("gems-edge: "))
