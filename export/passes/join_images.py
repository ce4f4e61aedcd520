"""Weight gradients out of one matrix product over the pixels of all images, where the maps are small.

weight_gradients.py writes them as a product for each image and a sum over the images, which stream.py can run image by
image. As one product they need no sum, which of wide layers with small maps costs more than the products themselves.
"""

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.rewriting import constant, replace, tidy
from gems_edge.graphs.batch_axes import whole_numbers


def join_images(model: ir.Model, dims: dict[str, int], least_bytes: int) -> bool:
    """Write every Σ_images A·B, A [N, P, K], B [N, K, Q], as one product of [P, K·N] and [K·N, Q], where its operands
    over all images take less than `least_bytes`, or less than the sum does. Whether any was.

    `dims`: the sizes to plan for, {"images": N, "classes": C}.
    """
    batches = Batches.of(model, dims)
    products = [product for node in model.graph if (product := summed_product(batches, node))]
    joined = [product for product in products if why_apart(batches, product, least_bytes) is None]
    for product in joined:
        if product.by_channel:
            _join_channels(batches, product)
        else:
            _join(batches, product)
    if not joined:
        return False
    CommonSubexpressionEliminationPass()(model)  # products share their operands
    tidy(model)
    return True


@dataclass(frozen=True)
class SummedProduct:
    """Σ_images gradient · patches, as weight_gradients.of_weight writes it, or depthwise.of_weight `by_channel`."""

    total: ir.Value
    gradient: ir.Value  # [N, O, H, W]
    source: ir.Value  # [N, I, H, W]: the patches themselves, or the map whose pixels are gathered
    gather: ir.Node | None
    operands: tuple[ir.Value, ...]  # over all images; with what is gathered the map that it is gathered from
    by_channel: bool = False


def summed_product(batches: Batches, node: ir.Node) -> SummedProduct | None:
    """The pattern: a ReduceSum over the images of a MatMul of what [N, C, H, W] maps were made into."""
    if node.op_type != "ReduceSum" or node not in batches.crossing or whole_numbers(node, 1) != [0]:
        return None
    product = _producer(node.inputs[0], "MatMul")
    if product is None:
        return None
    left, right = (value for value in product.inputs if value is not None)
    if not {left, right} <= batches.batched:
        return None
    turned = _producer(left, "Transpose")
    if turned is not None and list(turned.attributes["perm"].as_ints()) == [0, 1, 3, 2]:
        source = turned.inputs[0]
        assert source is not None
        return SummedProduct(node.outputs[0], right, source, None, (source, right), by_channel=True)
    gather = _producer(right, "Gather")
    gradient = _before(left, "Reshape")
    if gather is None:
        source = _before(right, "Transpose", "Reshape")
    else:
        source = _before(gather.inputs[0], "Pad", "Transpose", "Reshape")
    if gradient is None or source is None:
        return None
    if any(len(batches.sizes[value].shape) != 4 for value in (gradient, source)):
        return None
    if gather is None and len(batches.sizes[left].shape) != 3:  # a product for each group of channels
        return None
    operands = (left, right) if gather is None else (left, right, source)
    return SummedProduct(node.outputs[0], gradient, source, gather, operands)


def why_apart(batches: Batches, product: SummedProduct, least_bytes: int) -> str | None:
    """Why a product stays one for each image; None if it is better joined."""
    size = sum(batches.sizes[value].bytes for value in product.operands)
    summing = 3 * batches.sizes[product.total].bytes  # a product and two states
    if size >= max(least_bytes, summing):
        return f"its operands over all images take {size} bytes, {least_bytes} are small and a sum takes {summing}"
    return None


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def _before(value: ir.Value | None, *kinds: str) -> ir.Value | None:
    """What `value` is made of by nodes of these kinds, the last first."""
    for kind in kinds:
        node = _producer(value, kind)
        if node is None:
            return None
        value = node.inputs[0]
    return value


def _join(batches: Batches, product: SummedProduct) -> None:
    """Both operands by image first, then by pixel: whole maps are moved. What is gathered is by pixel first, as turning
    a matrix gives it, and its gradient too."""
    tape = ir.tape.Tape(batches.graph)
    if product.gather is None:
        left = _maps_of_channels(batches, tape, product.gradient)
        right = tape.op("Transpose", [_maps_of_channels(batches, tape, product.source)], {"perm": [1, 0]})
    else:
        left = _pixels_last(batches, tape, product.gradient)
        right = _gathered(batches, tape, product.source, product.gather)
    replace(product.total, tape.op("MatMul", [left, right]))


def _maps_of_channels(batches: Batches, tape: ir.tape.Tape, maps: ir.Value) -> ir.Value:
    """[C, N·H·W] of what is [N, C, H, W]."""
    _, channels, height, width = batches.sizes[maps].shape
    flat = tape.op("Reshape", [maps, constant(batches.graph, [0, 0, height * width])])
    turned = tape.op("Transpose", [flat], {"perm": [1, 0, 2]})
    return tape.op("Reshape", [turned, constant(batches.graph, [channels, -1])])


def _join_channels(batches: Batches, product: SummedProduct) -> None:
    """[C, K, P] of what are [N, C, H, K] and [N, C, H, P]: by channel, products over the rows of all images."""
    graph, tape = batches.graph, ir.tape.Tape(batches.graph)
    rows = []
    for value in (product.source, product.gradient):
        _, channels, _, width = batches.sizes[value].shape
        rows.append(tape.op("Reshape", [_channels_first(tape, value), constant(graph, [channels, -1, width])]))
    turned = tape.op("Transpose", [rows[0]], {"perm": [0, 2, 1]})
    replace(product.total, tape.op("MatMul", [turned, rows[1]]))


def _channels_first(tape: ir.tape.Tape, maps: ir.Value) -> ir.Value:
    """[C, N, H, W] of what is [N, C, H, W]. Pieces of a map are cut out behind: it is turned once for all of them."""
    piece = _producer(maps, "Slice")
    if piece is None or not {2, 3} >= set(whole_numbers(piece, 3) or [0]):
        return tape.op("Transpose", [maps], {"perm": [1, 0, 2, 3]})
    assert piece.inputs[0] is not None
    turned = _channels_first(tape, piece.inputs[0])
    return tape.op("Slice", [turned, *piece.inputs[1:]])


def _pixels_last(batches: Batches, tape: ir.tape.Tape, maps: ir.Value) -> ir.Value:
    """[C, H·W·N] of what is [N, C, H, W]."""
    rows = tape.op("Reshape", [maps, constant(batches.graph, [0, -1])])
    turned = tape.op("Transpose", [rows], {"perm": [1, 0]})
    return tape.op("Reshape", [turned, constant(batches.graph, [batches.sizes[maps].shape[1], -1])])


def _gathered(batches: Batches, tape: ir.tape.Tape, maps: ir.Value, gather: ir.Node) -> ir.Value:
    """[places, H·W·N, C] of what is [N, C, H, W]: the pixels that `gather` picks for each place of the kernel."""
    graph, (_, channels, height, width) = batches.graph, batches.sizes[maps].shape
    places = batches.sizes[gather.outputs[0]].shape[1]
    flat = tape.op("Reshape", [maps, constant(graph, [-1, height * width])])
    turned = tape.op("Transpose", [flat], {"perm": [1, 0]})
    padded = tape.op("Pad", [turned, constant(graph, [0, 0, 1, 0])])
    seen = tape.op("Gather", [padded, gather.inputs[1]], {"axis": 0})
    return tape.op("Reshape", [seen, constant(graph, [places, -1, channels])])
