"""What the manifest tells a board of a bundle's memory beside the graphs' own cost. Needs onnx (workstation only)."""

import math
from typing import Any

import onnx

from gems_edge.device.batching import images_per_call
from gems_edge.graphs.arena import Arena
from gems_edge.graphs.cost import describe, run_requests

# Gradient steps after which the arena grows no more (ResNet-12 at 84×84 reaches its last size in the fourth).
STEPS = 5
# Support sets of so many times the planned images are simulated too: what pieces are left over changes by leaps.
TIMES = (1, 2, 3, 5, 7, 10, 16)


def arena_bytes(model: onnx.ModelProto, dims: dict[str, int], runs: int = STEPS) -> int:
    """How large onnxruntime's arena gets over `runs` runs of `model`, each fed with what the one before gave.

    Outputs are the arena's memory (onnxruntime hands them out as they are), so they are freed a run later.
    """
    requests, outputs = run_requests(model, dims)
    kept, arena = set(outputs), Arena()
    for run in range(runs):
        arena.serve(
            (f"{name}/{run}" if name in kept else name, size)
            for name, size in requests
            if size is not None or name not in kept
        )
        arena.serve((f"{name}/{run - 1}", None) for name in outputs)
    return arena.total


def memory_cost(predict: onnx.ModelProto, adapt: onnx.ModelProto, dims: dict[str, int]) -> dict[str, Any]:
    """The manifest's cost.memory, from which memory.predict_memory works.

    image_bytes: of one image as the graphs are fed it. predict, adapt: {"nodes": …, "images": […], "arena_bytes": […]},
    how many nodes the graph has, those inside Scans too, and the arena's size for some numbers of images: of a call of
    the predict graph, and of the support set, at `dims` and far beyond.
    """
    images, classes = dims["images"], dims["classes"]
    single = describe(predict, dims | {"images": 1})["peak_bytes"]
    counts = {
        "predict": sorted({1, images_per_call(single)}),
        "adapt": sorted({classes, *(times * images for times in TIMES)}),
    }
    image = next(value for value in predict.graph.input if value.name == "images").type.tensor_type.shape.dim[1:]
    tables = {
        what: {
            "nodes": _nodes(model.graph),
            "images": counts[what],
            "arena_bytes": [arena_bytes(model, dims | {"images": count}) for count in counts[what]],
        }
        for what, model in (("predict", predict), ("adapt", adapt))
    }
    return {"image_bytes": 4 * math.prod(dim.dim_value for dim in image), **tables}


def _nodes(graph: onnx.GraphProto) -> int:
    inside = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return len(graph.node) + sum(map(_nodes, inside))
