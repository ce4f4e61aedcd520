"""How much memory a prediction or an adaptation takes on a board, predicted with an interval. Plain Python.

Measured on x86-64 Linux, python 3.11, numpy 2.4, onnxruntime 1.31.1, as device.runtime sets sessions up (arena on, memory
pattern off), by `python tools/check_memory.py BUNDLE…`.
"""

from typing import Any

from gems_edge.errors import UserError

# A process with python, numpy, onnxruntime and pillow takes 58 MB with a one-op session at its peak; the session of a
# real graph and click bring it to 71 MB. Other versions and processors differ by some MB.
PROCESS_MB = (60.0, 71.0, 85.0)
# Constants are held by the session, and again packed, and in the bundle's own weights.
CONSTANTS = (1.0, 2.0, 3.0)
# Resident memory over the peak of live activations: 1.3 for adaptations above 10 MB, up to 2.4 for smaller ones and more for
# predictions, where the rest is a few MB that do not follow the activations.
ACTIVATIONS = {"predict": (0.95, 1.6, 4.3), "adapt": (0.95, 1.3, 2.4)}
SOURCE = (
    "liveness of the graph's activations times the heap's growth measured on x86-64, constants, and a process of "
    "python, numpy, onnxruntime and pillow (71 MB measured on x86-64); not calibrated on the board"
)


def predict_memory(manifest_cost: dict[str, Any], images: int, what: str) -> dict[str, Any]:
    """{"mb", "low_mb", "high_mb", "source"}: peak resident memory in MB (10⁶ bytes) of a process.

    `manifest_cost` is the manifest's "cost"; `what` is "predict" (on `images` images in one call) or "adapt" (a support
    set of `images` images). Raises UserError for another `what` or fewer than one image.
    """
    if what not in ACTIVATIONS:
        raise UserError(f"memory can be predicted for predict or adapt, not {what!r}")
    if images < 1:
        raise UserError(f"memory can be predicted for 1 image or more, not {images}")
    if what == "predict":
        constants = manifest_cost["predict"]["constant_bytes"]
        activations = manifest_cost["predict"]["peak_bytes"] * images / manifest_cost["predict"]["dims"]["images"]
    else:
        constants = manifest_cost["adapt_step"]["constant_bytes"]
        peak = manifest_cost["adapt_peak"]
        activations = peak["fixed_bytes"] + images * peak["bytes_per_image"]
    low, middle, high = (
        PROCESS_MB[end] + (CONSTANTS[end] * constants + ACTIVATIONS[what][end] * activations) / 1e6 for end in range(3)
    )
    return {"mb": middle, "low_mb": low, "high_mb": high, "source": SOURCE}
