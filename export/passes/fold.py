"""Convolutions that are computed from a bundle's tensors: each named, and given one weight and one bias.

Pattern: a Conv whose weight and bias no input of the graph reaches. Among the bundle's tensors that they are made of,
the [O, I/groups, h, w] is its weight; √(var + ε) names the normalisation that was put into it, and its ε; what is left
is the convolution's own bias. How the graph puts them together is not looked at: whoever folds compares what the graph
gives with torch (export/quantise.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from gems_edge.device.int8 import Layer, layer_tensors
from gems_edge.errors import UserError
from gems_edge.export.passes.rewriting import initializer

Arrays = Mapping[str, np.ndarray]


def fold(model: ir.Model, weights: Arrays) -> dict[ir.Node, Layer]:
    """Give every convolution of `model` the initialisers WEIGHT.folded and WEIGHT.bias, at `weights`.

    `weights`: the bundle's tensors by name, float32. Returns the convolutions' layers in forward order. Raises
    UserError for a convolution that is made of other tensors than a Layer's.
    """
    layers = {node: layer_of(node, weights) for node in model.graph if node.op_type == "Conv"}
    for node, layer in layers.items():
        node.resize_inputs(3)
        for slot, (name, array) in enumerate(layer_tensors(layer, weights, None).items(), 1):
            node.replace_input_with(slot, initializer(model.graph, name, array))
    return layers


def layer_of(node: ir.Node, weights: Arrays) -> Layer:
    """The tensors of `weights` that the convolution `node` is made of, in float32. UserError for others than those of
    a Layer."""
    sources = list(dict.fromkeys(source for value in node.inputs[1:] if value for source in _upstream(value)))
    names = [str(source.name) for source in sources if source.name in weights]
    kernels = [name for name in names if weights[name].ndim == 4]
    norms = dict(found for source in sources if (found := _root(source, weights)))
    norm, epsilon = next(iter(norms.items()), (None, None))
    frozen = f"{norm}.running_var" in names
    layer = Layer(kernels[0] if kernels else "", None, norm, epsilon, None, frozen)
    others = [name for name in names if name not in layer.tensors and weights[name].ndim == 1]
    layer = replace(layer, bias=others[0] if others else None)
    if len(norms) > 1 or set(names) != set(layer.tensors) or any(source.is_graph_input() for source in sources):
        raise UserError(
            f"--int8 does not know the convolution {node.name}: it is computed from {', '.join(names) or 'no tensor'}, "
            "not from a weight, a bias and one normalisation; export without --int8"
        )
    return layer


def _upstream(value: ir.Value) -> Iterator[ir.Value]:
    """`value` and all that it is computed from."""
    yield value
    producer = value.producer()
    for source in producer.inputs if producer else ():
        if source is not None:
            yield from _upstream(source)


def _root(value: ir.Value, weights: Arrays) -> tuple[str, float] | None:
    """The normalisation and its ε if `value` is the √(var + ε) of one."""
    root = value.producer()
    total = root.inputs[0].producer() if root and root.op_type == "Sqrt" and root.inputs[0] else None
    if total is None or total.op_type != "Add":
        return None
    variances = [str(source.name) for source in total.inputs if source and source.name in weights]
    constants = [source.const_value for source in total.inputs if source and source.name not in weights]
    if len(variances) != 1 or constants[0] is None:
        return None
    # The shortest decimal that is this float32: what the network was made with.
    return variances[0].rpartition(".")[0], float(str(np.float32(constants[0].numpy())))
