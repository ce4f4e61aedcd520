"""What a network looks like, from one trace on the meta device: its layers and which of their channels go together.

Whoever asks for a network's widths, sides, kernels, weights or multiply-accumulates reads them here. A network's widths
are the sizes of its groups of channels (channel_groups.py), in forward order.
"""

import contextlib
import copy
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import fx, nn

from gems_edge.errors import UserError
from gems_edge.models.adopt import adopt
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.channel_groups import HEAD, Axis, Segment, TensorAxes, length, network_axes, row_of
from gems_edge.models.convolution import Convolution
from gems_edge.models.cuts import Cut, blocks_of, cuts_of
from gems_edge.models.layer_shapes import LayerShape, Maps, layer_shapes, maps_of, result_of
from gems_edge.models.network_file import NO_FILE, NetworkFile
from gems_edge.models.normalization import GROUPS, Normalization
from gems_edge.models.tensor_names import BODY


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
    network: fx.GraphModule  # on the meta device
    cuts: tuple[Cut, ...]  # where it can be cut in two, in forward order

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the backbone's tensors in forward order: of each layer, then of normalisations behind it.

        The running statistics of batch normalisations are among them; a model has those in mode "frozen" alone.
        """
        return tuple(f"{BODY}{path}.{name}" for path in self.axes for name in self._tensors_at(path))

    def _tensors_at(self, path: str) -> list[str]:
        layer = self.network.get_submodule(path)
        names = [name for name, _ in layer.named_parameters(recurse=False)]
        if isinstance(layer, Normalization) and not layer.groups:
            names += [name for name, _ in layer.named_buffers(recurse=False)]
        return names

    @property
    def tensor_axes(self) -> Iterator[tuple[str, int, Axis]]:
        """Every axis of channels of every tensor that a model may have: its name, the axis's number, what lies along
        it."""
        for path, axes in self.axes.items():
            layer = self.network.get_submodule(path)
            in_groups = isinstance(layer, Convolution) and layer.groups > 1  # reads a part, of channels that stay
            for name in self._tensors_at(path):
                yield f"{BODY}{path}.{name}", 0, axes.outputs
                if name == "weight" and axes.inputs is not None and not in_groups:
                    yield f"{BODY}{path}.{name}", 1, axes.inputs
        yield f"{HEAD}.weight", 1, self.features

    def cut(self, learn_from: str) -> Cut:
        """The cut below the layer or block of this name, or below so many blocks (`--learn-from`).

        UserError, listing the places, where the network cannot be cut or nothing lies below.
        """
        blocks = blocks_of(self.cuts)
        if learn_from.isdecimal() and int(learn_from) <= len(blocks):
            return [*blocks, self.cuts[-1]][len(blocks) - int(learn_from)]
        found = next((cut for cut in self.cuts if cut.name == learn_from or cut.starts(learn_from)), None)
        if found is None:
            names = [cut.name for cut in (*blocks, self.cuts[-1])]
            raise UserError(
                f"--learn-from {learn_from}: {self._no_place(learn_from)}; choose one of {', '.join(names)}, or a "
                f"number of blocks from 0 (the head alone) to {len(blocks)}"
            )
        return found

    def _no_place(self, learn_from: str) -> str:
        """Why the network is not cut there."""
        paths = [f"{path}." for path in self.axes]
        if learn_from.isdecimal():
            return f"{self.name} has no {learn_from} blocks with something below them"
        if not any(path.startswith(f"{learn_from}.") for path in paths):
            return f"{self.name} has no such layer or block"
        if paths[0].startswith(f"{learn_from}."):
            return f"nothing of {self.name} lies below it"
        return f"{self.name} cannot be cut below it, where more than one tensor goes up"

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
        outputs = [row_of(axis.outputs, groups) for axis in axes]
        inputs = [row_of(depthwise if axis.inputs is None else axis.inputs, groups) for axis in axes]
        kernels = [
            math.prod(layer.kernel) / (1 if axis.inputs is None else layer.groups) for layer, axis in zip(layers, axes)
        ]
        places = [math.prod(layer.output_sides) for layer in layers]
        return np.array(outputs), np.array(inputs), np.array(kernels), np.array(places), row_of(self.features, groups)

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
        if len(widths) != len(full) or min(widths, default=1) < 1:
            raise UserError(
                f"{self.name} takes {len(full)} positive widths, one for each group of channels; got {list(widths)}"
            )

    def build(self, widths: Sequence[int], normalization: str) -> fx.GraphModule:
        """The network with these widths and random weights: Kaiming normal, biases 0, in forward order.

        `normalization`: a mode; in "group" group normalisation takes the place of batch normalisation.
        """
        network = copy.deepcopy(self.network)
        shapes = {layer.name: layer for layer in self.shape(widths).layers}
        for path, axes in self.axes.items():
            layer = network.get_submodule(path)
            if isinstance(layer, Normalization):
                new: nn.Module = _norm(layer, length(axes.outputs, widths), normalization)
            else:
                new = _layer(layer, shapes[f"{BODY}{path}"])
            network.set_submodule(path, new)
        return network


def _norm(dense: Normalization, channels: int, mode: str) -> Normalization:
    groups = dense.groups or (GROUPS if mode == "group" else 0)
    return Normalization(channels, dense.name, groups, dense.epsilon, frozen=mode == "frozen")


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
        return topology_of(
            _on_meta(backbone, channels, width_multiplier, file, image_size), backbone, channels, image_size
        )


def _on_meta(backbone: str, channels: int, width_multiplier: float, file: NetworkFile, image_size: int) -> nn.Module:
    """The module without values, which a network that looks at them while it is made cannot do without."""
    try:
        with torch.device("meta"):
            module = make_backbone(backbone, channels, width_multiplier, file, image_size)
    except UserError as error:
        if not isinstance(error.__cause__, NotImplementedError | RuntimeError):
            raise
        module = make_backbone(backbone, channels, width_multiplier, file, image_size)
    return module.to("meta")


def topology_of(module: nn.Module, name: str, channels: int, image_size: int) -> Topology:
    """As `topology`, of a module on the meta device."""
    network = adopt(module, name)
    maps = maps_of(network, name, channels, image_size)
    axes = network_axes(network, maps)
    features = result_of(network)
    dense = NetworkShape(
        axes.widths, tuple(layer_shapes(network, maps)), maps[features].shape[1], _feature_channels(features, maps)
    )
    cuts = cuts_of(network, maps, axes.of_node)
    return Topology(name, dense, axes.by_path, axes.features, network, cuts)


def _feature_channels(features: fx.Node, maps: Maps) -> int:
    """Channels of the map that was flattened to the features, or all features where none was at last."""
    node = features
    while node.op == "call_function" and node.target not in (torch.flatten, torch.cat):
        node = node.all_input_nodes[0]
    return maps[node.all_input_nodes[0] if node.target is torch.flatten else features].shape[1]
