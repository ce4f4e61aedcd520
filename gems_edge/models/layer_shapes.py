"""The layers of an adopted network, from what each node gives on the meta device."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from gems_edge.errors import UserError
from gems_edge.models.convolution import Convolution
from gems_edge.models.normalization import Normalization, NormPass
from gems_edge.models.tensor_names import BODY

# The largest image that is tried to see from which size on a network works.
_LARGEST = 1024

# What each node of a network gives, on the meta device.
Maps = dict[fx.Node, Tensor]


@dataclass(frozen=True)
class LayerShape:
    """A convolution or a linear layer (sides and kernel 1), of a network with certain widths."""

    name: str  # of its module in the model: "backbone.blocks.0.conv"
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    input_sides: tuple[int, int]  # height, width
    output_sides: tuple[int, int]
    reads_images: bool  # its inputs are data: no gradient goes into them
    normalized: bool  # some batch statistic depends on its output

    @property
    def weights(self) -> int:
        """Elements of its weight; a bias counts nothing."""
        return self.outputs * (self.inputs // self.groups) * math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return self.weights * math.prod(self.output_sides)


class _Failure(NamedTuple):
    """The node that gives nothing for images of some format."""

    node: fx.Node
    why: str
    source: Tensor | None  # what the node reads

    @property
    def vanishes(self) -> bool:
        return "too small" in self.why or "Kernel size can't be greater" in self.why


def maps_of(network: fx.GraphModule, name: str, channels: int, image_size: int) -> Maps:
    """What each node gives for two images. UserError for sizes that vanish and outputs that are no features."""
    if not any(True for _ in network.parameters()):
        raise UserError(f"{name} has no convolution or linear layer: there is nothing to learn")
    maps = _propagated(network, channels, image_size)
    if isinstance(maps, _Failure):
        raise UserError(f"{name}: {_failed(network, maps, channels, image_size)}")
    for node in maps:
        if (layer := layer_of(network, node)) and isinstance(layer[1], nn.Linear) and maps[node].ndim != 2:
            raise UserError(f"{name}: Linear (the layer {layer[0]}) reads a map; put flatten(1) before it")
    features = maps[result_of(network)]
    if features.ndim != 2:
        raise UserError(
            f"{name} ends in {list(features.shape)[1:]} for an image, not in features [F]; end it with a global pool "
            "and flatten(1), and leave the classifier out"
        )
    return maps


def _failed(network: fx.GraphModule, failure: _Failure, channels: int, image_size: int) -> str:
    """Why images of a format do not go through the network, and what to do."""
    node = failure.node
    layer = layer_of(network, node)
    if layer is not None and failure.source is not None and _reads(layer[1]) != failure.source.shape[1]:
        path, reads, given = layer[0], _reads(layer[1]), failure.source.shape[1]
        if node.all_input_nodes[0].op == "placeholder":
            advice = "let make take channels" + (f", or use --channels {reads}" if reads in (1, 3) else "")
            return f"the layer {path} reads {reads} channels, images have {channels}; {advice}"
        of = f"of images of {image_size} pixels"
        return f"the layer {path} reads {reads} inputs and gets {given} {of}; make it read {given}"
    if not failure.vanishes:
        return (
            f"images of {image_size} pixels do not fit at {_place(node)} ({failure.why}); see its strides and paddings"
        )
    least = _least_size(network, channels, image_size)
    advice = f"use at least {least}" if least else "no size of up to 1024 pixels works: see its strides and pools"
    return f"images of {image_size} pixels vanish at {_place(node)}; {advice}"


def _reads(layer: nn.Module) -> int:
    """Channels, or features, that a layer reads."""
    return layer.in_channels if isinstance(layer, Convolution) else layer.in_features  # type: ignore[return-value]


def _propagated(network: fx.GraphModule, channels: int, image_size: int) -> Maps | _Failure:
    """What each node gives, or the first that cannot."""
    interpreter = fx.Interpreter(network)
    feeds: Iterator[Any] = iter((torch.empty(2, channels, image_size, image_size, device="meta"), NormPass()))
    nodes: list[fx.Node] = list(network.graph.nodes)
    for node in nodes:
        if node.op == "output":
            break
        try:
            interpreter.env[node] = next(feeds) if node.op == "placeholder" else interpreter.run_node(node)
        except (RuntimeError, IndexError) as error:  # IndexError: an axis that features do not have
            source = next((interpreter.env.get(source) for source in node.all_input_nodes), None)
            return _Failure(node, str(error).partition("\n")[0], source)
    return {node: value for node, value in interpreter.env.items() if isinstance(value, Tensor)}


def _least_size(network: fx.GraphModule, channels: int, image_size: int) -> int | None:
    """The least image size at which no map vanishes."""
    high = image_size
    while isinstance(_propagated(network, channels, high), _Failure):
        if high > _LARGEST:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if isinstance(_propagated(network, channels, middle), _Failure) else (low, middle)
    return high


def _place(node: fx.Node) -> str:
    if node.op == "call_module":
        return f"the layer {node.target}"
    source = node.all_input_nodes[0]
    behind = _place(source) if source.all_input_nodes else "the images"
    return f"{getattr(node.target, '__name__', node.target)} behind {behind}"


def result_of(network: fx.GraphModule) -> fx.Node:
    result: fx.Node = network.graph.output_node().args[0]  # type: ignore[assignment]  # adopt gives one tensor
    return result


def layer_shapes(network: fx.GraphModule, maps: Maps) -> Iterator[LayerShape]:
    """Of every layer in forward order, all widths full."""
    normalized, of_images = _normalized(network), set(readers(network, network.graph.nodes))
    for node in network.graph.nodes:
        layer = layer_of(network, node)
        if layer is not None:
            path, module = layer
            yield _layer_shape(path, module, maps[node.args[0]].shape, path in of_images, node in normalized)


def readers(network: fx.GraphModule, nodes: Iterable[fx.Node]) -> Iterator[str]:
    """Of the layers among `nodes`, the upper part of a network in forward order, the paths of those whose inputs depend
    on no tensor of that part: no gradient goes into them."""
    trained: set[fx.Node] = set()
    for node in nodes:
        layer = layer_of(network, node)
        if layer is not None and node.args[0] not in trained:
            yield layer[0]
        if node.op == "call_module" or trained.intersection(node.all_input_nodes):
            trained.add(node)


def _layer_shape(path: str, layer: nn.Module, source: torch.Size, reads_images: bool, normalized: bool) -> LayerShape:
    if isinstance(layer, Convolution):
        form, kernel = layer.form, (layer.kernel_size[0], layer.kernel_size[1])
        sides = source[2], source[3]
        height, width = ((s + 2 * p - k) // step + 1 for s, p, k, step in zip(sides, form.padding, kernel, form.stride))
        return LayerShape(
            f"{BODY}{path}", layer.in_channels, layer.out_channels, kernel, form.stride, form.padding, form.groups,
            sides, (height, width), reads_images, normalized,
        )  # fmt: skip
    assert isinstance(layer, nn.Linear)
    once = (1, 1)
    return LayerShape(
        f"{BODY}{path}", layer.in_features, layer.out_features, once, once, (0, 0), 1, once, once, reads_images,
        normalized,
    )  # fmt: skip


def layer_of(network: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    """The convolution or linear layer that a node runs, perhaps together with its normalisation."""
    if node.op != "call_module":
        return None
    module = network.get_submodule(str(node.target))
    if not isinstance(module, Normalization):
        return str(node.target), module
    if len(node.args) < 3:
        return None
    path = str(node.args[2].target)  # type: ignore[union-attr]  # adopt puts the convolution there
    return path, network.get_submodule(path)


def _normalized(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes on whose layers some batch statistic depends."""
    depends: set[fx.Node] = set()
    for node in reversed(network.graph.nodes):
        normalizes = False
        if node.op == "call_module":
            module = network.get_submodule(str(node.target))
            normalizes = isinstance(module, Normalization) and not module.groups
        if normalizes:
            depends.add(node)
        if normalizes or node in depends:
            depends.update(node.all_input_nodes)
    return depends
