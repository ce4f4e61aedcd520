"""Where an adopted network can be cut in two: places in its forward order where exactly one tensor is alive."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import fx

from gems_edge.models.channel_groups import HEAD, Axis, length
from gems_edge.models.layer_shapes import Maps, layer_of, readers
from gems_edge.models.normalization import Normalization
from gems_edge.models.tensor_names import BODY

T = TypeVar("T")


@dataclass(frozen=True)
class Cut:
    """A place in a network: all below it gives one tensor, and all above it reads nothing else."""

    name: str  # of the block or layer above: "blocks.11"; "head": the whole backbone lies below
    layer: str  # path of the first layer (or normalisation) above; "" below the head
    tensor: str  # name of the node that gives the tensor
    position: int  # in the network's nodes: of the first node above
    layers: int  # of the network's layers, how many lie below (NetworkShape.layers)
    channels: Axis  # of the tensor
    sides: tuple[int, ...]  # height and width of its maps; none: it is features
    paths: frozenset[str]  # of all layers and normalisations below
    batch_statistics: tuple[str, ...]  # paths of the batch normalisations below
    readers: frozenset[str]  # paths of the layers above that read the tensor, with nothing that learns in between

    def shape(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Of the tensor for one image: channels, height, width (or features), where the groups have these widths."""
        return length(self.channels, widths), *self.sides

    def is_below(self, name: str) -> bool:
        """Whether a model's tensor of this name is the trunk's."""
        return name.startswith(BODY) and name.removeprefix(BODY).rpartition(".")[0] in self.paths

    def below(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Of a model's tensors, or what goes by their names, the trunk's."""
        return {name: tensor for name, tensor in tensors.items() if self.is_below(name)}

    def above(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """The top's, and an update rule's."""
        return {name: tensor for name, tensor in tensors.items() if not self.is_below(name)}

    def starts(self, path: str) -> bool:
        """Whether the layer or block `path` begins right above."""
        return path == self.name or f"{self.layer}.".startswith(f"{path}.")


def blocks_of(cuts: Sequence[Cut]) -> list[Cut]:
    """Those below whole blocks: below nothing that lies inside another's block, nor below the head."""
    names = [f"{cut.name}." for cut in cuts]
    inside = {name for name in names for other in names if name != other and name.startswith(other)}
    return [cut for cut, name in zip(cuts, names) if name not in inside and cut.layer]


class _Place(NamedTuple):
    position: int
    tensor: fx.Node
    layer: str


def cuts_of(network: fx.GraphModule, maps: Maps, channels: Callable[[fx.Node], Axis]) -> tuple[Cut, ...]:
    """All cuts of a network in forward order, one below each layer that has a place there.

    `maps`: what each node gives; `channels`: what lies along axis 1 of it. Of several places below a layer (before and
    behind a ReLU, a pool, a padding) the one with the smallest tensor counts, and of those alike the last.
    """
    by_layer: dict[str, list[_Place]] = {}
    for place in _places(network, maps):
        by_layer.setdefault(place.layer, []).append(place)
    paths = _paths(network)
    cuts = []
    for layer, places in by_layer.items():
        place = min(places, key=lambda place: (maps[place.tensor].numel(), -place.position))
        below = list(network.graph.nodes)[: place.position]
        cuts.append(
            Cut(
                name=_name(layer, paths[: paths.index(layer)]) if layer else HEAD,
                layer=layer,
                tensor=place.tensor.name,
                position=place.position,
                layers=sum(layer_of(network, node) is not None for node in below),
                channels=channels(place.tensor),
                sides=tuple(maps[place.tensor].shape[2:]),
                paths=frozenset(_modules(network, below)),
                batch_statistics=tuple(_batch_norms(network, below)),
                readers=frozenset(readers(network, list(network.graph.nodes)[place.position :])),
            )
        )
    return tuple(cuts)


def _places(network: fx.GraphModule, maps: Maps) -> Iterator[_Place]:
    """Every place above some layer where one tensor is alive; nodes that fetch a layer go with those that run it."""
    nodes = list(network.graph.nodes)
    number = {node: position for position, node in enumerate(nodes)}
    last_use = {node: max((number[user] for user in node.users), default=-1) for node in nodes if node in maps}
    some_layer = False
    for position, node in enumerate(nodes):
        if some_layer and (node in maps or node.op == "output"):
            alive = [before for before in nodes[:position] if before in maps and last_use[before] >= position]
            above = next((each for each in nodes[position:] if each.op == "call_module"), None)
            if len(alive) == 1:
                yield _Place(position, alive[0], "" if above is None else _path(network, above))
        some_layer = some_layer or node.op == "call_module"


def _paths(network: fx.GraphModule) -> list[str]:
    """Of every layer in forward order."""
    return [_path(network, node) for node in network.graph.nodes if node.op == "call_module"]


def _path(network: fx.GraphModule, node: fx.Node) -> str:
    layer = layer_of(network, node)
    return str(node.target) if layer is None else layer[0]


def _name(layer: str, below: Sequence[str]) -> str:
    """The largest block that begins with `layer`, not counting lists of blocks: of "blocks.11.expand" "blocks.11".

    Where that reads as a number of blocks, or as the head, it is written as the model's tensors are: "backbone.11".
    """
    parts = layer.split(".")
    blocks = (".".join(parts[:count]) for count in range(1, len(parts)) if _is_block(*parts[count - 1 : count + 1]))
    begins = (block for block in blocks if not any(path.startswith(f"{block}.") for path in below))
    name = next(begins, layer)
    return f"{BODY}{name}" if name.isdecimal() or name == HEAD else name


def _is_block(last: str, next_part: str) -> bool:
    """Whether a path that ends so, before `next_part`, is a block and not a list of them."""
    return last.isdecimal() or not next_part.isdecimal()


def _modules(network: fx.GraphModule, nodes: Sequence[fx.Node]) -> Iterator[str]:
    for node in nodes:
        if node.op == "call_module":
            yield str(node.target)
            if (layer := layer_of(network, node)) is not None:
                yield layer[0]


def _batch_norms(network: fx.GraphModule, nodes: Sequence[fx.Node]) -> Iterator[str]:
    for node in nodes:
        if node.op == "call_module":
            module = network.get_submodule(str(node.target))
            if isinstance(module, Normalization) and not module.groups:
                yield str(node.target)
