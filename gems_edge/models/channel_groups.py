"""Which channels of a network go together.

Channels that must be removed together (a convolution's outputs, the depthwise convolution behind it, all that a
residual sum adds up) are one group. What may not be removed is in none: an image's channels, and those of a convolution
in several groups that is not depthwise. DepGraph (Fang et al. 2023) finds groups in any graph; for the few operations
of an adopted network a walk over them does, and tests compare the two.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import fx, nn

from gems_edge.models.convolution import Convolution
from gems_edge.models.layer_shapes import Maps, layer_of, result_of

HEAD = "head"


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


def row_of(axis: Axis, groups: int) -> np.ndarray:
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
class TensorAxes:
    """Which groups the axes of a module's tensors belong to."""

    outputs: Axis
    inputs: Axis | None  # None: the weight has no axis of inputs (normalisation, depthwise convolution)


class NetworkAxes(NamedTuple):
    by_path: dict[str, TensorAxes]  # of every layer and normalisation, in forward order
    features: Axis
    widths: tuple[int, ...]  # of the groups, in forward order
    of_node: Callable[[fx.Node], Axis]  # what lies along axis 1 of what a node gives


def network_axes(network: fx.GraphModule, maps: Maps) -> NetworkAxes:
    """The groups of all tensors' axes; `maps`: what each node gives."""
    walk = _Walk(network, maps)
    groups = _Groups(walk.roots(), [outputs for outputs, _ in walk.by_path.values()])
    by_path = {
        path: TensorAxes(groups.axis(outputs), None if inputs is None else groups.axis(inputs))
        for path, (outputs, inputs) in walk.by_path.items()
    }

    def of_node(node: fx.Node) -> Axis:
        return groups.axis(walk.entries[node])

    return NetworkAxes(by_path, of_node(result_of(network)), tuple(groups.widths), of_node)


# Entry 0 stands for all that may not be removed.
_FIXED = 0


class _Walk:
    """Through the network in forward order: every axis as the numbers of its channels, some of which are then tied."""

    def __init__(self, network: fx.GraphModule, maps: Maps):
        self.network, self.maps = network, maps
        self.parents = [_FIXED]  # a forest: channels with one root go together
        self.entries: dict[fx.Node, np.ndarray] = {}  # along axis 1 of what each node gives
        self.by_path: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}  # outputs, inputs
        for node in network.graph.nodes:
            if node in maps:
                self.entries[node] = self._entries(node)

    def _entries(self, node: fx.Node) -> np.ndarray:
        sources = [self.entries[source] for source in node.all_input_nodes if source in self.entries]
        if node.op == "placeholder":
            return np.full(self.maps[node].shape[1], _FIXED)
        if node.op == "call_module":
            return self._called(node, sources[0])
        if node.target is torch.cat:
            parts: list[fx.Node] = node.args[0]  # type: ignore[assignment]  # adopt gives a list
            return np.concatenate([self.entries[part] for part in parts])
        if node.target is torch.flatten:
            return sources[0].repeat(self.maps[node].shape[1] // len(sources[0]))
        widest = max(sources, key=len)
        for source in sources:
            if len(source) > 1:  # one channel beside several is spread over them
                self._tie(widest, source)
        return widest

    def _called(self, node: fx.Node, inputs: np.ndarray) -> np.ndarray:
        outputs = inputs
        if (layer := layer_of(self.network, node)) is not None:
            outputs, read = self._layer(layer[1], inputs)
            self.by_path[layer[0]] = outputs, read
        if layer is None or layer[0] != node.target:
            self.by_path[str(node.target)] = outputs, None
        return outputs

    def _layer(self, layer: nn.Module, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """What the layer gives, and the inputs along its weight."""
        groups, size = 1, layer.out_features if isinstance(layer, nn.Linear) else 0
        if isinstance(layer, Convolution):
            groups, size = layer.groups, layer.out_channels
            if groups == layer.in_channels == size > 1:
                return inputs, None
        outputs = np.arange(len(self.parents), len(self.parents) + size)
        self.parents.extend(outputs.tolist())
        if groups > 1:  # its channels cannot go one by one
            self._tie(inputs, np.full_like(inputs, _FIXED))
            self._tie(outputs, np.full_like(outputs, _FIXED))
        return outputs, inputs

    def _tie(self, first: np.ndarray, second: np.ndarray) -> None:
        for one, other in zip(first.tolist(), second.tolist()):
            one, other = self._root(one), self._root(other)
            self.parents[max(one, other)] = min(one, other)

    def _root(self, entry: int) -> int:
        while self.parents[entry] != entry:
            self.parents[entry] = entry = self.parents[self.parents[entry]]
        return entry

    def roots(self) -> np.ndarray:
        return np.array([self._root(entry) for entry in range(len(self.parents))])


class _Groups:
    """A group and a place in it for every channel: those that the same tensors hold are one group."""

    def __init__(self, roots: np.ndarray, outputs: list[np.ndarray]):
        self.roots = roots
        holders: dict[int, list[int]] = {}
        for number, axis in enumerate(outputs):
            for root in dict.fromkeys(roots[axis].tolist()):
                holders.setdefault(root, []).append(number)
        holders.pop(_FIXED, None)
        groups: dict[tuple[int, ...], int] = {}
        self.widths: list[int] = []
        self.places = np.full((len(roots), 2), -1)  # of a root
        for root, tensors in holders.items():
            group = groups.setdefault(tuple(tensors), len(groups))
            if group == len(self.widths):
                self.widths.append(0)
            self.places[root] = group, self.widths[group]
            self.widths[group] += 1

    def axis(self, entries: np.ndarray) -> Axis:
        return tuple(_segments(self.places[self.roots[entries]]))


def _segments(places: np.ndarray) -> Iterator[Segment]:
    """An axis from the (group, channel) of its entries."""
    for group, run in itertools.groupby(places.tolist(), key=lambda place: place[0]):
        channels = [channel for _, channel in run]
        if group < 0:
            yield Segment(None, len(channels))
            continue
        starts = [at for at, channel in enumerate(channels) if channel == 0 and (not at or channels[at - 1])]
        for start, end in zip(starts, [*starts[1:], len(channels)]):
            size = channels[end - 1] + 1
            times = (end - start) // size
            if channels[start:end] != np.arange(size).repeat(times).tolist():
                raise ValueError(f"channels in another order than their group's: {channels[start:end]}")
            yield Segment(group, size, times)
