"""predict.onnx on bytes: QuantizeLinear and DequantizeLinear around what onnxruntime then runs on integers.

Any tool can run them; onnxruntime makes one integer operation of what stands between two of them. What is on bytes,
by patterns (times: onnxruntime 1.32, one x86 core with VNNI):

- Convolutions, with weights int8 and a scale for each output channel. One that reads the image stays float32 if it
  has a stride or a pool behind it: with three input channels the int8 kernel is the slower one, and a quarter of the
  map is left to quantise. Where the map keeps its size (ResNet-12), float32 costs more than it saves: 1.8 for 1.5 ms
  with a quarter of the widths.
- Sums, products, concatenations, sigmoids and average pools, where one of the tensors is on bytes already, each with a
  range of its own; max-pools, which keep their input's. A mean of whole maps that a convolution reads is an average
  pool. A hardsigmoid is a sum on bytes. A squeeze-excite network with hardswish (10 M MACs) so has no float32 between
  its maps: 7.4 M instructions on a Cortex-A72 for 8.4 M, and 0.45 ms for 0.57 (float32: 25.2 M, 0.53 ms).
- A ReLU or another clamp behind any of these is left out: the range of its bytes does the same.
- All else is float32: normalisations without a convolution, linear layers, and the mean behind the last map. The head
  is less than a hundredth of the work, and the number of its rows is the user's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gems_edge.device.bundle import HEAD
from gems_edge.device.int8 import Layer, Quantisation, layer_tensors
from gems_edge.export.passes.fold import Arrays, fold
from gems_edge.export.passes.pads import absorb_pads
from gems_edge.export.passes.rewriting import constant, initializer
from gems_edge.graphs.batch_axes import whole_numbers
from gems_edge.graphs.ops import row_of
from gems_edge.graphs.values import only_reader

# The map that is the image itself: 0…1 in 256 steps, the pixels as they were.
IMAGE = "images"
Scale = tuple[np.float32, np.uint8]  # and the zero point
_OWN_RANGE = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"})
_SAME_RANGE = frozenset({"MaxPool"})


@dataclass
class Network:
    """predict.onnx in float32 with folded convolutions, and what of it is to be on bytes."""

    graph: ir.Graph
    layers: dict[ir.Node, Layer]  # convolution → what it is made of, and the map that it reads on bytes
    maps: dict[ir.Value, str] = field(default_factory=dict)  # in forward order → the name of the map's scale
    clamped: set[ir.Value] = field(default_factory=set)  # maps behind a clamp that their range stands for
    constants: set[ir.Value] = field(default_factory=set)  # what no image reaches

    @property
    def names(self) -> tuple[str, ...]:
        """The maps' names in forward order, without the image's."""
        return tuple(name for name in dict.fromkeys(self.maps.values()) if name != IMAGE)


def with_ranges(predict: onnx.ModelProto, weights: Arrays) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The folded float32 graph with the outputs low.NAME and high.NAME of every map but the image, and the names.

    `weights`: the tensors to predict with, float32, by their names in the bundle. Raises UserError as `fold`.
    """
    model = ir.from_proto(predict)
    network = _planned(model, weights)
    values = {name: value for value, name in reversed(network.maps.items())}  # of a max-pool the map that it reads
    for name in network.names:
        for end, kind in (("low", "ReduceMin"), ("high", "ReduceMax")):
            reduced = ir.val(f"{end}.{name}", ir.DataType.FLOAT, [])
            model.graph.append(ir.node(kind, [values[name]], {"keepdims": 0}, outputs=[reduced]))
            model.graph.outputs.append(reduced)
    return _checked(model), network.names


def with_bytes(
    predict: onnx.ModelProto, weights: Arrays, scales: Mapping[str, Scale]
) -> tuple[onnx.ModelProto, Quantisation]:
    """predict.int8.onnx at `weights` with the maps' scales and zero points, and what a board writes anew in it.

    Raises UserError as `fold`.
    """
    model = ir.from_proto(predict)
    network = _planned(model, weights)
    for node, layer in network.layers.items():
        if layer.reads is not None:
            _quantise_weights(model.graph, node, layer_tensors(layer, weights, float(scales[layer.reads][0])))
    for value, name in network.maps.items():
        _quantise_map(network, value, name, scales[name])
    result = _checked(model)
    tensors = [tensor.name for tensor in result.graph.initializer if tensor.name in weights and tensor.name not in HEAD]
    return result, Quantisation(tuple(network.layers.values()), tuple(tensors))


# What is on bytes


def _planned(model: ir.Model, weights: Arrays) -> Network:
    """`model` at `weights`, folded and planned."""
    for name, value in model.graph.initializers.items():
        if name in weights:
            value.const_value = ir.tensor(weights[name], name=name)
    absorb_pads(model)
    network = Network(model.graph, fold(model, weights))
    RemoveUnusedNodesPass()(model)
    for node in network.layers:
        _pool_average(node)
        _order_pool(model.graph, node)
    for node in model.graph:
        _plan(network, node)
    return network


def _plan(network: Network, node: ir.Node) -> None:
    """Enter the maps that `node` reads and gives."""
    maps, output = network.maps, node.outputs[0]
    sources = [value for value in node.inputs if value is not None and not _is_constant(network, value)]
    if not sources:
        network.constants.update(node.outputs)
    elif output in network.clamped:
        return
    elif node in network.layers:
        if not _is_small_stem(node):
            layer, read = network.layers[node], sources[0]
            network.layers[node] = replace(layer, reads=maps.setdefault(read, str(read.name)))
            _give(network, output, layer.weight.removeprefix("backbone.").removesuffix(".weight"))
    elif node.op_type in _SAME_RANGE and sources[0] in maps:
        maps[output] = maps[sources[0]]
    elif node.op_type in _OWN_RANGE and maps.keys() & sources and len(sources) == len(node.inputs):
        for value in sources:
            maps.setdefault(value, str(value.name))
        _give(network, output, str(output.name))


def _is_constant(network: Network, value: ir.Value) -> bool:
    return value in network.constants or (value.producer() is None and not value.is_graph_input())


def _give(network: Network, output: ir.Value, name: str) -> None:
    """The result of an integer operation, with a clamp behind it perhaps, as the map `name`."""
    clamp = only_reader(output)
    if clamp is not None and row_of(clamp.op_type).clamps:
        output = clamp.outputs[0]
        network.clamped.add(output)
    network.maps[output] = name


def _behind(node: ir.Node) -> list[ir.Node]:
    """A clamp and a max-pool behind a convolution that nothing else reads, or one of them, in their order."""
    found: list[ir.Node] = []
    while (reader := only_reader((found[-1] if found else node).outputs[0])) and len(found) < 2:
        if reader.op_type != "MaxPool" and not row_of(reader.op_type).clamps:
            break
        found.append(reader)
    return found


def _is_small_stem(node: ir.Node) -> bool:
    """Whether a convolution reads the image and leaves at most a quarter of its places to quantise."""
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else [1]
    pooled = any(reader.op_type == "MaxPool" for reader in _behind(node))
    return _is_image(node.inputs[0]) and (pooled or min(strides) > 1)


def _is_image(value: ir.Value | None) -> bool:
    """Whether a map is the image, or its pixels brought to another mean and deviation."""
    producer = value.producer() if value is not None else None
    if producer is None:
        return value is not None and value.name == IMAGE
    sources = [source for source in producer.inputs if source is not None and source.const_value is None]
    return producer.op_type in ("Mul", "Add") and len(sources) == 1 and _is_image(sources[0])


# Rewriting


def _order_pool(graph: ir.Graph, node: ir.Node) -> None:
    """A clamp and a max-pool behind a convolution may change places. On bytes the clamp comes first, where the range
    stands for it; in float32 the pool, which leaves a quarter to clamp, and as a Max: onnxruntime would drop a Relu and
    move QuantizeLinear to the front of the pool."""
    behind, small_stem = _behind(node), _is_small_stem(node)
    if sum(reader.op_type == "MaxPool" for reader in behind) != 1 or len(behind) != 2:
        return
    if (behind[0].op_type == "MaxPool") != small_stem:
        _exchange(graph, *behind)
        behind.reverse()
    if small_stem:
        _, clamp = behind
        low = clamp.inputs[1] if clamp.op_type == "Clip" else None
        low = low or constant(graph, np.asarray(0, np.float32))
        output = ir.val(f"{clamp.name}.max")
        graph.insert_before(clamp, ir.node("Max", [clamp.inputs[0], low], outputs=[output], name=output.name))
        clamp.outputs[0].replace_all_uses_with(output)
        graph.remove(clamp)


def _pool_average(node: ir.Node) -> None:
    """Where a convolution reads the mean of whole maps, it is a GlobalAveragePool, which there is on bytes."""
    mean = node.inputs[0].producer() if node.inputs[0] else None
    if mean and mean.op_type == "ReduceMean" and whole_numbers(mean, 1) == [2, 3]:
        mean.op_type = "GlobalAveragePool"
        mean.attributes.clear()
        mean.resize_inputs(1)


def _exchange(graph: ir.Graph, first: ir.Node, second: ir.Node) -> None:
    """Of two nodes in a row, each with one tensor in and one out, the second before the first."""
    source, between, result = first.inputs[0], first.outputs[0], second.outputs[0]
    result.replace_all_uses_with(between)
    second.replace_input_with(0, source)
    first.replace_input_with(0, result)
    graph.remove(second)
    graph.insert_before(first, second)


def _quantise_weights(graph: ir.Graph, node: ir.Node, tensors: Mapping[str, np.ndarray]) -> None:
    """A convolution's weight and bias from bytes; `tensors` as device.int8.layer_tensors gives them."""
    for folded in node.inputs[1:]:
        if folded is not None:
            graph.initializers.pop(str(folded.name))
    weight, scale, bias, bias_scale = (initializer(graph, name, array) for name, array in tensors.items())
    for slot, pair in ((1, (weight, scale)), (2, (bias, bias_scale))):
        floats = ir.node("DequantizeLinear", pair, {"axis": 0}, name=f"{pair[0].name}.float")
        graph.insert_before(node, floats)
        node.replace_input_with(slot, floats.outputs[0])


def _quantise_map(network: Network, value: ir.Value, name: str, scale: Scale) -> None:
    """All that reads `value` reads it from bytes."""
    graph, readers = network.graph, list(value.uses())
    pair = [initializer(graph, f"{name}.{part}", np.asarray(x)) for part, x in zip(("scale", "zero_point"), scale)]
    made, step = value, pair[0]
    producer = value.producer()
    if producer and value in network.clamped and producer.inputs[0]:
        made = producer.inputs[0]
    elif producer and producer.op_type == "HardSigmoid" and _is_from_bytes(producer.inputs[0]):
        made, step = _as_sum(graph, producer, name, scale[0])
    packed = ir.node("QuantizeLinear", [made, step, pair[1]], name=f"{value.name}.bytes")
    floats = ir.node("DequantizeLinear", [packed.outputs[0], *pair], name=f"{value.name}.float")
    for use in readers:
        use.node.replace_input_with(use.idx, floats.outputs[0])
    maker = made.producer()
    if maker:
        graph.insert_after(maker, [packed, floats])
    else:
        graph.insert_before(graph[0], [packed, floats])


def _is_from_bytes(value: ir.Value | None) -> bool:
    producer = value.producer() if value else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _as_sum(graph: ir.Graph, node: ir.Node, name: str, scale: np.float32) -> tuple[ir.Value, ir.Value]:
    """αx + β of a hardsigmoid as x + β/α, whose bytes at a scale of 1/α are those of the whole: their range does what
    is left, to be no less than 0 and no more than 1. The sum and its scale."""
    slope, offset = (node.attributes.get_float(key, default) for key, default in (("alpha", 0.2), ("beta", 0.5)))
    one = (np.asarray(1, np.uint8), np.asarray(offset / slope, np.float32), np.asarray(0, np.uint8))
    shift = ir.node("DequantizeLinear", [constant(graph, part) for part in one], name=f"{name}.shift")
    total = ir.node("Add", [node.inputs[0], shift.outputs[0]], name=f"{name}.sum")
    graph.insert_after(node, [shift, total])
    return total.outputs[0], initializer(graph, f"{name}.sum_scale", np.asarray(scale / slope, np.float32))


def _checked(model: ir.Model) -> onnx.ModelProto:
    RemoveUnusedNodesPass()(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto
