"""What the manifest tells a board of a bundle's memory beside the graphs' own cost. Needs onnx (workstation only)."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx

from gems_edge.device.batching import images_per_call
from gems_edge.graphs.arena import Arena
from gems_edge.graphs.cost import RunRequests, describe, run_requests

# Gradient steps after which the arena grows no more (ResNet-12 at 84×84 reaches its last size in the fourth).
STEPS = 5
# And the calls of a trunk before them.
CALLS = 2
# Support sets of so many times the planned images are simulated too: what pieces are left over changes by leaps, the
# last where a tensor exceeds the arena's 128 MB (a 28×28 Conv-4 planned for 5 images: between 570 and 580).
TIMES = (1, 2, 3, 5, 7, 10, 16, 30, 60, 100, 120, 200)


def arena_bytes(model: onnx.ModelProto, dims: dict[str, int], runs: int = STEPS) -> int:
    """How large onnxruntime's arena gets over `runs` runs of `model`."""
    return _arena_bytes([(run_requests(model, dims), runs)])


def _arena_bytes(served: Iterable[tuple[RunRequests, int]]) -> int:
    """Over so many runs of each graph, one graph after the other: all sessions of a process share the arena, which
    gives nothing back to the system."""
    arena = Arena()
    for run, runs in served:
        _serve(arena, run, runs)
    return arena.total


def _serve(arena: Arena, run: RunRequests, runs: int) -> None:
    """The requests of `runs` runs, one after the other. Outputs are the arena's memory (onnxruntime hands them out as
    they are); whoever asked for them copies what is kept before the next run."""
    requests, given = run
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
    entries = {"image_bytes": _bytes_each(image), "predict": _table(predict, dims, _calls(predict, dims))}
    if trunk is None:
        return entries | {"adapt": _table(adapt, dims, supports)}
    calls = _calls(trunk, dims)
    # Cached: most support sets go through the trunk in calls of the same size.
    requests = functools.cache(lambda images: run_requests(trunk, dims | {"images": images}))

    def before(images: int) -> list[tuple[RunRequests, int]]:
        return [(requests(min(images, calls[-1])), CALLS)]

    return entries | {
        "adapt": _table(adapt, dims, supports, before),
        "feature_bytes": _bytes_each(trunk.graph.output[0]),
        "trunk": _table(trunk, dims, calls),
    }


def _table(
    model: onnx.ModelProto,
    dims: dict[str, int],
    counts: Sequence[int],
    before: Callable[[int], list[tuple[RunRequests, int]]] = lambda images: [],
) -> dict[str, Any]:
    """`before`: what ran in the process when a support set of so many images comes to `model`, and how often."""
    sizes = [_arena_bytes([*before(count), (run_requests(model, dims | {"images": count}), STEPS)]) for count in counts]
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
