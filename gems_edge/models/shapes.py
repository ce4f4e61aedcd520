"""What a network looks like, from one trace on the meta device: its layers and which of their channels go together.

Whoever asks for a network's widths, sides, kernels, weights or multiply-accumulates reads them here. Channels that must
be removed together (a convolution's outputs, the depthwise convolution behind it, all that a residual sum adds up) are
one group, as torch-pruning finds them; a network's widths are the sizes of its groups, in forward order.
"""

import contextlib
import copy
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from gems_edge.errors import UserError
from gems_edge.models.adopt import BODY, adopt
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.convolution import Convolution
from gems_edge.models.network_file import NO_FILE, NetworkFile
from gems_edge.models.normalization import GROUPS, Normalization, NormPass

HEAD = "head"
# The largest image that is tried to see from which size on a network works.
_LARGEST = 1024


class Segment(NamedTuple):
    """Consecutive entries of a tensor's axis: the channels of one group, each `times` in a row. Of group None (an
    image's channels): as many as there are."""

    group: int | None
    size: int  # channels in the dense network
    times: int = 1


Axis = tuple[Segment, ...]


def length(axis: Axis, widths: Sequence[int]) -> int:
    """Entries of an axis where the groups have these widths."""
    return sum(s.times * (s.size if s.group is None else widths[s.group]) for s in axis)


def _row(axis: Axis, groups: int) -> np.ndarray:
    """An axis's length as factors of the groups' widths, and last a number."""
    row = np.zeros(groups + 1, int)
    for segment in axis:
        if segment.group is None:
            row[-1] += segment.size
        else:
            row[segment.group] += segment.times
    return row


def kept_entries(axis: Axis, kept: Sequence[np.ndarray]) -> np.ndarray:
    """bool [entries of the dense axis], from a mask for each group."""
    parts = [np.ones(s.size, bool) if s.group is None else kept[s.group] for s in axis]
    return np.concatenate([part.repeat(s.times) for part, s in zip(parts, axis)])


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


@dataclass(frozen=True)
class NetworkShape:
    """A backbone with certain widths."""

    widths: tuple[int, ...]
    layers: tuple[LayerShape, ...]  # in forward order
    feature_size: int
    feature_channels: int  # features are these channels, each of its map's places one after the other

    @property
    def weights(self) -> int:
        """Elements of all layers' weights: what a pruning ratio is a share of."""
        return sum(layer.weights for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return sum(layer.macs for layer in self.layers)


@dataclass(frozen=True)
class TensorAxes:
    """Which groups the axes of a module's tensors belong to."""

    outputs: Axis
    inputs: Axis | None  # None: the weight has no axis of inputs (normalisation, depthwise convolution)


class Amounts(NamedTuple):
    """Of several networks, each [networks]."""

    weights: np.ndarray
    macs: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Topology:
    """A backbone at its full widths, and how its layers hang together."""

    name: str
    dense: NetworkShape
    axes: dict[str, TensorAxes]  # by the path of a layer or normalisation
    features: Axis
    fixed: frozenset[int]  # groups that keep all channels: a convolution in several groups ties them to places
    network: fx.GraphModule  # on the meta device

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the backbone's parameters in forward order: of each layer, then of normalisations behind it."""
        paths = self.axes
        return tuple(
            f"{BODY}{path}.{name}"
            for path in paths
            for name, _ in self.network.get_submodule(path).named_parameters(recurse=False)
        )

    @property
    def tensor_axes(self) -> Iterator[tuple[str, int, Axis]]:
        """Every axis of channels of every tensor of the model: its name, the axis's number, what lies along it."""
        for path, axes in self.axes.items():
            layer = self.network.get_submodule(path)
            in_groups = isinstance(layer, Convolution) and layer.groups > 1  # reads a group's inputs, which are fixed
            for name, _ in layer.named_parameters(recurse=False):
                yield f"{BODY}{path}.{name}", 0, axes.outputs
                if name == "weight" and axes.inputs is not None and not in_groups:
                    yield f"{BODY}{path}.{name}", 1, axes.inputs
        yield f"{HEAD}.weight", 1, self.features

    @property
    def weight_axes(self) -> Iterator[tuple[str, int, Axis]]:
        """Those of the weights alone: no biases."""
        return (item for item in self.tensor_axes if item[0].endswith(".weight"))

    def amounts(self, widths: np.ndarray) -> "Amounts":
        """Of networks with `widths` [networks, groups], whole or not: many at once."""
        outputs, inputs, kernels, places, features = self._linear
        wide = np.concatenate([widths, np.ones((len(widths), 1), widths.dtype)], 1)
        weights = (wide @ outputs.T) * (wide @ inputs.T) * kernels
        return Amounts(weights.sum(1), (weights * places).sum(1), wide @ features)

    @cached_property
    def _linear(self) -> tuple[np.ndarray, ...]:
        """Outputs and inputs of every layer as rows of factors of the widths (and of 1), weights for each pair of them,
        places of its output, and the features' row."""
        groups, layers = len(self.dense.widths), self.dense.layers
        axes = [self.axes[layer.name.removeprefix(BODY)] for layer in layers]
        depthwise = (Segment(None, 1),)  # each filter has one input
        outputs = [_row(axis.outputs, groups) for axis in axes]
        inputs = [_row(depthwise if axis.inputs is None else axis.inputs, groups) for axis in axes]
        kernels = [
            math.prod(layer.kernel) / (1 if axis.inputs is None else layer.groups) for layer, axis in zip(layers, axes)
        ]
        places = [math.prod(layer.output_sides) for layer in layers]
        return np.array(outputs), np.array(inputs), np.array(kernels), np.array(places), _row(self.features, groups)

    def shape(self, widths: Sequence[int]) -> NetworkShape:
        """The backbone with other widths. UserError for a wrong number of them, or one that does not fit."""
        if tuple(widths) == self.dense.widths:
            return self.dense
        self._check(widths)
        layers = tuple(self._resized(layer, widths) for layer in self.dense.layers)
        places = self.dense.feature_size // self.dense.feature_channels
        size = length(self.features, widths)
        return NetworkShape(tuple(widths), layers, size, size // places)

    def narrows_to(self, other: NetworkShape) -> bool:
        """Whether another shape is this network's with other widths."""
        try:
            return self.shape(other.widths) == other
        except UserError:
            return False

    def _resized(self, layer: LayerShape, widths: Sequence[int]) -> LayerShape:
        axes = self.axes[layer.name.removeprefix(BODY)]
        outputs = length(axes.outputs, widths)
        inputs = outputs if axes.inputs is None else length(axes.inputs, widths)
        groups = outputs if axes.inputs is None else layer.groups
        values = {name: getattr(layer, name) for name in LayerShape.__dataclass_fields__}
        return LayerShape(**values | {"inputs": inputs, "outputs": outputs, "groups": groups})

    def _check(self, widths: Sequence[int]) -> None:
        full = self.dense.widths
        if len(widths) != len(full) or min(widths) < 1:
            raise UserError(
                f"{self.name} takes {len(full)} positive widths, one for each group of channels; got {list(widths)}"
            )
        for group in self.fixed:
            if widths[group] != full[group]:
                raise UserError(
                    f"{self.name}: width {group + 1} must stay {full[group]}, as a convolution in groups uses it"
                )

    def build(self, widths: Sequence[int], grouped: bool) -> fx.GraphModule:
        """The network with these widths and random weights: Kaiming normal, biases 0, in forward order.

        `grouped`: group normalisation in place of batch normalisation.
        """
        network = copy.deepcopy(self.network)
        shapes = {layer.name: layer for layer in self.shape(widths).layers}
        for path, axes in self.axes.items():
            layer = network.get_submodule(path)
            if isinstance(layer, Normalization):
                new: nn.Module = _norm(layer, length(axes.outputs, widths), grouped)
            else:
                new = _layer(layer, shapes[f"{BODY}{path}"])
            network.set_submodule(path, new)
        return network


def _norm(dense: Normalization, channels: int, grouped: bool) -> Normalization:
    groups = dense.groups or (GROUPS if grouped else 0)
    return Normalization(channels, dense.name, groups, dense.epsilon)


def _layer(dense: nn.Module, shape: LayerShape) -> nn.Module:
    if isinstance(dense, Convolution):
        new: nn.Module = Convolution(
            shape.inputs, shape.outputs, shape.kernel, shape.stride, shape.padding, groups=shape.groups,
            bias=dense.bias is not None,
        )  # fmt: skip
        nonlinearity = "relu"
    else:
        new, nonlinearity = nn.Linear(shape.inputs, shape.outputs, dense.bias is not None), "linear"
    nn.init.kaiming_normal_(new.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]  # a tensor in both
    if new.bias is not None:
        nn.init.zeros_(new.bias)  # type: ignore[arg-type]
    return new


@cache
def topology(
    backbone: str, channels: int, image_size: int, width_multiplier: float = 1.0, file: NetworkFile = NO_FILE
) -> Topology:
    """The backbone of this name (or of a `file`) for images of this format. What is random in it is drawn and lost.

    UserError for what is outside the layer set, an image size that vanishes, and outputs that are no features.
    """
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
        return topology_of(_on_meta(backbone, channels, width_multiplier, file), backbone, channels, image_size)


def _on_meta(backbone: str, channels: int, width_multiplier: float, file: NetworkFile) -> nn.Module:
    """The module without values, which a network that looks at them while it is made cannot do without."""
    try:
        with torch.device("meta"):
            module = make_backbone(backbone, channels, width_multiplier, file)
    except UserError as error:
        if not isinstance(error.__cause__, NotImplementedError | RuntimeError):
            raise
        module = make_backbone(backbone, channels, width_multiplier, file)
    return module.to("meta")


def topology_of(module: nn.Module, name: str, channels: int, image_size: int) -> Topology:
    """As `topology`, of a module on the meta device."""
    network = adopt(module, name)
    maps = _maps(network, name, channels, image_size)
    features = maps[_result(network)]
    axes = _axes(module, network, (2, channels, image_size, image_size), features.shape[1])
    layers = tuple(_layer_shapes(network, maps))
    head = axes.by_path.pop(HEAD).inputs or ()
    distinct = sum(s.size for s in head)
    dense = NetworkShape(axes.widths, layers, features.shape[1], distinct)
    return Topology(name, dense, axes.by_path, head, axes.fixed, network)


# Sides


class _Failure(NamedTuple):
    """The node that gives nothing for images of some format."""

    node: fx.Node
    why: str
    source: Tensor | None  # what the node reads

    @property
    def vanishes(self) -> bool:
        return "too small" in self.why or "Kernel size can't be greater" in self.why


def _maps(network: fx.GraphModule, name: str, channels: int, image_size: int) -> dict[fx.Node, Tensor]:
    """What each node gives for two images. UserError for sizes that vanish and outputs that are no features."""
    if not any(True for _ in network.parameters()):
        raise UserError(f"{name} has no convolution or linear layer: there is nothing to learn")
    maps = _propagated(network, channels, image_size)
    if isinstance(maps, _Failure):
        raise UserError(f"{name}: {_failed(network, maps, channels, image_size)}")
    for node in maps:
        if (layer := _layer_of(network, node)) and isinstance(layer[1], nn.Linear) and maps[node].ndim != 2:
            raise UserError(f"{name}: Linear (the layer {layer[0]}) reads a map; put flatten(1) before it")
    features = maps[_result(network)]
    if features.ndim != 2:
        raise UserError(
            f"{name} ends in {list(features.shape)[1:]} for an image, not in features [F]; end it with a global pool "
            "and flatten(1), and leave the classifier out"
        )
    return maps


def _failed(network: fx.GraphModule, failure: _Failure, channels: int, image_size: int) -> str:
    """Why images of a format do not go through the network, and what to do."""
    node = failure.node
    layer = _layer_of(network, node)
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


def _propagated(network: fx.GraphModule, channels: int, image_size: int) -> dict[fx.Node, Tensor] | _Failure:
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


def _result(network: fx.GraphModule) -> fx.Node:
    result: fx.Node = network.graph.output_node().args[0]  # type: ignore[assignment]  # adopt gives one tensor
    return result


def _layer_shapes(network: fx.GraphModule, maps: dict[fx.Node, Tensor]) -> Iterator[LayerShape]:
    """Of every layer in forward order, all widths full."""
    normalized = _normalized(network)
    trained: set[fx.Node] = set()  # what depends on some tensor of the network
    for node in network.graph.nodes:
        layer = _layer_of(network, node)
        if layer is not None:
            path, module = layer
            source = node.args[0]
            yield _layer_shape(path, module, maps[source].shape, source not in trained, node in normalized)
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


def _layer_of(network: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
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


# Groups of channels


class _Axes(NamedTuple):
    by_path: dict[str, TensorAxes]  # in forward order, the head last
    widths: tuple[int, ...]
    fixed: frozenset[int]


def _axes(module: nn.Module, network: fx.GraphModule, images: tuple[int, ...], features: int) -> _Axes:
    """The groups of all tensors' axes, as torch-pruning finds them in the module itself."""
    paths = list(_paths(network))
    whole = nn.Sequential()
    whole.add_module("backbone", module)
    whole.add_module(HEAD, nn.Linear(features, 2, device="meta"))
    entries = _Entries(whole.eval(), images)
    for path in paths:
        entries.assign(f"{BODY}{path}")
    by_path = {path: entries.axes(f"{BODY}{path}") for path in paths} | {HEAD: entries.axes(HEAD)}
    return _Axes(by_path, tuple(entries.widths), frozenset(entries.fixed))


def _paths(network: fx.GraphModule) -> Iterator[str]:
    """The layers and normalisations in forward order, a convolution before the normalisation that runs it."""
    for node in network.graph.nodes:
        layer = _layer_of(network, node)
        if layer is not None:
            yield layer[0]
        if node.op == "call_module" and (layer is None or layer[0] != node.target):
            yield str(node.target)


class _Entries:
    """For every entry of every axis the group and the channel in it; −1 where it belongs to none."""

    def __init__(self, whole: nn.Module, images: tuple[int, ...]):
        import torch_pruning

        self.pruning = torch_pruning
        self.graph = torch_pruning.DependencyGraph().build_dependency(
            whole, torch.rand(images, device="meta"), verbose=False
        )
        self.whole = whole
        self.names = {layer: name for name, layer in whole.named_modules()}
        self.outputs = {name: _unassigned(_outputs(layer)) for layer, name in self.names.items() if _outputs(layer)}
        self.inputs = {name: _unassigned(_inputs(layer)) for layer, name in self.names.items() if _inputs(layer)}
        self.widths: list[int] = []
        self.fixed: set[int] = set()

    def assign(self, name: str) -> None:
        """Give the outputs of a layer a group, and all that goes with them, unless they have one."""
        layer = self.whole.get_submodule(name)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or (self.outputs[name] >= 0).all():
            return
        group, width = len(self.widths), _outputs(layer)
        self.widths.append(width)
        linear = isinstance(layer, nn.Linear)
        prune = self.pruning.prune_linear_out_channels if linear else self.pruning.prune_conv_out_channels
        for item in self.graph.get_pruning_group(layer, prune, list(range(width))).items:
            member = self.names.get(item.dep.target.module)
            if member is None:
                continue
            side = self.outputs if item.dep.handler.__name__ == "prune_out_channels" else self.inputs
            if isinstance(item.dep.target.module, nn.BatchNorm2d | nn.GroupNorm):
                side = self.outputs
            side[member][item.idxs] = np.stack([np.full(len(item.idxs), group), item.root_idxs], 1)
            if _ties_places(item.dep.target.module):
                self.fixed.add(group)

    def axes(self, name: str) -> TensorAxes:
        inputs = self.inputs.get(name)
        return TensorAxes(_segments(self.outputs[name]), None if inputs is None else _segments(inputs))


def _unassigned(entries: int) -> np.ndarray:
    return np.full((entries, 2), -1)


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features
    return layer.num_channels if isinstance(layer, nn.GroupNorm) else 0


def _inputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return 0 if layer.groups == layer.in_channels == layer.out_channels > 1 else layer.in_channels
    return layer.in_features if isinstance(layer, nn.Linear) else 0


def _ties_places(layer: nn.Module) -> bool:
    """Whether the channels of a layer cannot go one by one: a convolution in groups that is not depthwise."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and bool(_inputs(layer))


def _segments(entries: np.ndarray) -> Axis:
    """An axis from the (group, channel) of its entries."""
    segments = []
    for group, run in itertools.groupby(entries.tolist(), key=lambda entry: entry[0]):
        channels = [channel for _, channel in run]
        if group < 0:
            segments.append(Segment(None, len(channels)))
            continue
        starts = [at for at, channel in enumerate(channels) if channel == 0 and (not at or channels[at - 1])]
        for start, end in zip(starts, [*starts[1:], len(channels)]):
            size = channels[end - 1] + 1
            times = (end - start) // size
            if channels[start:end] != np.arange(size).repeat(times).tolist():
                raise ValueError(f"channels in another order than their group's: {channels[start:end]}")
            segments.append(Segment(group, size, times))
    return tuple(segments)
