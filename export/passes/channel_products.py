"""Depthwise convolutions of tiny maps as one product for each channel, where all images are there at once.

lowering makes products of those without a bias; of a normalisation that is folded into its convolution (mode "frozen",
given statistics) there is one. Image by image, in the body of a Scan, such a convolution stays what it is.
"""

import onnx_ir as ir

from gems_edge.export import depthwise
from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.rewriting import constant, initializer, replace, tidy
from gems_edge.export.shapes import Convolution, pair


def multiply_channels(model: ir.Model, dims: dict[str, int]) -> bool:
    """Write every tiny depthwise Conv outside the Scans as a product; its weight is none that a session packs. Whether
    there was any.

    `dims`: the sizes to plan for, {"images": N, "classes": C}.
    """
    batches = Batches.of(model, dims)
    found = [(node, shape) for node in model.graph if (shape := tiny_convolution(batches, node))]
    for node, shape in found:
        _multiply(batches.graph, node, shape)
    if found:
        tidy(model)
    return bool(found)


def tiny_convolution(batches: Batches, node: ir.Node) -> Convolution | None:
    """The pattern: a depthwise Conv of few pixels, of all images, by a weight that is fed or made of what is fed."""
    if node.op_type != "Conv" or node.inputs[0] not in batches.batched or not _is_fed(node.inputs[1]):
        return None
    maps, weight = (batches.sizes[value].shape for value in node.inputs[:2] if value is not None)
    stride, pads = (node.attributes[name].as_ints() for name in ("strides", "pads"))
    if len(maps) != 4 or list(pads[:2]) != list(pads[2:]):
        return None
    windows = pair(weight[2:]), pair(stride), pair(pads[:2]), pair(maps[2:])
    shape = Convolution(*windows, maps[1], weight[0], node.attributes.get_int("group", 1))
    return shape if depthwise.is_tiny(shape) else None


def _is_fed(value: ir.Value | None) -> bool:
    """Whether a value depends on an input of the graph."""
    if value is None or (node := value.producer()) is None:
        return value is not None and value.is_graph_input()
    return any(_is_fed(each) for each in node.inputs)


def _multiply(graph: ir.Graph, node: ir.Node, shape: Convolution) -> None:
    """As depthwise.forward, with the bias."""
    maps, weight, *bias = node.inputs
    tape, channels = ir.tape.Tape(graph), shape.inputs
    name = f"pairs.{'.'.join(map(str, (*shape.kernel, *shape.stride, *shape.padding, *shape.sides)))}"
    places = tape.op("Reshape", [weight, constant(graph, [channels, shape.places])])
    factors = tape.op("MatMul", [places, initializer(graph, name, depthwise.pairs(shape))])
    factors = tape.op("Reshape", [factors, constant(graph, [channels, shape.pixels, shape.out_pixels])])
    flat = tape.op("Reshape", [maps, constant(graph, [0, 0, shape.pixels])])
    product = tape.op("MatMul", [tape.op("Transpose", [flat], {"perm": [1, 0, 2]}), factors])
    turned = tape.op("Transpose", [product], {"perm": [1, 0, 2]})
    result = tape.op("Reshape", [turned, constant(graph, [0, 0, *shape.out_sides])])
    if bias:
        result = tape.op("Add", [result, tape.op("Reshape", [bias[0], constant(graph, [channels, 1, 1])])])
    replace(node.outputs[0], result)
