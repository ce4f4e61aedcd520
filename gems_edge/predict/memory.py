"""How much memory a prediction or an adaptation takes on a board, predicted with an interval. Plain Python.

The constants were measured on x86-64 Linux (glibc 2.36, python 3.11, numpy 2.4, onnxruntime 1.31.1) with sessions as
device/runtime.py sets them up, by `python tools/check_memory.py --grid`.
"""

from collections.abc import Sequence
from typing import Any

from gems_edge.device.batching import images_per_call
from gems_edge.errors import UserError
from gems_edge.predict.prediction import Prediction

# A fresh process with python, numpy, onnxruntime, pillow and a small graph loaded, code and data, in MB (10⁶ bytes): 54.5
# after the imports, the rest is onnxruntime's own of a session. A gradient step runs more of it than a prediction.
PROCESS_MB = {"predict": 68.3, "adapt": 72.5}
# While a session loads, a graph's constants exist in its file's bytes, parsed, and as the kernels want them (for
# predictions on x86 in blocks of channels too) …
LOADING = {"predict": 3.85, "adapt": 2.7}
# … and afterwards once.
LOADED = 1.0
# What a step takes of the moved weights beside the arena, which holds them twice.
STEPPING = 0.5
# Images are pixels (a byte) before they are the network's input (four).
IMAGES = 1.25
# A bundle exported before the arena was simulated: what it grows to over the activations' liveness.
GROWTH = {"predict": 1.0, "adapt": 1.15}

# The interval. Where measured, nothing was farther off than ERROR: 6 % for the number of images that a bundle was planned
# for, 15 % between the numbers that the arena was simulated for. PROCESS_MB is other on boards and with other versions:
# the wheels for aarch64 have 15 % less code of onnxruntime and 13 % more of numpy's BLAS than those for x86-64, 41 MB are
# pages of such files, of which a system maps more or fewer at once, and some systems for the Pi 5 have pages of 16 KB.
ERROR, ERROR_BETWEEN = 0.08, 0.16
PROCESS_LESS_MB, PROCESS_MORE_MB = 11.0, 14.0
SOURCE = (
    "a process measured on x86-64 ({process:g} MB with python, numpy, onnxruntime and pillow), the weights, and "
    "onnxruntime's arena {arena}; on x86-64 within {error:.0%} of what was measured; not calibrated on the board"
)


def predict_memory(manifest_cost: dict[str, Any], images: int, what: str) -> Prediction:
    """Peak resident memory of a process, in MB (10⁶ bytes).

    `manifest_cost` is the manifest's "cost"; `what` is "predict" (on `images` images, untaught or taught) or "adapt" (to a
    support set of `images` images). The middle of "predict" is that of an untaught bundle, a taught one's own weights
    are in the interval. Raises UserError for another `what` or fewer than one image.
    """
    if what not in PROCESS_MB:
        raise UserError(f"memory can be predicted for predict or adapt, not {what!r}")
    if images < 1:
        raise UserError(f"memory can be predicted for 1 image or more, not {images}")
    known = manifest_cost.get("memory")
    weights = manifest_cost["predict"]["constant_bytes"]
    if what == "predict":
        constants, moved, taught = weights, 0, weights
        call = min(images, images_per_call(manifest_cost["predict"]["peak_bytes"]))
        arena = manifest_cost["predict"]["peak_bytes"] * call / manifest_cost["predict"]["dims"]["images"]
    else:
        constants, taught, call = manifest_cost["adapt_step"]["constant_bytes"], 0, images
        moved = max(0, weights - constants)
        arena = manifest_cost["adapt_peak"]["fixed_bytes"] + images * manifest_cost["adapt_peak"]["bytes_per_image"]
    arena = interpolated(known[what]["images"], known[what]["arena_bytes"], call) if known else GROWTH[what] * arena
    fed = IMAGES * known["image_bytes"] * images if known else 0
    heap = weights + max(LOADING[what] * constants, LOADED * constants + STEPPING * moved + arena) + fed
    planned = what == "predict" or images == manifest_cost["adapt_step"].get("dims", {}).get("images")
    error = ERROR if known and planned else ERROR_BETWEEN
    process = PROCESS_MB[what]
    middle = process + heap / 1e6
    how = "simulated over the graph's operations" if known else "estimated from the activations' liveness"
    return Prediction(
        middle,
        (1 - error) * middle - PROCESS_LESS_MB,
        (1 + error) * middle + PROCESS_MORE_MB + taught / 1e6,
        "MB",
        SOURCE.format(process=process, arena=how, error=error),
    )


def interpolated(places: Sequence[int], values: Sequence[float], at: float) -> float:
    """The value at `at` on the lines through `values` at the ascending `places`; beyond them the outer lines go on, never
    below 0."""
    if len(places) == 1:
        return values[0] * at / places[0]
    index = max(1, min(len(places) - 1, sum(place < at for place in places)))
    left, right = places[index - 1], places[index]
    slope = (values[index] - values[index - 1]) / (right - left)
    return max(0.0, values[index - 1] + slope * (at - left))
