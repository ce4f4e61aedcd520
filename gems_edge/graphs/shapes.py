"""Concrete shape of every tensor of an ONNX graph for given numbers of images and classes."""

import numpy as np
import onnx

from gems_edge.errors import UserError
from gems_edge.graphs.liveness import TensorSize


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
                continue
            if dim.dim_param not in dims:
                known = ", ".join(dims) or "none"
                raise UserError(f"input {value.name!r} has the dynamic dimension {dim.dim_param!r}; known: {known}")
            dim.dim_value = dims[dim.dim_param]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def tensor_sizes(model: onnx.ModelProto) -> dict[str, TensorSize]:
    """Size of every tensor of a graph whose inputs have fixed dims (see `fix_dims`).

    onnx's shape inference with data propagation answers for almost all; what it cannot say is read off one run on
    onnxruntime with zero inputs, so the answer is never a guess. UserError if that run fails.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"onnx cannot infer the shapes of this graph: {' '.join(str(error).split())}") from None
    sizes = {tensor.name: TensorSize(tuple(tensor.dims), _item_bytes(tensor.data_type)) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        size = _declared(value)
        if size is not None:
            sizes[value.name] = size
    unknown = [name for node in model.graph.node for name in node.output if name and name not in sizes]
    return sizes | _observe(model, unknown) if unknown else sizes


def _declared(value: onnx.ValueInfoProto) -> TensorSize | None:
    kind = value.type.tensor_type
    if not kind.elem_type or not kind.HasField("shape"):
        return None
    if any(dim.WhichOneof("value") != "dim_value" for dim in kind.shape.dim):
        return None
    return TensorSize(tuple(dim.dim_value for dim in kind.shape.dim), _item_bytes(kind.elem_type))


def _item_bytes(element_type: int) -> int:
    return max(1, onnx.helper.tensor_dtype_to_np_dtype(element_type).itemsize)


def _observe(model: onnx.ModelProto, names: list[str]) -> dict[str, TensorSize]:
    """The sizes of these tensors in one run. UserError for a model that onnxruntime cannot run, and for one that keeps
    tensors in other files: onnxruntime would read whatever it names."""
    from gems_edge.device.onnxfile import initializers
    from gems_edge.device.runtime import Session

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = {}
    for value in model.graph.input:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = np.zeros([dim.dim_value for dim in value.type.tensor_type.shape.dim], dtype)
    content, what = observed.SerializeToString(), "the graph whose cost is asked"
    initializers(content, what)
    tensors = Session(content, what).run(names, feeds)
    return {name: TensorSize(tensor.shape, tensor.dtype.itemsize) for name, tensor in zip(names, tensors)}
