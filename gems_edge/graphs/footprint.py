"""What the manifest tells a board of a bundle's memory beside the graphs' own cost. Needs onnx (workstation only)."""

import math
from collections.abc import Sequence
from typing import Any

import onnx

from gems_edge.device.batching import images_per_call
from gems_edge.graphs.arena import Arena
from gems_edge.graphs.cost import describe, run_requests

# Gradient steps after which the arena grows no more (ResNet-12 at 84×84 reaches its last size in the fourth).
STEPS = 5
# Support sets of so many times the planned images are simulated too: what pieces are left over changes by leaps.
TIMES = (1, 2, 3, 5, 7, 10, 16)


# And those of a trunk, which runs call by call before them.
CALLS = 2


def arena_bytes(
    model: onnx.ModelProto, dims: dict[str, int], runs: int = STEPS, trunk: onnx.ModelProto | None = None
) -> int:
    """How large onnxruntime's arena gets over `runs` runs of `model`, and over those of a `trunk` before them.

    All sessions of a process share the arena, which gives nothing back to the system.
    """
    arena = Arena()
    if trunk is not None:
        _serve(arena, trunk, dims | {"images": min(dims["images"], max(_calls(trunk, dims)))}, CALLS)
    _serve(arena, model, dims, runs)
    return arena.total


def _serve(arena: Arena, model: onnx.ModelProto, dims: dict[str, int], runs: int) -> None:
    """The requests of `runs` runs, one after the other. Outputs are the arena's memory (onnxruntime hands them out as
    they are); whoever asked for them copies what is kept before the next run."""
    requests, given = run_requests(model, dims)
    outputs = dict.fromkeys(given)
    for _ in range(runs):
        arena.serve((name, size) for name, size in requests if size is not None or name not in outputs)
        arena.serve((name, None) for name in outputs)


def memory_cost(
    predict: onnx.ModelProto, adapt: onnx.ModelProto, dims: dict[str, int], trunk: onnx.ModelProto | None = None
) -> dict[str, Any]:
    """The manifest's cost.memory, from which memory.predict_memory works.

    image_bytes: of one image as the graphs are fed it. predict, adapt: {"nodes": …, "images": […], "arena_bytes": […]},
    how many nodes the graph has, those inside Scans too, and the arena's size for some numbers of images: of a call of
    the predict graph, and of the support set, at `dims` and far beyond. With a `trunk` its table too, the arena of
    adapt is that of both, and feature_bytes is what the trunk gives for an image.
    """
    images, classes = dims["images"], dims["classes"]
    [image] = (value for value in predict.graph.input if value.name == "images")
    supports = sorted({classes, *(times * images for times in TIMES)})
    entries = {
        "image_bytes": _bytes_each(image),
        "predict": _table(predict, dims, _calls(predict, dims)),
        "adapt": _table(adapt, dims, supports, trunk),
    }
    if trunk is not None:
        entries |= {
            "feature_bytes": _bytes_each(trunk.graph.output[0]),
            "trunk": _table(trunk, dims, _calls(trunk, dims)),
        }
    return entries


def _table(
    model: onnx.ModelProto, dims: dict[str, int], counts: Sequence[int], trunk: onnx.ModelProto | None = None
) -> dict[str, Any]:
    sizes = [arena_bytes(model, dims | {"images": count}, trunk=trunk) for count in counts]
    return {"nodes": _nodes(model.graph), "images": list(counts), "arena_bytes": sizes}


def _calls(model: onnx.ModelProto, dims: dict[str, int]) -> list[int]:
    """How many images go through a graph at a time, at least and at most."""
    return sorted({1, images_per_call(describe(model, dims | {"images": 1})["peak_bytes"])})


def _bytes_each(value: onnx.ValueInfoProto) -> int:
    """Of one image's tensor."""
    sizes: list[int] = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
    return 4 * math.prod(sizes)


def _nodes(graph: onnx.GraphProto) -> int:
    inside = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return len(graph.node) + sum(map(_nodes, inside))
