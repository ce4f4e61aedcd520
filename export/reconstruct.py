"""A pruned network's convolutions fitted to what the dense ones gave: least squares on images, without labels.

Layer after layer in forward order, filters are found with which the layer, from what reaches it in the pruned network,
comes nearest to what the same layer gives in the dense one (He, Zhang and Sun 2017, "Channel Pruning for Accelerating
Very Deep Neural Networks", equation 1, with the inputs of the network as it is pruned so far).
"""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.convolution import Convolution
from gems_edge.models.fewshot import FewShotModel, Weights, normalised
from gems_edge.models.normalization import Normalization, NormPass
from gems_edge.models.tensor_names import BODY
from gems_edge.tickets.channels import Pruned

# Images whose maps are fitted; they stay in memory, of the dense network and of the pruned one.
IMAGES = 256
# Places of maps, drawn at random, that a layer is fitted on; fewer where patches are large, which then hold so many
# values (in float64 a third of a GB).
PLACES, VALUES = 40_000, 40_000_000
# How much filters are held where pruning left them, as a share of their inputs' mean variance.
RIDGE = 0.05
# Images whose patches are written out at a time.
_BATCH = 16


@torch.no_grad()
def reconstruct(model: FewShotModel, weights: Weights, pruned: Pruned, images: Tensor) -> Pruned:
    """`pruned` (of `model` with `weights`, in mode "frozen") with fitted filters, and running means or biases.

    images [N, C, H, W] in 0…1. Convolutions in several groups that are not depthwise stay as they were sliced.
    """
    dense, compact = _Walk(model, weights, images), _Walk(FewShotModel(pruned.spec), pruned.weights, images)
    kept = {
        name: torch.from_numpy(kept_entries(axis, pruned.kept)).to(images.device)
        for name, number, axis in model.spec.topology.tensor_axes
        if number == 0
    }
    draw = torch.Generator().manual_seed(0)
    for node, narrow in zip(dense.nodes, compact.nodes, strict=True):
        if (path := dense.convolution(node)) is not None:
            wanted = dense.convolved(node)[:, kept[f"{BODY}{path}.weight"]]
            _fit(compact.layer(path), compact.shifted(narrow, path), compact.input(narrow), wanted, draw)
        dense.step(node)
        compact.step(narrow)
    return replace(pruned, weights=pruned.weights | compact.tensors())


class _Walk(fx.Interpreter):
    """A network with tensors of its own, run node by node on images."""

    def __init__(self, model: FewShotModel, weights: Weights, images: Tensor):
        super().__init__(copy.deepcopy(model.backbone).to(images))
        for name, tensor in self.tensors().items():
            tensor.copy_(weights[name])
        self.args_iter = iter((normalised(images, model.pixels), NormPass()))

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.graph.nodes)

    def tensors(self) -> Weights:
        named: dict[str, Tensor] = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {f"{BODY}{name}": tensor.detach() for name, tensor in named.items()}

    def layer(self, path: str) -> Any:
        return self.module.get_submodule(path)

    def convolution(self, node: fx.Node) -> str | None:
        """The path of the convolution that a node runs, alone or with its normalisation."""
        if node.op != "call_module":
            return None
        path = str(node.args[2].target if len(node.args) > 2 else node.target)  # type: ignore[union-attr]
        return path if isinstance(self.layer(path), Convolution) else None

    def input(self, node: fx.Node) -> Tensor:
        value: Tensor = self.env[node.all_input_nodes[0]]
        return value

    def convolved(self, node: fx.Node) -> Tensor:
        """What the convolution of a node gives, before its normalisation."""
        result: Tensor = self.layer(self.convolution(node) or "")(self.input(node))
        return result

    def shifted(self, node: fx.Node, path: str) -> tuple[Tensor | None, int]:
        """The tensor that moves a convolution's outputs, and which way: its bias, or the running mean behind it."""
        norm = self.layer(str(node.target))
        if self.layer(path).bias is not None:
            return self.layer(path).bias, 1
        return (norm.running_mean, -1) if isinstance(norm, Normalization) else (None, 0)

    def step(self, node: fx.Node) -> None:
        self.env[node] = self.run_node(node)
        for done in self.user_to_last_uses.get(node, ()):
            del self.env[done]


def _fit(
    conv: Convolution, shifted: tuple[Tensor | None, int], x: Tensor, wanted: Tensor, draw: torch.Generator
) -> None:
    """Gives `conv` the filters, and `shifted` the values, that come nearest to `wanted` [N, O, h, w] from x."""
    depthwise = conv.groups == conv.out_channels
    if conv.groups > 1 and not depthwise:
        return
    patches, targets = (each.double() for each in _drawn(conv, x, wanted, draw))
    # [1, R, D] and [1, R, O], or of every channel by itself [C, R, taps] and [C, R, 1].
    patches = torch.unflatten(patches, 1, (conv.groups, -1)).movedim(1, 0)
    targets = targets.T[..., None] if depthwise else targets[None]
    shift, way = shifted
    centred = float(shift is not None)
    means, centre = (each.mean(1, keepdim=True) * centred for each in (patches, targets))
    patches, targets = patches - means, targets - centre
    gram = patches.mT @ patches
    held = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
    before = conv.weight.detach().double().flatten(1)
    before = before[..., None] if depthwise else before.T[None]
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    filters = torch.linalg.solve(gram + held * eye, patches.mT @ targets + held * before)
    conv.weight.copy_(filters.mT.reshape(conv.weight.shape))
    if shift is not None:
        moved = (centre - means @ filters).flatten().to(shift.dtype)
        shift.copy_(moved if way > 0 else shift - moved)


def _drawn(conv: Convolution, x: Tensor, wanted: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patches of x [R, I · taps] and what is wanted there [R, O], at random places of every image."""
    places = wanted[0, 0].numel()
    size = x.shape[1] * conv.weight[0, 0].numel()
    each = min(places, -(-min(PLACES, VALUES // size) // len(x)))
    patches, targets = [], []
    for some, there in zip(torch.split(x, _BATCH), torch.split(wanted.flatten(2), _BATCH)):
        chosen = torch.randperm(places, generator=draw)[:each].to(x.device)
        unfolded = F.unfold(some, conv.weight.shape[2:], padding=conv.form.padding, stride=conv.form.stride)
        patches.append(unfolded[:, :, chosen].mT.flatten(0, 1))
        targets.append(there[:, :, chosen].mT.flatten(0, 1))
    return torch.cat(patches), torch.cat(targets)
