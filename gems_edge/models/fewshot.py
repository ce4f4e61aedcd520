"""Backbone and head as one model, used as a pure function of its weights."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from gems_edge.device.bundle import HEAD
from gems_edge.models.head import logits_of, make_head
from gems_edge.models.normalization import Normalization, NormPass, Statistics
from gems_edge.models.spec import ModelSpec, Pixels
from gems_edge.models.tensor_names import ADAPTER, BODY, TEMPERATURE, is_constant
from gems_edge.models.ticket import Masks

# Every tensor of a model by its name, as state_dict() names them. Meta-parameters of an update rule travel in the same
# dictionary; their names begin with ADAPTER. So do the running statistics of mode "frozen" (see is_constant).
Weights = dict[str, Tensor]
# Of a layer's module: blocks.0.conv is the layer "blocks.0", blocks.0.conv2 is "blocks.0.2".
_KIND = re.compile(r"conv(?=\d?$)")


class Answer(NamedTuple):
    logits: Tensor  # [N, classes]
    statistics: Statistics  # of the batch; empty if they were given
    features: Tensor  # [N, feature_size]: C channels, each of its map's places one after the other


class Body(NamedTuple):
    features: Tensor  # as of Answer
    statistics: Statistics


class FewShotModel(nn.Module):
    """`masks` (a weight ticket's) stay beside the weights: what they remove is zero in any weights that were `masked`
    once, and stays zero as long as every gradient is `masked` too, in the inner loop and in the outer one."""

    def __init__(self, spec: ModelSpec, masks: Masks | None = None):
        super().__init__()
        self.spec = spec
        # Zeros and ones in the weights' own type: products with them differentiate, and export as plain Mul.
        self.masks = {name: torch.from_numpy(mask).float() for name, mask in (masks or {}).items()}
        self.backbone = spec.topology.build(spec.widths, spec.normalization)
        self.head = make_head(spec)
        # Of one image, or of what a trunk gives for one: channels, height, width (below the head: features).
        self.input_shape: tuple[int, ...] = (spec.channels, spec.image_size, spec.image_size)
        self.pixels = spec.pixels

    def forward(self, images: Tensor, statistics: Statistics | None = None) -> Answer:
        """As the function `forward`, with the model's own parameters."""
        return forward(self, dict(self.named_parameters()), images, statistics)

    def masked(self, tensors: Weights) -> Weights:
        """`tensors` (weights or gradients by name; of a head perhaps fewer rows than trained), zero where removed."""
        return tensors | {
            name: tensor * rows_for(self.masks[name], tensor) for name, tensor in tensors.items() if name in self.masks
        }

    def with_masks(self, masks: Weights) -> "FewShotModel":
        """The same model with other mask tensors (those of a trace, for instance)."""
        other = copy.copy(self)
        other.masks = masks
        return other

    def with_backbone(self, backbone: fx.GraphModule, input_shape: tuple[int, ...]) -> "FewShotModel":
        """The same head, and masks where they fit, on the part of this one's backbone that reads maps
        (models/split.py)."""
        other = copy.copy(self)
        other._modules = {**self._modules, "backbone": backbone}
        other.input_shape, other.pixels = input_shape, Pixels()
        names = {name for name, _ in other.named_parameters()}
        other.masks = {name: mask for name, mask in self.masks.items() if name in names}
        return other

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FewShotModel":
        """Masks follow the model to another device or type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's has no types
        self.masks = {name: fn(mask) for name, mask in self.masks.items()}
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """In forward order, in whatever order the layers were made (see layers_of)."""
        parameters = dict(super().named_parameters(prefix, recurse, remove_duplicate))
        order = {name: number for number, name in enumerate((*self.spec.topology.tensors, TEMPERATURE, *HEAD))}
        return iter(sorted(parameters.items(), key=lambda item: order.get(item[0].removeprefix(prefix), -1)))

    def tensors(self) -> Weights:
        """All tensors of the model in forward order: the parameters and, in mode "frozen", the running statistics."""
        named: Weights = dict(self.named_parameters())
        if self.spec.normalization == "frozen":
            named |= dict(self.named_buffers())
        return {name: named[name] for name in (*self.spec.topology.tensors, TEMPERATURE, *HEAD) if name in named}

    def statistics_names(self) -> tuple[str, ...]:
        """The names of the support set's statistics in forward order; none in the modes "group" and "frozen"."""
        targets = [str(node.target) for node in self.backbone.graph.nodes if node.op == "call_module"]
        layers = [self.backbone.get_submodule(target) for target in targets]
        norms = [n for n in layers if isinstance(n, Normalization) and not n.groups and not n.frozen]
        return tuple(f"{norm.name}.{kind}" for norm in norms for kind in ("mean", "var"))


def forward(model: FewShotModel, weights: Weights, images: Tensor, statistics: Statistics | None = None) -> Answer:
    """images [N, C, H, W] in 0…1 → logits [N, classes], the batch's statistics (empty if given), features.

    `model` with `weights` in place of its own: a pure function.
    """
    features, seen = body(model, weights, images, statistics)
    return Answer(head(model, weights, features), seen, features)


def body(
    model: FewShotModel,
    weights: Weights,
    images: Tensor,
    statistics: Statistics | None = None,
    shares: Tensor | None = None,
) -> Body:
    """The backbone of `model` with `weights`, without its head: a pure function. `shares`: as of NormPass."""
    norm = NormPass(statistics, shares)
    images = normalised(images, model.pixels)
    backbone = {name.removeprefix(BODY): tensor for name, tensor in weights.items() if name.startswith(BODY)}
    return Body(functional_call(model.backbone, backbone, (images, norm)), norm.seen)


def normalised(images: Tensor, pixels: Pixels) -> Tensor:
    """Images [N, C, H, W] in 0…1 → what the backbone reads."""
    if not pixels.mean:
        return images
    scale = [[[1 / deviation]] for deviation in pixels.deviation]
    shift = [[[-mean / deviation]] for mean, deviation in zip(pixels.mean, pixels.deviation)]
    factors, sums = (torch.tensor(each, dtype=images.dtype, device=images.device) for each in (scale, shift))
    return torch.addcmul(sums, images, factors)


def head(model: FewShotModel, weights: Weights, features: Tensor) -> Tensor:
    """Features [N, feature_size] → logits [N, classes]."""
    return logits_of(model.spec, weights, features)


def network_weights(weights: Weights) -> Weights:
    """Without the meta-parameters of an update rule: the tensors that the network itself computes with."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(ADAPTER)}


def rows_for(tensor: Tensor, other: Tensor) -> Tensor:
    """`tensor` for a product with `other`, which may be of a head with fewer rows; one shared row is broadcast."""
    return tensor if tensor.shape[0] in (1, other.shape[0]) else tensor[: other.shape[0]]


def movable(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of what an inner step may move, in forward order, of a task's weights or of meta-weights.

    The head's rows are last. Meta-weights have none of a prototype head: a task makes them.
    """
    still = (TEMPERATURE, *HEAD)
    body = (n for n in tensors if not n.startswith(ADAPTER) and not is_constant(n) and n not in still)
    return (*body, *(name for name in HEAD if name in tensors or TEMPERATURE in tensors))


def layers_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The layers of a network in forward order, each with the names of its tensors: what BMP adapts or freezes as one.

    `tensors` in forward order, by name (weights, or what has their shapes). A layer is a weight of two or more axes,
    with its bias and the normalisations that run before the next one: "blocks.0" (ResNet-12: "blocks.0.1" to
    "blocks.0.3" and "blocks.0.skip"), and last "head".
    """
    layers: dict[str, list[str]] = {}
    first: list[str] = []  # a normalisation of the images themselves
    current = first
    for name in movable(tensors):
        if name == HEAD[0] or (name not in HEAD and tensors[name].ndim >= 2):
            module = name.rpartition(".")[0].removeprefix(BODY)
            current = layers[_KIND.sub("", module).rstrip(".")] = first if not layers else []
        current.append(name)
    return {layer: tuple(names) for layer, names in layers.items()}


def initial_weights(model: FewShotModel, weights: Weights, classes: int) -> Weights:
    """The weights that the inner loop starts from, with one head row per class.

    The shared row is copied; of a per-class head the first `classes` rows are taken (classes ≤ ways). Those of a
    prototype head are zeros until `prototypes` of a support set take their place.
    """
    if model.spec.head == "prototype":
        like = weights[TEMPERATURE]
        zeros = (like.new_zeros(classes, model.spec.feature_size), like.new_zeros(classes))
        return weights | dict(zip(HEAD, zeros))
    head = {name: weights[name] for name in HEAD}
    if model.spec.head == "shared":
        head = {name: row.expand(classes, *row.shape[1:]) for name, row in head.items()}
    elif classes != model.spec.ways:
        if classes > model.spec.ways:
            raise ValueError(f"{classes} classes for a per-class head of {model.spec.ways} ways")
        head = {name: rows[:classes] for name, rows in head.items()}
    return weights | head
