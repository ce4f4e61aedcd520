"""A run and a bundle of made-up numbers, complete enough for the report and the bundle reader."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import safetensors.numpy

from gems_edge.device.bundle_files import manifest_sum

GRAPH = {
    "dims": {"images": 1, "classes": 5},
    "macs": 1_950_000,
    "bytes": 410_000,
    "peak_bytes": 150_000,
    "constant_bytes": 90_000,
    "work": {"conv3x3": 1_949_000, "gemm_weights": 1_000, "elementwise": 25_000, "ops": 9},
    "ops": [
        {"kind": "Conv", "count": 4, "macs": 1_949_000, "bytes": 300_000},
        {"kind": "MatMul", "count": 1, "macs": 1_000, "bytes": 10_000},
        {"kind": "MaxPool", "count": 4, "macs": 0, "bytes": 100_000},
    ],
}
MEMORY = {
    "image_bytes": 3_136,
    "predict": {"nodes": 40, "images": [1, 6], "arena_bytes": [200_000, 1_000_000]},
    "adapt": {"nodes": 400, "images": [5, 10], "arena_bytes": [3_300_000, 6_300_000]},
}


def manifest(name: str = "glyphs") -> dict:
    def measured(accuracy):
        return {"accuracy": accuracy, "ci95": 0.0091, "episodes": 600, "ways": 5, "shots": 1, "steps": 5}

    step = GRAPH | {
        "dims": {"images": 5, "classes": 5},
        "macs": 30_000_000,
        "bytes": 31_000_000,
        "peak_bytes": 3_300_000,
        "work": {"fed": 30_000_000, "ops": 7},
        "ops": [{"kind": "Conv.fed", "count": 7, "macs": 30_000_000, "bytes": 31_000_000}],
    }
    return {
        "format": "gems-edge-bundle", "format_version": 1, "name": name, "ways": 5, "shots": 1, "head": "shared",
        "image": {"size": 28, "channels": 1, "inverted": True}, "normalization": "support",
        "backbone": {"name": "conv4", "widths": [24, 32, 32, 32], "feature_size": 32},
        "rule": {"name": "maml", "inner_lr": 0.1, "steps": 5},
        "tensors": {"adapted": ["head.weight", "head.bias"], "constant": [], "statistics": []},
        "ratio": {"asked": 0.8, "reached": 0.795}, "params": {"before": 112_000, "after": 24_300},
        "macs": {"before": 11_200_000, "after": 1_950_000},
        "accuracy": {"support": measured(0.9123), "transductive": measured(0.934)},
        "accuracy_before": {"support": measured(0.921), "transductive": measured(0.9412)},
        "verification": {"episodes": 5, "steps": 5, "update": {"at": "head.bias", "error": 1.2e-6, "allowed": 1e-3},
                         "answer": {"at": "probabilities", "error": 2e-6, "allowed": 1e-3}},
        "cost": {"predict": GRAPH, "adapt_step": step,
                 "adapt_peak": {"fixed_bytes": 300_000, "bytes_per_image": 600_000}, "memory": MEMORY},
        "files": {},
        "provenance": {"gems_edge": "0.1.0", "torch": "2.15.0", "data": "glyphs", "run": "glyphs",
                       "created": "2026-11-21T22:00:00Z"},
    }  # fmt: skip


def write_bundle(path: Path, **changes) -> Path:
    path.mkdir()
    weights = {"head.weight": np.zeros((1, 32), np.float32), "head.bias": np.zeros(1, np.float32)}
    contents = {
        "predict.onnx": b"predict",
        "adapt.onnx": b"adapt",
        "weights.safetensors": safetensors.numpy.save(weights),
    }
    document = manifest(path.name.removesuffix(".gems")) | changes
    for file, content in contents.items():
        (path / file).write_bytes(content)
        document["files"][file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    content = json.dumps(document).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_bytes(manifest_sum(content))
    return path


def metric_lines(iterations: int = 400) -> list[dict]:
    noise = np.random.default_rng(0).normal(0, 0.03, iterations)
    lines = []
    for i in range(1, iterations + 1):
        accuracy = 0.92 - 0.7 * math.exp(-i / 80) + float(noise[i - 1])
        lines.append(
            {
                "kind": "train",
                "iteration": i,
                "loss": 1.7 * math.exp(-i / 90) + 0.2,
                "accuracy": accuracy,
                "seconds": 0.2 * i,
            }
        )
        if i % 50 == 0:
            lines.append(
                {"kind": "validation", "iteration": i, "accuracy": 0.9 - 0.7 * math.exp(-i / 80), "ci95": 0.012}
            )
    return lines


def write_run(
    path: Path, config: str = 'data = "glyphs"\nmethod = "maml"\nbackbone = "conv4"\nnormalization = "support"\n'
) -> Path:
    path.mkdir()
    (path / "config.toml").write_text(config)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metric_lines()))
    return path
