"""The layers that a network may be made of, and the one form in which each of them goes on.

An operation of a user's torch module, traced by torch.fx, is written as one of few plain functions, or refused by its
name and place (docs/networks.md lists them). Convolutions, normalisations and linear layers stay modules.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from gems_edge.models.activations import hardsigmoid, hardswish, relu6, silu

# (graph that is written, the node's inputs and settings, in the names of the torch function) → node
Writer = Callable[..., fx.Node]

ADVICE = (
    "use Conv2d, BatchNorm2d, GroupNorm, ReLU, ReLU6, Hardswish, SiLU, Sigmoid, Hardsigmoid, MaxPool2d, AvgPool2d, "
    "AdaptiveAvgPool2d(1), add, multiply, cat, flatten and Linear (docs/networks.md)"
)


# What to use in place of a layer or function that people reach for, by its name.
INSTEAD = {
    **dict.fromkeys(
        ("GELU", "gelu", "LeakyReLU", "leaky_relu", "ELU", "elu", "PReLU", "Mish", "mish", "Softplus", "Tanh", "tanh"),
        "use SiLU or Hardswish, or ReLU",
    ),
    **dict.fromkeys(("LayerNorm", "LayerNorm2d", "layer_norm"), "use GroupNorm(1, channels), or BatchNorm2d"),
    **dict.fromkeys(("InstanceNorm2d", "instance_norm"), "use GroupNorm(channels, channels), or BatchNorm2d"),
    **dict.fromkeys(("SyncBatchNorm", "FrozenBatchNorm2d", "BatchNorm1d", "batch_norm"), "use BatchNorm2d on maps"),
    **dict.fromkeys(("permute", "transpose", "movedim"), "keep maps as [N, C, H, W] and features as [N, F]"),
    **dict.fromkeys(("squeeze", "unsqueeze"), "use flatten(1) for features, and keepdim=True for maps"),
    **dict.fromkeys(("chunk", "split", "getitem"), "use a convolution for each part of the channels"),
    **dict.fromkeys(("sub", "truediv", "div", "neg"), "use add and multiply with a number that is computed before"),
    **dict.fromkeys(("amax", "max", "AdaptiveMaxPool2d", "adaptive_max_pool2d"), "use MaxPool2d, or a global pool"),
    **dict.fromkeys(
        ("Upsample", "interpolate", "ConvTranspose2d", "conv_transpose2d", "PixelShuffle"),
        "nothing of the set enlarges a map: bring maps to one size with strides and pools",
    ),
    **dict.fromkeys(("Conv1d", "Conv3d", "conv2d"), "use the layer nn.Conv2d"),
    **dict.fromkeys(("MultiheadAttention", "matmul", "bmm", "softmax", "Softmax"), "use convolutions: no attention"),
}


class Refusal(Exception):
    """Why a layer is outside the set, and what to use instead: one clause."""


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


# Writers: what a layer becomes


def activation(function: Callable[..., Any]) -> Writer:
    def write(graph: fx.Graph, input: fx.Node, inplace: bool = False) -> fx.Node:
        return graph.call_function(function, (input,))

    return write


def max_pool(
    graph: fx.Graph, input: fx.Node, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> fx.Node:  # fmt: skip
    if pair(dilation) != (1, 1) or ceil_mode or return_indices:
        raise Refusal("a max-pool has dilation 1, no ceil_mode and no indices; pad explicitly instead of ceil_mode")
    return graph.call_function(F.max_pool2d, (input, pair(kernel_size), pair(stride or kernel_size), pair(padding)))


def avg_pool(
    graph: fx.Graph, input: fx.Node, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> fx.Node:  # fmt: skip
    if ceil_mode or divisor_override is not None:
        raise Refusal("an average pool has no ceil_mode and no divisor_override")
    sizes = pair(kernel_size), pair(stride or kernel_size), pair(padding)
    return graph.call_function(F.avg_pool2d, (input, *sizes, False, count_include_pad))


def global_pool(graph: fx.Graph, input: fx.Node, output_size: Any) -> fx.Node:
    if output_size not in (1, (1, 1), [1, 1]):
        raise Refusal("an adaptive pool to sizes other than 1; use AvgPool2d with a kernel size, or a global pool")
    return mean(graph, input, (2, 3), keepdim=True)


def mean(graph: fx.Graph, input: fx.Node, dim: Any = None, keepdim: bool = False) -> fx.Node:
    if not isinstance(dim, list | tuple) or sorted(axis % 4 for axis in dim) != [2, 3]:
        raise Refusal("a mean over other axes than height and width; use mean((2, 3))")
    return graph.call_function(torch.mean, (input, (2, 3), keepdim))


def binary(function: Callable[..., Any]) -> Writer:
    def write(graph: fx.Graph, input: Any, other: Any, *, alpha: float = 1) -> fx.Node:
        if alpha != 1:
            raise Refusal("an addition with alpha")
        return graph.call_function(function, (input, other))

    return write


def concatenate(graph: fx.Graph, tensors: Sequence[fx.Node], dim: int = 0) -> fx.Node:
    if dim not in (1, -3):
        raise Refusal("a concatenation of other axes than the channels (dim=1)")
    return graph.call_function(torch.cat, (list(tensors), 1))


def flatten(graph: fx.Graph, input: fx.Node, start_dim: int = 0, end_dim: int = -1) -> fx.Node:
    if start_dim != 1 or end_dim not in (-1, 3):
        raise Refusal("a flatten that mixes images, or leaves axes; use flatten(1)")
    return graph.call_function(torch.flatten, (input, 1))


def view(graph: fx.Graph, input: fx.Node, *sizes: Any) -> fx.Node:
    """x.view(x.size(0), -1): the usual way to write a flatten."""
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
    if len(shape) != 2 or shape[1] != -1:
        raise Refusal("a view that is no flatten; use flatten(1), and in a squeeze-excite convolutions of 1×1")
    return graph.call_function(torch.flatten, (input, 1))


def padded(
    graph: fx.Graph, input: fx.Node, pad: Sequence[int], mode: str = "constant", value: float | None = 0
) -> fx.Node:
    if mode != "constant" or value or len(pad) != 4:
        raise Refusal("a padding with other values than zeros around height and width; use ZeroPad2d")
    return graph.call_function(F.pad, (input, tuple(pad))) if any(pad) else input


def zero_pad(graph: fx.Graph, input: fx.Node, padding: Sequence[int]) -> fx.Node:
    return padded(graph, input, padding)


def advice(name: str) -> str:
    """What to use in place of what is called `name`."""
    return f"{INSTEAD[name]} (docs/networks.md)" if name in INSTEAD else ADVICE


def same(graph: fx.Graph, input: fx.Node, *settings: Any, **named: Any) -> fx.Node:
    """What does nothing when a network answers: dropout, stochastic depth, identity."""
    return input


# What is written how

_ADD, _MUL = binary(operator.add), binary(operator.mul)

FUNCTIONS: dict[Callable[..., Any], Writer] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), activation(F.relu)),
    **dict.fromkeys((torch.sigmoid, F.sigmoid), activation(torch.sigmoid)),
    F.relu6: activation(relu6),
    F.hardswish: activation(hardswish),
    F.silu: activation(silu),
    F.hardsigmoid: activation(hardsigmoid),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _ADD),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply), _MUL),
    **dict.fromkeys((torch.cat, torch.concat), concatenate),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), max_pool),
    **dict.fromkeys((F.dropout, F.dropout2d), same),
    F.avg_pool2d: avg_pool,
    F.adaptive_avg_pool2d: global_pool,
    torch.mean: mean,
    torch.flatten: flatten,
    F.pad: padded,
}  # fmt: skip

METHODS: dict[str, Writer] = {
    "relu": activation(F.relu), "relu_": activation(F.relu), "sigmoid": activation(torch.sigmoid),
    "add": _ADD, "add_": _ADD, "mul": _MUL, "mul_": _MUL,
    "mean": mean, "flatten": flatten, "view": view, "reshape": view, "contiguous": same,
}  # fmt: skip

# A module that has no tensors: the function that it stands for, and its settings.
MODULES: dict[type[nn.Module], tuple[Writer, tuple[str, ...]]] = {
    nn.ReLU: (activation(F.relu), ()),
    nn.ReLU6: (activation(relu6), ()),
    nn.Hardswish: (activation(hardswish), ()),
    nn.SiLU: (activation(silu), ()),
    nn.Sigmoid: (activation(torch.sigmoid), ()),
    nn.Hardsigmoid: (activation(hardsigmoid), ()),
    nn.MaxPool2d: (max_pool, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    nn.AvgPool2d: (
        avg_pool,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool2d: (global_pool, ("output_size",)),
    nn.ZeroPad2d: (zero_pad, ("padding",)),
    nn.Flatten: (flatten, ("start_dim", "end_dim")),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d, nn.Identity), (same, ())),
}
# Stochastic depth as torchvision and timm call it: known by name, as neither need be installed.
DROPPED = frozenset({"StochasticDepth", "DropPath"})


def plain_convolution(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The symmetric padding (height, width) of a convolution, and what is to be padded before it (left, right, top,
    bottom), which is where the two sides differ."""
    if pair(layer.dilation) != (1, 1):
        raise Refusal("a dilated convolution; use dilation 1")
    if layer.padding_mode != "zeros":
        raise Refusal(f"a padding of {layer.padding_mode!r}; use zeros")
    if layer.padding == "valid":
        return (0, 0), (0, 0, 0, 0)
    if layer.padding == "same":
        kernel_height, kernel_width = pair(layer.kernel_size)
        total_height, total_width = kernel_height - 1, kernel_width - 1
        return (total_height // 2, total_width // 2), (0, total_width % 2, 0, total_height % 2)
    assert not isinstance(layer.padding, str)
    return pair(layer.padding), (0, 0, 0, 0)


# The layers that have tensors.
WITH_TENSORS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.Linear)
# Modules around a network, which a trace would not see into.
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)


def check_tensors(layer: nn.Module) -> None:
    """Refusal for a layer whose weights are not plain parameters of its own, and for hooks."""
    if any(nn.parameter.is_lazy(parameter) for parameter in layer.parameters()):
        raise Refusal("a lazy layer, which has no shape yet; give the number of its inputs")
    for name in ("weight", "bias"):
        value = getattr(layer, name, None)
        if value is not None and layer._parameters.get(name) is not value:
            raise Refusal(f"its {name} is computed from other tensors; use the plain layer")
    if not all(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
        raise Refusal("its tensors are frozen (requires_grad=False), but a run draws and trains all; leave that out")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise Refusal("it has hooks; write what they do in forward")


def checked_norm(layer: nn.BatchNorm2d | nn.GroupNorm) -> None:
    if layer.weight is None:
        raise Refusal("a normalisation without scale and shift; use affine=True")
