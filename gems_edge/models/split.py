"""A model cut in two: the trunk, which is computed once per image, and the top, where the inner loop runs."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx
from torch.func import functional_call

from gems_edge.models.cuts import Cut
from gems_edge.models.fewshot import FewShotModel, Weights, normalised
from gems_edge.models.normalization import NormPass
from gems_edge.models.spec import Pixels
from gems_edge.models.tensor_names import BODY


@dataclass(frozen=True)
class Trunk:
    """What lies below a cut, a pure function of its weights; every image by itself, whatever batch it is in."""

    network: fx.GraphModule
    cut: Cut
    pixels: Pixels

    def __call__(self, weights: Weights, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in 0…1 → features [N, c, h, w] (below the head: [N, F]). `weights`: these or more."""
        tensors = {name.removeprefix(BODY): tensor for name, tensor in self.cut.below(weights).items()}
        features: Tensor = functional_call(self.network, tensors, (normalised(images, self.pixels), NormPass()))
        return features


@dataclass(frozen=True)
class Split:
    """`top` reads what `trunk` gives; tensors have the names that they have in the whole model."""

    trunk: Trunk
    top: FewShotModel

    @property
    def cut(self) -> Cut:
        return self.trunk.cut

    def below(self, weights: Weights) -> Weights:
        """Those of the trunk."""
        return self.cut.below(weights)

    def above(self, weights: Weights) -> Weights:
        """Those of the top, and an update rule's."""
        return self.cut.above(weights)


def split(model: FewShotModel, cut: Cut) -> Split:
    """`model` cut in two modules of their own around its tensors.

    Trunk, then top, compute what `model` does, to the bit, in the modes "group" and "frozen". In a mode with batch
    statistics they do where no batch normalisation lies below (ModelSpec checks it).
    """
    nodes = list(model.backbone.graph.nodes)
    below, above = nodes[: cut.position], nodes[cut.position :]
    tensor = next(node for node in below if node.name == cut.tensor)
    trunk = _part(model.backbone, below, tensor)
    top = _part(model.backbone, above, nodes[-1].args[0], given=tensor)
    return Split(Trunk(trunk, cut, model.pixels), model.with_backbone(top, cut.shape(model.spec.widths)))


def _part(
    network: fx.GraphModule, nodes: Iterable[fx.Node], result: fx.Node, given: fx.Node | None = None
) -> fx.GraphModule:
    """Some nodes of a network as one of its own, (images or what the node `given` gives, NormPass) → `result`."""
    graph = fx.Graph()
    placeholders = [node for node in network.graph.nodes if node.op == "placeholder"]
    new = {given or placeholders[0]: graph.placeholder("images" if given is None else "maps")}
    new[placeholders[1]] = graph.placeholder("statistics")
    layers = {node for node in network.graph.nodes if node.op == "get_attr"}  # each goes with the node that reads it
    for node in nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        for layer in layers.intersection(node.all_input_nodes):
            new[layer] = graph.node_copy(layer)
        new[node] = graph.node_copy(node, new.__getitem__)
    graph.output(new[result])
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    part = fx.GraphModule(copy.deepcopy(network, shared), graph, "Backbone")
    part.graph.lint()
    return part
