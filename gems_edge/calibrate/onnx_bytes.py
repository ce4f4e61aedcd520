"""A probe's graph as an ONNX file, written without the onnx package.

Only what the probes need of the format: tensors of floats, bytes and integers, nodes with integers, texts and graphs as
attributes. Field numbers: onnx/onnx.proto.
"""

import numpy as np

from gems_edge.calibrate.graph import Attribute, Graph, Node
from gems_edge.graphs.liveness import TensorSize

IR_VERSION, OPSET = 10, 20
_FLOAT, _UINT8, _INT64 = 1, 2, 7
_TYPES = {4: _FLOAT, 1: _UINT8, 8: _INT64}  # by bytes of an element


def model_bytes(graph: Graph) -> bytes:
    return _join(_number(1, IR_VERSION), _bytes(7, _graph(graph)), _bytes(8, _number(2, OPSET)))


def _graph(graph: Graph) -> bytes:
    nodes = (_bytes(1, _node(node)) for node in graph.nodes)
    tensors = (_bytes(5, _tensor(name, values)) for name, values in graph.constants.items())
    inputs = (_bytes(11, _value(name, graph.sizes[name])) for name in graph.inputs)
    output = _bytes(12, _value(graph.output, graph.sizes[graph.output]))
    return _join(*nodes, _text(2, graph.name), *tensors, *inputs, output)


def _node(node: Node) -> bytes:
    attributes = [_attribute(name, value) for name, value in node.attributes.items()]
    if node.body is not None:
        attributes.append(_join(_text(1, "body"), _bytes(6, _graph(node.body)), _number(20, 5)))
    inputs = (_text(1, name) for name in node.inputs)
    return _join(*inputs, _text(2, node.output), _text(4, node.kind), *(_bytes(5, each) for each in attributes))


def _attribute(name: str, value: Attribute) -> bytes:
    integer, string, integers = 2, 3, 7
    if isinstance(value, str):
        return _join(_text(1, name), _text(4, value), _number(20, string))
    if isinstance(value, int):
        return _join(_text(1, name), _number(3, value), _number(20, integer))
    return _join(_text(1, name), *(_number(8, item) for item in value), _number(20, integers))


def _tensor(name: str, values: np.ndarray) -> bytes:
    sides = (_number(1, side) for side in values.shape)
    return _join(*sides, _number(2, _TYPES[values.itemsize]), _text(8, name), _bytes(9, values.tobytes()))


def _value(name: str, size: TensorSize) -> bytes:
    sides = _join(*(_bytes(1, _number(1, side)) for side in size.shape))
    kind = _TYPES[size.item_bytes]
    return _join(_text(1, name), _bytes(2, _bytes(1, _join(_number(1, kind), _bytes(2, sides)))))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    written = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        written.append(low | (0x80 if value else 0))
        if not value:
            return bytes(written)


def _join(*parts: bytes) -> bytes:
    return b"".join(parts)
