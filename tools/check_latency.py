"""The roofline of gems_edge.cost.latency against published rows, so that its interval has a basis.

  python tools/check_latency.py ../shared/devices/published_latencies.csv    error on ncnn's rows with known networks
  python tools/check_latency.py --overhead                                   time per op and per call on this machine

Networks are torchvision's (and MobileNetV1), counted op by op on the meta device; batch normalisation and activations
are folded as onnxruntime folds them.
"""

import argparse
import csv
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path

from gems_edge.cost.latency import ROOFLINE_SPREAD, roofline_ms
from gems_edge.cost.profiles import load_profile

BOARDS = {"Raspberry Pi 4B": "rpi-4b", "Raspberry Pi Zero 2 W": "rpi-zero-2w"}
# From this share of 3×3 stride-1 arithmetic on, ncnn's Winograd kernels (onnxruntime has none on Arm) decide the time.
WINOGRAD_SHARE = 0.35


def network_costs() -> dict[str, tuple[dict, float]]:
    """Name → ops as in GRAPHCOST at 224 px (SqueezeNet 227), and the share of MACs in 3×3 stride-1 convolutions."""
    import torch
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode
    from torchvision import models

    moved_only = (
        "max_pool2d_with_indices",
        "mean",
        "cat",
        "add",
        "add_",
        "mul",
        "mul_",
        "_adaptive_avg_pool2d",
        "clone",
    )

    def size(value) -> int:
        return value.numel() * 4 if isinstance(value, torch.Tensor) else 0

    class Counter(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.rows: list[tuple[str, int, int, bool]] = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            name = function.name().split("::")[1].split(".")[0]
            if name == "convolution":
                image, weight, stride, groups = args[0], args[1], args[3], args[8]
                macs = result.numel() * weight[0].numel()
                winograd = groups == 1 and tuple(weight.shape[2:]) == (3, 3) and list(stride) == [1, 1]
                self.rows.append(("Conv", macs, size(image) + size(weight) + size(result), winograd))
            elif name == "addmm":
                self.rows.append(("Gemm", args[2].numel() * args[1].shape[0], size(args[2]), False))
            elif name in moved_only:
                inputs = args[0] if name == "cat" else args
                output = result[0] if isinstance(result, tuple) else result
                self.rows.append((name, 0, sum(map(size, inputs)) + size(output), False))
            return result

    def mobilenet_v1() -> nn.Module:
        def separable(inputs, outputs, stride):
            return [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), nn.Conv2d(inputs, outputs, 1)]

        widths = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
        widths += [(512, 512, 1)] * 5 + [(512, 1024, 2), (1024, 1024, 1)]
        body = [layer for width in widths for layer in separable(*width)]
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)
        )

    builders = {
        "SqueezeNet-1.1": models.squeezenet1_1,
        "MobileNetV1-1.0": mobilenet_v1,
        "MobileNetV2-1.0": models.mobilenet_v2,
        "MobileNetV3-Large-1.0": models.mobilenet_v3_large,
        "ShuffleNetV2-1.0": models.shufflenet_v2_x1_0,
        "MnasNet-1.0": models.mnasnet1_0,
        "EfficientNet-B0": models.efficientnet_b0,
        "ResNet-18": models.resnet18,
        "ResNet-50": models.resnet50,
        "VGG-16": models.vgg16,
    }
    costs = {}
    for name, build in builders.items():
        pixels = 227 if name.startswith("SqueezeNet") else 224
        with torch.device("meta"), torch.no_grad():
            network, image = build().eval(), torch.empty(1, 3, pixels, pixels)
            with Counter() as counter:
                network(image)
        table = defaultdict(lambda: [0, 0, 0])
        for kind, macs, moved, _ in counter.rows:
            for column, number in enumerate((1, macs, moved)):
                table[kind][column] += number
        ops = [{"kind": kind, "count": row[0], "macs": row[1], "bytes": row[2]} for kind, row in table.items()]
        total = sum(row[1] for row in counter.rows)
        costs[name] = ({"ops": ops}, sum(row[1] for row in counter.rows if row[3]) / total)
    return costs


def compare(rows: Path) -> None:
    costs = network_costs()
    ratios: dict[bool, list[float]] = {True: [], False: []}
    with open(rows, newline="") as file:
        table = [row for row in csv.DictReader(file) if row["board"] in BOARDS and row["runtime"] == "ncnn"]
    header = f"{'board':22} {'threads':7} {'network':22} {'MMAC':>7} {'3x3':>5}"
    print(header, f"{'published':>10} {'roofline':>9} {'ratio':>6}")
    for row in table:
        if row["precision"] != "fp32" or row["model"] not in costs:
            continue
        cost, share = costs[row["model"]]
        predicted = sum(roofline_ms(cost, load_profile(BOARDS[row["board"]]), int(row["threads"])).values())
        published = float(row["latency_ms"])
        ratios[share > WINOGRAD_SHARE].append(published / predicted)
        macs = sum(op["macs"] for op in cost["ops"]) / 1e6
        print(
            f"{row['board']:22} {row['threads']:7} {row['model']:22} {macs:7.0f} {share:5.0%} "
            f"{published:10.1f} {predicted:9.1f} {published / predicted:6.2f}"
        )
    for winograd, found in ratios.items():
        if not found:
            continue
        error = statistics.mean(abs(1 / ratio - 1) for ratio in found)
        mean = math.exp(statistics.mean(map(math.log, found)))
        what = "3x3 networks (Winograd in ncnn)" if winograd else "other networks"
        print(
            f"{what}: {len(found)} rows, published/roofline {min(found):.2f} to {max(found):.2f}, "
            f"geometric mean {mean:.2f}, mean absolute error {error:.0%}"
        )
    inside = sum(ROOFLINE_SPREAD[0] <= ratio <= ROOFLINE_SPREAD[1] for ratio in ratios[False])
    print(f"inside ROOFLINE_SPREAD {ROOFLINE_SPREAD}: {inside} of {len(ratios[False])} rows of the other networks")


def overhead() -> None:
    """Median time per op and per session.run on one thread, by chains of 1 and 101 elementwise ops on 4 numbers."""
    import numpy as np
    from onnx import TensorProto, helper

    from gems_edge.device.runtime import Session

    def chain(length: int) -> Session:
        nodes = [helper.make_node("Sin" if i % 2 else "Cos", [f"x{i}"], [f"x{i + 1}"]) for i in range(length)]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x0", f"x{length}")]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        return Session(model.SerializeToString(), "chain", threads=1)

    def median_us(length: int) -> float:
        session, times = chain(length), []
        for _ in range(3000):
            start = time.perf_counter()
            session.run([f"x{length}"], {"x0": np.zeros(4, np.float32)})
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    call, long = median_us(1), median_us(101)
    print(f"per call {call:.1f} us, per op {(long - call) / 100:.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="?", type=Path, default=Path("../shared/devices/published_latencies.csv"))
    parser.add_argument("--overhead", action="store_true", help="measure this machine's overhead instead")
    arguments = parser.parse_args()
    if arguments.overhead:
        overhead()
    else:
        compare(arguments.rows)


if __name__ == "__main__":
    main()
