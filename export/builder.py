"""Writing an ONNX graph node by node: equal nodes are written once, constants are shared, nothing else gets in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gems_edge import __version__
from gems_edge.device.operators import OPERATORS
from gems_edge.graphs.ops import row_of

# onnx ≥ 1.23 writes newer versions by default, which onnxruntime refuses.
IR_VERSION = 10
OPSET = 20

Dim = int | str  # a number, or the name of a dynamic dimension


def numbers(shape: Sequence[Dim]) -> tuple[int, ...]:
    """A shape without dynamic sizes."""
    if any(isinstance(size, str) for size in shape):
        raise ValueError(f"the shape {shape} has dynamic sizes")
    return tuple(int(size) for size in shape)


@dataclass(frozen=True)
class Value:
    """A tensor in the graph and the shape it really has there (an expanded tensor may be kept small, see lowering)."""

    name: str
    shape: tuple[Dim, ...]


class GraphBuilder:
    def __init__(self, name: str):
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._written: dict[tuple[str, tuple[str, ...], int, str], tuple[str, ...]] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: dict[str, np.ndarray] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[tuple[str, str, tuple[Dim, ...]]] = []

    def input(self, name: str, shape: Sequence[Dim]) -> Value:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return Value(name, tuple(shape))

    def initializer(self, name: str, array: np.ndarray) -> Value:
        """A named tensor of the model (a weight)."""
        self._initializers[name] = np.asarray(array, order="C")  # a scalar stays one
        return Value(name, array.shape)

    def overridable(self, name: str, array: np.ndarray, shape: Sequence[Dim]) -> Value:
        """A named tensor that a caller may feed; it has `array` as its default."""
        self._initializers[name] = np.asarray(array, order="C")  # a scalar stays one
        return self.input(name, shape)

    def constant(self, values: np.ndarray | np.generic | list[int] | float) -> str:
        """The name of an anonymous constant: int64 for integers, float32 for floats; equal ones are shared."""
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant.{len(self._constants)}"
            self._initializers[name] = array
        return self._constants[key]

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> tuple[str, ...]:
        """Names of the results. ValueError for an op of which graphs/ops.py knows nothing, or that no board loads."""
        row_of(kind)
        if kind not in OPERATORS:
            raise ValueError(f"boards do not load the ONNX op {kind}; name it in gems_edge/device/operators.py")
        key = (kind, tuple(inputs), outputs, repr(sorted(attributes.items())))
        if key not in self._written:
            base = f"{kind.lower()}.{len(self._nodes)}"
            names = (base,) if outputs == 1 else tuple(f"{base}.{i}" for i in range(outputs))
            self._nodes.append(helper.make_node(kind, list(inputs), list(names), name=base, **attributes))
            self._written[key] = names
        return self._written[key]

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.node(kind, inputs, **attributes)[0]

    def output(self, name: str, value: str, shape: Sequence[Dim]) -> None:
        self._outputs.append((name, value, tuple(shape)))

    def model(self) -> onnx.ModelProto:
        """The checked model; nodes and constants that no output needs are left out."""
        outputs, renamed = [], self._output_names()
        written = [_renamed(node, renamed) for node in self._nodes]
        for name, value, shape in self._outputs:
            if renamed.get(value) != name:
                source = renamed.get(value, value)
                written.append(helper.make_node("Identity", [source], [name], name=f"output.{name}"))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        needed, nodes = {name for name, _, _ in self._outputs}, []
        for node in reversed(written):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        initializers = [numpy_helper.from_array(a, n) for n, a in self._initializers.items() if n in needed]
        graph = helper.make_graph(nodes[::-1], self.name, self._inputs, outputs, initializers)
        model = helper.make_model(
            graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="gems-edge", producer_version=__version__,
        )  # fmt: skip
        onnx.checker.check_model(model, full_check=True)
        return model

    def _output_names(self) -> dict[str, str]:
        """Value → the name that it has as an output of the graph. A fed or constant one keeps its own, and one that is
        several outputs has the first of their names: others are copies."""
        produced = {name for node in self._nodes for name in node.output}
        names: dict[str, str] = {}
        for name, value, _ in self._outputs:
            if value in produced:
                names.setdefault(value, name)
        return names


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of `node` with these names in place of those of its tensors."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for tensors in (copy.input, copy.output):
        tensors[:] = [names.get(name, name) for name in tensors]
    return copy
