"""How long a graph takes on a board, predicted: a roofline with an interval. Plain Python.

Terms: multiply-accumulates over the board's effective dense-convolution rate, plus bytes over its one-core copy rate,
plus a fixed time per op and per call. The first two, with no further parameter, are held against ncnn's published rows
of both boards by `python tools/check_latency.py`: the four networks with few 3×3 convolutions take 0.84 to 1.29 times
the roofline (16 rows, mean error 8 %). ncnn runs 3×3 convolutions by Winograd's method (ResNet-50:
0.58 to 0.69, VGG-16: 0.33), which onnxruntime's Arm kernels do not have, so the published onnxruntime/ncnn ratios
(1.7 to 1.9) are applied to what ncnn itself takes: ResNet-50 1.89 × 0.58, MobileNetV1 1.76 × 1.04 of the roofline.
"""

from typing import Any

from gems_edge.cost.profiles import DeviceProfile
from gems_edge.errors import UserError

# What ncnn takes over the roofline without Winograd's gain. Wider than the rows' 0.84 to 1.29, because the dense rates
# were fitted to the same rows: a fit of this kind errs by 20 % on a network that it has not seen (leave-one-out).
ROOFLINE_SPREAD = (0.75, 1.40)
# What onnxruntime takes over the roofline: ResNet-50, geometric mean of the two, MobileNetV1.
FAMILY = (1.10, 1.42, 1.83)
# A convolution whose weight is not constant is not packed ahead; a transposed one is slower: measured on x86
# at 10 to 84 pixels: lowest, typical, highest.
PENALTIES = {"Conv.fed": (1.1, 1.25, 1.6), "ConvTranspose": (1.05, 1.25, 1.5)}
CALIBRATED = frozenset({"Conv", "Conv.depthwise", "Conv.grouped", "Gemm", "MatMul", "MaxPool", "Add"})
# Ops with no published row behind them may take this much less or more than bytes over bandwidth says.
UNCALIBRATED = (0.4, 1.0, 2.5)
# The overheads per op and per call are estimates scaled from x86.
OVERHEAD = (1 / 3, 1.0, 3.0)
SOURCE = (
    "roofline, not calibrated on the board: dense 1x1 rate from ncnn's published rows, copy rate, onnxruntime "
    "1.1 to 1.8 times that, overheads estimated; interval from the published rows' errors"
)


def roofline_ms(graph_cost: dict[str, Any], profile: DeviceProfile, threads: int) -> dict[str, float]:
    """Milliseconds by kind of op: arithmetic at the dense rate plus bytes at the one-core copy rate, no corrections."""
    rate, bandwidth = profile.conv_gflops(threads), profile["bandwidth"]
    return {op["kind"]: 2 * op["macs"] / rate / 1e6 + op["bytes"] / bandwidth / 1e6 for op in graph_cost["ops"]}


def predict_latency(graph_cost: dict[str, Any], profile: DeviceProfile, threads: int | None = None) -> dict[str, Any]:
    """{"ms", "low_ms", "high_ms", "source"} of one run of a graph (a GRAPHCOST) with onnxruntime on a board.

    `threads` defaults to all cores. The interval adds up the kinds' own intervals, as errors of one board go together.
    """
    threads = profile["cores"] if threads is None else threads
    if not 1 <= threads <= profile["cores"]:
        raise UserError(
            f"{profile.name} has {profile['cores']} cores; threads must be 1 to {profile['cores']}, not {threads}"
        )
    terms = roofline_ms(graph_cost, profile, threads)
    bounds = []
    for end in range(3):  # low, middle, high
        total = OVERHEAD[end] * profile["call_overhead"] / 1000
        for op in graph_cost["ops"]:
            total += OVERHEAD[end] * op["count"] * profile["op_overhead"] / 1000 + _factor(op, end) * terms[op["kind"]]
        bounds.append(total)
    low, middle, high = bounds
    return {"ms": middle, "low_ms": low, "high_ms": high, "source": SOURCE}


def _factor(op: dict[str, Any], end: int) -> float:
    kind = op["kind"]
    if kind not in CALIBRATED and not op["macs"]:
        return UNCALIBRATED[end]
    family = (FAMILY[0] * ROOFLINE_SPREAD[0], FAMILY[1], FAMILY[2] * ROOFLINE_SPREAD[1])[end]
    return family * PENALTIES.get(kind, (1.0, 1.0, 1.0))[end]
