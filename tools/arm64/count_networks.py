"""What the networks of the published latency table make an Arm core run, in ncnn and in onnxruntime; exact.

    python tools/arm64/count_networks.py [NAME@PIXELS …] [--cpu cortex-a72] [--runtime ncnn] [--no-caches]

Keeps the counts in networks.json, which fit_cycles.py reads: whoever fits needs no emulated board. One thread, one
warm call of ncnn's wheel (its options are those of benchncnn, float32) and of the pinned onnxruntime; by node where the
runtime tells. What is counted already is counted again only where it is named.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np
import onnx
from boards import BOARDS
from count_instructions import Counts, marks_of
from count_ops import Node, count_ops
from counted_ncnn import RUN
from debian import Unavailable, unpacked
from marking import EMPTY
from ncnn_networks import Unknown, ncnn_text
from onnx import numpy_helper
from userland import HERE, PLATFORMS, userland

sys.path.insert(0, str(HERE.parent))
from published_networks import build  # noqa: E402

RECORD = HERE / "networks.json"
NCNN = "ncnn==1.0.20261020"
PYTHON = "3.11"  # the userland's
# Of those that several boards have rows of; VGG-16 is left out: hundreds of millions of instructions a call.
NETWORKS = (
    "ShuffleNetV2-1.0@224", "SqueezeNet-1.1@227", "MnasNet-1.0@224", "MobileNetV3-Large-1.0@224", "MobileNetV1-1.0@224",
    "ShuffleNetV1-g3-1.0@224", "ProxylessNAS@224", "RegNetY-400MF@224", "BlazeFace@128", "MobileNetV2-1.0@224",
    "EfficientNet-B0@224", "CaffeNet(AlexNet)@227", "GoogLeNet@224", "ResNet-18@224", "ResNet-50@224",
)  # fmt: skip
CPUS = ("cortex-a72", "cortex-a53")
RUNTIMES = ("ncnn", "onnxruntime")
Kept = dict[str, dict[str, dict[str, dict[str, int]]]]  # network → runtime → cpu → kind of node or "whole" → counts


def graph_of(network: str) -> onnx.ModelProto:
    """NAME@PIXELS with weights of 0. Raises KeyError, ValueError for what is none."""
    name, pixels = network.split("@")
    return build(name, int(pixels))


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    return model


def count_ncnn(root: Path, cpu: str, model: onnx.ModelProto, caches: bool) -> dict[str, Counts]:
    """Of the whole call. Raises Unknown, Unavailable, CalledProcessError."""
    text = ncnn_text(model)
    wheel = unpacked("ncnn", {"requirement": NCNN}, _fetch)
    with tempfile.TemporaryDirectory(prefix="gems-edge-ncnn-") as place:
        directory = Path(place) / "network"
        directory.mkdir()
        (directory / "network.param").write_text(text)
        subprocess.run(["cp", "-r", str(wheel), str(directory / "wheel")], check=True)
        side = model.graph.input[0].type.tensor_type.shape.dim[3].dim_value
        marks = {
            m.number: m.counts for m in marks_of(root, cpu, directory, "counted_ncnn.py", [str(side)], caches=caches)
        }
    return {"whole": marks[RUN + 1] - marks[RUN] - (marks[EMPTY + 1] - marks[EMPTY])}


def _fetch(directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-compile", "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
    command += [*(f"--platform={name}" for name in PLATFORMS), "--target", str(directory), NCNN]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
        raise Unavailable(f"pip cannot fetch ncnn's arm64 wheel: {said[0]}")


def count_onnxruntime(root: Path, cpu: str, model: onnx.ModelProto, caches: bool) -> dict[str, Counts]:
    """By kind of node, and of the whole call. Raises as count_ncnn."""
    with tempfile.TemporaryDirectory(prefix="gems-edge-network-") as place:
        path = Path(place) / "network.onnx"
        path.write_bytes(with_weights(model).SerializeToString())
        call = count_ops(root, cpu, path, (), caches)
    found = {"whole": call.whole}
    for node in call.nodes:
        kind = kind_of(node)
        found[kind] = found[kind] + node.counts if kind in found else node.counts
    return found


def kind_of(node: Node) -> str:
    """An op, of convolutions also what decides which kernel runs: "depthwise 3x3", "grouped 3x3", "dense 1x1 by 2"."""
    if "Conv" not in node.op or len(node.inputs) < 2 or len(node.inputs[1]) != 4:
        return node.op
    (_, channels, height, _), (_, of_group, side, _) = node.inputs[0], node.inputs[1]
    shape = "dense" if of_group == channels else "depthwise" if of_group == 1 else "grouped"
    stride = round(height / node.outputs[0][2])
    return f"{shape} {side}x{side}" + (f" by {stride}" if stride > 1 else "")


def count(root: Path, runtime: str, cpu: str, network: str, caches: bool) -> dict[str, Counts]:
    run = count_ncnn if runtime == "ncnn" else count_onnxruntime
    return run(root, cpu, graph_of(network), caches)


def read_record() -> Kept:
    return json.loads(RECORD.read_text())["counts"] if RECORD.exists() else {}


def _write(kept: Kept, root: Path) -> None:
    holds = (root.parent / "holds.txt").read_text().splitlines()
    versions = [NCNN, *(line.replace("-", "==") for line in holds if line.startswith("onnxruntime-"))]
    document = {"counted": "one warm call, one thread, float32, one image", "versions": versions, "counts": kept}
    RECORD.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What published networks make an Arm core run.")
    parser.add_argument("networks", nargs="*", metavar="NAME@PIXELS")
    parser.add_argument("--cpu", action="append", choices=BOARDS)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--no-caches", action="store_true", help="count instructions alone, several times as fast")
    options = parser.parse_args(arguments)
    for network in options.networks:
        try:
            graph_of(network)
        except (KeyError, ValueError):
            parser.error(f"{network} is none of {', '.join(NETWORKS)}")
    kept = read_record()
    try:
        root = userland()
        for runtime in options.runtime or RUNTIMES:
            for network in options.networks or NETWORKS:
                for cpu in options.cpu or CPUS:
                    place = kept.setdefault(network, {}).setdefault(runtime, {})
                    if cpu in place and not options.networks:
                        continue
                    counts = count(root, runtime, cpu, network, not options.no_caches)
                    place[cpu] = {name: asdict(each) for name, each in counts.items()}
                    _write(kept, root)
                    print(network, runtime, cpu, *astuple(counts["whole"]), flush=True)
    except (Unavailable, Unknown) as reason:
        print(f"count_networks: {reason}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or [f"it ended with {error.returncode}"]
        print(f"count_networks: {runtime} does not run {network}: {said[-1]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
