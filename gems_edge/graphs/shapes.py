"""Concrete shape of every tensor of an ONNX graph for given numbers of images and classes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from gems_edge.errors import UserError
from gems_edge.graphs.liveness import TensorSize
from gems_edge.graphs.scans import body_model
from gems_edge.graphs.values import body_of, name_of, size_of


def fix_dims(model: onnx.ModelProto, dims: dict[str, int]) -> onnx.ModelProto:
    """A copy of `model` whose named dynamic dimensions are numbers.

    Initialisers that are also graph inputs (the head) become inputs alone: their row count follows `dims`.
    UserError if a dimension of an input is neither a number nor named in `dims`.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    fed = {value.name for value in graph.input}
    constants = [tensor for tensor in graph.initializer if tensor.name not in fed]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(constants)
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_value":
                if dim.dim_value < 1:
                    raise UserError(
                        f"input {value.name!r} has a dimension of {dim.dim_value}; write the model with 1 or more "
                        "there, or with a name, and give that its number"
                    )
                continue
            if dim.dim_param not in dims:
                known = ", ".join(dims) or "none"
                raise UserError(f"input {value.name!r} has the dynamic dimension {dim.dim_param!r}; known: {known}")
            dim.dim_value = dims[dim.dim_param]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def sized(model: onnx.ModelProto) -> ir.Model:
    """A graph whose inputs have fixed dims (see `fix_dims`), with shape and type of every tensor.

    onnx's shape inference with data propagation answers for almost all; what it cannot say is read off one run on
    onnxruntime with zero inputs, so the answer is never a guess. UserError if that run fails.
    """
    result = ir.from_proto(_inferred(model))
    unknown = [value for node in result.graph for value in node.outputs if value.name and not _is_known(value)]
    if unknown:
        _observe(model, unknown)
    for node in result.graph:
        _size_body(node)
    return result


def tensor_sizes(model: onnx.ModelProto) -> dict[str, TensorSize]:
    """Size of every tensor of a graph by its name; as `sized`, but for the bodies of Scans."""
    graph = sized(model).graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {name_of(value): size_of(value) for value in values if value.name}


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"onnx cannot infer the shapes of this graph: {' '.join(str(error).split())}") from None


def _is_known(value: ir.Value) -> bool:
    return value.dtype is not None and value.shape is not None and value.shape.is_static()


def _size_body(scan: ir.Node) -> None:
    """Shapes and types of the tensors in a Scan's body."""
    body = body_of(scan)
    if body is None:
        return
    inferred = _inferred(body_model(scan)).graph
    known = {value.name: value for value in [*inferred.value_info, *inferred.output]}
    for node in body:
        for value in node.outputs:
            if value.name in known:
                ir.serde.deserialize_value_info_proto(known[value.name], value)
        _size_body(node)


def _observe(model: onnx.ModelProto, values: list[ir.Value]) -> None:
    """Shapes and types of these tensors from one run. UserError for a model that onnxruntime cannot run, and for one
    that keeps tensors in other files: onnxruntime would read whatever it names."""
    from gems_edge.device.runtime import Session

    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(
                f"the graph whose cost is asked keeps tensor {tensor.name or 'without a name'} in another file, which "
                "is not read; export it again with its weights inside"
            )
    names = [name_of(value) for value in values]
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = {}
    for value in model.graph.input:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = np.zeros([dim.dim_value for dim in value.type.tensor_type.shape.dim], dtype)
    session = Session(observed.SerializeToString(), "the graph whose cost is asked")
    for value, array in zip(values, session.run(names, feeds)):
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors of a message of protobuf, wherever they stand in it."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                yield from _tensors(inner)
