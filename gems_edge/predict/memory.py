"""How much memory a prediction or an adaptation takes on a board, predicted with an interval. Plain Python.

The constants were measured on x86-64 Linux (glibc 2.36, python 3.11, numpy 2.4, onnxruntime 1.31.1) with sessions as
device/runtime.py sets them up, by `python tools/check_memory.py --grid`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gems_edge.device.batching import images_per_call
from gems_edge.errors import UserError
from gems_edge.predict.prediction import Prediction

# A fresh process with python, numpy, onnxruntime, pillow and a small graph loaded, code and data, in MB (10⁶ bytes):
# 54.5 after the imports, the rest is onnxruntime's own of a session. A gradient step runs more of it than a prediction.
PROCESS_MB = {"predict": 68.1, "adapt": 69.9}
# Of it, what is pages of libraries that a system drops when it needs memory: up to so much, as PROCESS_LESS_MB says. In
# a control group of 50 MB a process runs whose peak is 89 MB beside full memory (28×28 Conv-4, 25 images).
FILES_MB = 41.0
# What onnxruntime holds of every node of a graph beside its tensors: adaptation graphs of MobileNetV2 (x 0.35) and of
# Conv-4, of 4,700 to 5,300 and of 500 nodes, differ by so much beyond their arenas (onnxruntime 1.32.0).
NODE_BYTES = 4_400
# While a session loads, a graph's constants exist in its file's bytes, parsed, and as the kernels want them (for
# predictions on x86 in blocks of channels too) …
LOADING = {"predict": 3.85, "adapt": 2.7}
# … and afterwards once.
LOADED = 1.0
# What a step takes of the moved weights beside the arena, which holds what they become.
STEPPING = 1.2
# Images are pixels (a byte) before they are the network's input (four), a call's at a time for predictions and trunks.
# Of a network without a trunk both are there at once.
PIXELS, PIXELS_AND_INPUT = 0.25, 1.25

# The interval: a share of the value, ERROR for the number of images that a bundle was planned for and ERROR_BETWEEN for
# numbers between those that the arena was simulated for, and what PROCESS_MB may be off on boards and with other
# versions: the wheels for aarch64 have 15 % less code of onnxruntime and 13 % more of numpy's BLAS than those for
# x86-64, FILES_MB are pages of such files, of which a system maps more or fewer at once, and some systems for the Pi 5
# have pages of 16 KB.
ERROR, ERROR_BETWEEN = 0.08, 0.16
PROCESS_LESS_MB, PROCESS_MORE_MB = 11.0, 14.0
SOURCE = (
    "a process measured on x86-64 ({process:g} MB with python, numpy, onnxruntime and pillow), the weights, the "
    "graph's nodes, and onnxruntime's arena simulated over its operations; interval: {error:.0%}, and what processes "
    "of other systems differ by; not calibrated on the board"
)


def predict_memory(manifest_cost: Mapping[str, Any], images: int, what: str) -> Prediction:
    """Peak resident memory of a process, in MB (10⁶ bytes).

    `manifest_cost` is the manifest's "cost"; `what` is "predict" (on `images` images, untaught or taught) or "adapt"
    (to a support set of `images` images). The value of "predict" is that of an untaught bundle, a taught one's own
    weights are in the interval. Raises UserError for another `what` or fewer than one image.
    """
    if what not in PROCESS_MB:
        raise UserError(f"memory can be predicted for predict or adapt, not {what!r}")
    if images < 1:
        raise UserError(f"memory can be predicted for 1 image or more, not {images}")
    weights = manifest_cost["predict"]["constant_bytes"]
    if what == "predict":
        heap, taught, planned = _call(manifest_cost, "predict", images), weights, True
        heap += PIXELS * manifest_cost["memory"]["image_bytes"] * images
    else:
        heap, taught = _adapting(manifest_cost, images), 0
        planned = images == manifest_cost["adapt_step"]["dims"]["images"]
    peak = PROCESS_MB[what] + heap / 1e6
    error = ERROR if planned else ERROR_BETWEEN
    return Prediction(
        peak,
        (1 - error) * peak - PROCESS_LESS_MB,
        (1 + error) * peak + PROCESS_MORE_MB + taught / 1e6,
        "MB",
        SOURCE.format(process=PROCESS_MB[what], error=error),
    )


def _call(cost: Mapping[str, Any], graph: str, images: int) -> float:
    """Bytes that a graph from images to an answer takes, whose weights are packed: of the one call in which most images
    go through it."""
    memory, constants = cost["memory"], float(cost[graph]["constant_bytes"])
    call = min(images, images_per_call(cost[graph]["peak_bytes"]))
    arena = _arena(memory[graph], call) + float(memory["image_bytes"]) * call
    nodes = NODE_BYTES * int(memory[graph]["nodes"])
    return nodes + max(LOADING["predict"] * constants, LOADED * constants + arena)


def _adapting(cost: Mapping[str, Any], images: int) -> float:
    """Bytes that gradient steps take, or the trunk before them if it takes more."""
    memory, constants = cost["memory"], float(cost["adapt_step"]["constant_bytes"])
    below = float(cost["trunk"]["constant_bytes"]) if "trunk" in cost else 0.0
    moved = max(0.0, float(cost["predict"]["constant_bytes"]) - constants - below)
    arena = _arena(memory["adapt"], images)
    steps = max(LOADING["adapt"] * constants, LOADED * constants + STEPPING * moved + arena)
    steps += NODE_BYTES * int(memory["adapt"]["nodes"])
    if "trunk" not in cost:
        return steps + PIXELS_AND_INPUT * float(memory["image_bytes"]) * images
    kept = PIXELS * float(memory["image_bytes"]) + float(memory["feature_bytes"])
    return max(steps, _call(cost, "trunk", images)) + kept * images


def _arena(table: Mapping[str, Any], images: int) -> float:
    return interpolated(table["images"], table["arena_bytes"], images)


def interpolated(points: Sequence[int], values: Sequence[float], at: float) -> float:
    """The value at `at` on the lines through `values` at the ascending `points`; beyond them the outer lines go on,
    never below 0."""
    if len(points) == 1:
        return values[0] * at / points[0]
    right = max(1, min(len(points) - 1, sum(point < at for point in points)))
    left = right - 1
    slope = (values[right] - values[left]) / (points[right] - points[left])
    return max(0.0, values[left] + slope * (at - points[left]))
