"""An adaptation graph with the same results in less memory: what is large runs image by image.

The maps that a gradient step needs are large because they are of all the support images at once. Nothing over whole
maps crosses images (models/normalization.py takes every statistic from the images' own moments), so the nodes around
large values become the bodies of ONNX Scan nodes, one image an iteration: a large value exists for one image at a time.
What crosses images (sums and means over the batch) stays between the Scans, exact. A value that a later Scan needs
again is computed again there, as long as that takes no more than so many convolutions; otherwise it is kept for all
images. Convolutions that multiply little, such as those that widen a narrow map, are not counted: wide maps of mobile
networks come again from the narrow ones.
"""

from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from gems_edge.export.passes.again import compute_again
from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.channel_products import multiply_channels
from gems_edge.export.passes.join_images import join_images
from gems_edge.export.passes.kept import kept_values
from gems_edge.export.passes.levels import Levels
from gems_edge.export.passes.rewriting import tidy
from gems_edge.export.passes.scans import write_scans
from gems_edge.export.passes.streamed import streamed_values
from gems_edge.graphs.cost import describe


@dataclass(frozen=True)
class Memory:
    """What of an adaptation graph runs image by image."""

    least_bytes: int  # values of at least this size, of all images together; 0: nothing
    convolutions: int  # that may run again to have such a value again, rather than to keep it
    cheap_macs: int = 0  # an element: convolutions of single pixels with no more are not counted
    most: int = 0  # convolutions up to which more are tried, where the peak falls with them


# CHEAP: what the expansion of a narrow map takes in the first blocks of a mobile network, whose maps are the largest.
# MobileNetV2 x 0.35, 25 images of 96 pixels, "low": 64 MB of activations without, 47 with, in 1.15 times the time.
# Were depthwise convolutions not counted either, it would be 44 MB in another 1.2 times the time.
CHEAP = 24
MEMORY = {"fast": Memory(1 << 22, 0), "balanced": Memory(1 << 21, 0, CHEAP), "low": Memory(1 << 19, 1, CHEAP, most=2)}


def stream(model: onnx.ModelProto, memory: Memory, dims: dict[str, int]) -> onnx.ModelProto:
    """`model`, an adaptation graph, with its large values image by image.

    `dims` are the sizes to plan for, {"images": N, "classes": C}; the graph works for any other. Inputs, outputs and
    results stay what they are, to the rounding of sums over images.
    """
    if not memory.least_bytes:
        return model
    tried = range(memory.convolutions, max(memory.convolutions, memory.most) + 1)
    graphs = [_streamed(model, replace(memory, convolutions=count), dims) for count in tried]
    return min(graphs, key=lambda graph: _peak(graph, dims)) if len(graphs) > 1 else graphs[0]


def _peak(graph: onnx.ModelProto, dims: dict[str, int]) -> int:
    peak: int = describe(graph, dims, channel_blocks=False)["peak_bytes"]
    return peak


def _streamed(model: onnx.ModelProto, memory: Memory, dims: dict[str, int]) -> onnx.ModelProto:
    rewritten = ir.from_proto(model)
    joined = join_images(rewritten, dims, memory.least_bytes)
    streamed = stream_images(rewritten, memory, dims)
    multiplied = multiply_channels(rewritten, dims)
    again = compute_again(rewritten, Batches.of(rewritten, dims))
    if not (joined or streamed or again or multiplied):
        return model
    result: onnx.ModelProto = ir.to_proto(rewritten)
    onnx.checker.check_model(result, full_check=True)
    return result


def stream_images(model: ir.Model, memory: Memory, dims: dict[str, int]) -> bool:
    """Have the large values of `model` exist for one image at a time. Whether any does."""
    batches = Batches.of(model, dims)
    streamed = streamed_values(batches, memory.least_bytes)
    if not streamed:
        return False
    levels = Levels.of(batches, streamed)
    write_scans(levels, streamed - kept_values(levels, streamed, memory.convolutions, memory.cheap_macs))
    tidy(model)
    return True
