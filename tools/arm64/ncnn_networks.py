"""An ONNX graph of tools/published_networks.py as the text that ncnn reads a network from (.param); it has no weights.

Written as ncnn's own benchmark files are: activations are part of the convolution before them, a channel shuffle is one
layer, and a tensor that several layers read goes through a Split.
"""

from collections import Counter
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

MAGIC = 7767517
INPUT, OUTPUT = "images", "result"
# What ncnn does at the end of a convolution or a product: its number, and its constants.
_FUSED = {
    "Relu": "9=1", "Clip": "9=3 -23310=2,0.0,6.0", "Sigmoid": "9=4", "Gelu": "9=6 -23310=2,0.16666667,0.5",
}  # fmt: skip
# Gelu stands for HardSwish in these graphs (published_layers.ONE_PASS).
_ALONE = {
    "Relu": "ReLU", "Clip": "Clip 0=0.0 1=6.0", "Sigmoid": "Sigmoid", "Gelu": "HardSwish 0=0.16666667 1=0.5",
    "HardSigmoid": "HardSigmoid 0=0.16666667 1=0.5", "Add": "BinaryOp 0=0", "Mul": "BinaryOp 0=2",
    "Concat": "Concat 0=0", "GlobalAveragePool": "Pooling 0=1 4=1",
}  # fmt: skip
_WEIGHED = ("Conv", "Gemm")


class Unknown(ValueError):
    """An op, or an arrangement of ops, that is not written for ncnn."""


@dataclass
class _Layer:
    kind: str  # with what stands before the constants
    inputs: list[str]
    outputs: list[str]
    constants: str = ""


def ncnn_text(model: onnx.ModelProto) -> str:
    """Raises Unknown, naming the op."""
    layers = _layers(model)
    result = layers[-1].outputs
    if len(result) != 1:
        raise Unknown("a network of several results")
    result[0] = OUTPUT
    layers = [_Layer("Input", [], [INPUT]), *layers]
    layers = _split(layers)
    lines = []
    for number, layer in enumerate(layers):
        kind, _, constants = layer.kind.partition(" ")
        blobs = " ".join([*layer.inputs, *layer.outputs])
        counts = f"{len(layer.inputs)} {len(layer.outputs)}"
        lines.append(f"{kind} layer{number} {counts} {blobs} {constants}{layer.constants}".rstrip())
    blobs = sum(len(layer.outputs) for layer in layers)
    return "\n".join([str(MAGIC), f"{len(layers)} {blobs}", *lines]) + "\n"


def _layers(model: onnx.ModelProto) -> list[_Layer]:
    """In the graph's order, each tensor under the name of its last form: fused and renamed ones are gone."""
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    made: dict[str, tuple[onnx.NodeProto, _Layer | None]] = {}
    renamed: dict[str, str] = {}
    layers: list[_Layer] = []
    nodes = list(graph.node)

    def name_of(name: str) -> str:
        return renamed.get(name, name)

    for place, node in enumerate(nodes):
        first, output = name_of(node.input[0]), node.output[0]
        source, before = made.get(node.input[0], (None, None))
        if node.op_type in ("Flatten", "Reshape", "Transpose") and _renames(node, nodes, place):
            renamed[output] = first
        elif node.op_type == "Reshape":  # the first of a shuffle's three
            groups = int(numpy_helper.to_array(weights[node.input[1]])[1])
            layers.append(_Layer(f"ShuffleChannel 0={groups}", [first], [output]))
        elif (
            node.op_type in _FUSED and source is not None and source.op_type in _WEIGHED and readers[node.input[0]] == 1
        ):
            assert before is not None
            before.constants += " " + _FUSED[node.op_type]
            renamed[output] = first
        elif node.op_type == "Sigmoid" and _gates(node, nodes[place + 1 : place + 2]):
            layers.append(_Layer("Swish", [first], [output]))
            made[output] = node, None
        elif place and _gates(nodes[place - 1], [node]):
            renamed[output] = nodes[place - 1].output[0]
        elif node.op_type == "Slice":
            _slice(layers, node, weights, first, output)
        else:
            inputs = [name_of(name) for name in node.input if name not in weights]
            layer = _Layer(_kind(node, weights), inputs, [output])
            layers.append(layer)
            made[output] = node, layer
    return layers


def _renames(node: onnx.NodeProto, nodes: list[onnx.NodeProto], place: int) -> bool:
    """Whether it moves nothing in ncnn: a flattening, and the last two nodes of a shuffle."""
    return node.op_type != "Reshape" or nodes[place - 1].op_type == "Transpose"


def _gates(sigmoid: onnx.NodeProto, following: list[onnx.NodeProto]) -> bool:
    """Whether the next node multiplies the sigmoid by what it was taken of."""
    return any(
        sigmoid.op_type == "Sigmoid"
        and node.op_type == "Mul"
        and {*node.input} == {sigmoid.input[0], sigmoid.output[0]}
        for node in following
    )


def _slice(layers: list[_Layer], node: onnx.NodeProto, weights: dict, first: str, output: str) -> None:
    """Channels; the pieces of a tensor that follow on one another are one layer."""
    start, end = (int(numpy_helper.to_array(weights[name])[0]) for name in node.input[1:3])
    if layers[-1].kind == "Slice" and layers[-1].inputs == [first]:
        layers[-1].outputs.append(output)
        layers[-1].constants = f" -23300={len(layers[-1].outputs)}" + ",-233" * len(layers[-1].outputs) + " 1=0"
    elif start == 0:
        layers.append(_Layer("Slice", [first], [output], f" -23300=1,{end} 1=0"))
    else:
        raise Unknown("Slice from within")


def _kind(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> str:
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Conv":
        outputs, inputs, kernel, _ = weights[node.input[1]].dims
        size, groups = outputs * inputs * kernel**2, given["group"]
        constants = f"0={outputs} 1={kernel} 3={given['strides'][0]} 4={given['pads'][0]} 5=1 6={size}"
        return f"ConvolutionDepthWise {constants} 7={groups}" if groups > 1 else f"Convolution {constants}"
    if node.op_type == "Gemm":
        outputs, inputs = weights[node.input[1]].dims
        return f"InnerProduct 0={outputs} 1=1 2={outputs * inputs}"
    if node.op_type in ("MaxPool", "AveragePool"):
        constants = f"1={given['kernel_shape'][0]} 2={given['strides'][0]} 3={given['pads'][0]}"
        return f"Pooling 0={int(node.op_type[0] == 'A')} {constants} 5={1 - given['ceil_mode']}"
    if node.op_type == "Pad":
        return f"Padding 8={int(numpy_helper.to_array(weights[node.input[1]])[5])}"  # channels behind
    if node.op_type == "LRN":
        return f"LRN 0=0 1={given['size']} 2=0.0001 3=0.75"
    if node.op_type not in _ALONE:
        raise Unknown(f"{node.op_type} is not written for ncnn")
    return _ALONE[node.op_type]


def _split(layers: list[_Layer]) -> list[_Layer]:
    """With a Split behind each tensor that several layers read."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    taken: Counter[str] = Counter()
    done = []
    for layer in layers:
        for place, name in enumerate(layer.inputs):
            if readers[name] > 1:
                layer.inputs[place] = f"{name}_{taken[name]}"
                taken[name] += 1
        done.append(layer)
        for name in layer.outputs:
            if readers[name] > 1:
                done.append(_Layer("Split", [name], [f"{name}_{number}" for number in range(readers[name])]))
    return done
