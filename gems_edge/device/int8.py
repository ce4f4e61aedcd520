"""The weights of predict.int8.onnx from float32 ones: what the export writes, and a board writes anew after teaching.

Each convolution is folded with the normalisation behind it (its weight, bias and statistics) and then quantised:
weights int8, symmetric, with a scale for each output channel; biases int32 at the scale of the products. The scales of
the maps between the layers stay the export's: it found them on adapted networks, and normalised maps keep their range
when the weights under them move (scales found on the board's own few support images give answers three times as far
from float32's: tools/compare_int8_ranges.py). A convolution may stay float32: from 3 to 32 channels at 84×84
onnxruntime's int8 one takes 0.71 ms and its float32 one 0.21 ms (1.31.1, one x86 core with VNNI).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from gems_edge.device.onnxfile import values_of, with_values

INT8_FILE = "predict.int8.onnx"
# Of a bundle with a trunk. A board writes nothing anew in it: nothing below the cut is taught.
TRUNK_INT8_FILE = "trunk.int8.onnx"
# What a bundle answers in.
PRECISIONS = ("fp32", "int8")
_WEIGHT_MOST = 127
# Bias and products of one output are summed in int32; a bias within this leaves room for them.
_BIAS_MOST = 1 << 30
_LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Layer:
    """A convolution of the graph by the names of its tensors.

    `bias`: its own; None: it has none. `norm`: the normalisation that is folded into it, with its ε; None: none is.
    `reads`: the map it reads, whose scale is the graph's initialiser READS.scale; None: it stays float32. `frozen`: the
    normalisation's statistics are those of its training, not of a support set.
    """

    weight: str
    bias: str | None
    norm: str | None
    epsilon: float | None
    reads: str | None
    frozen: bool = False

    @property
    def normalization(self) -> tuple[str, ...]:
        """Weight, bias, mean and variance of the normalisation."""
        statistics = ("running_mean", "running_var") if self.frozen else ("mean", "var")
        return tuple(f"{self.norm}.{part}" for part in ("weight", "bias", *statistics)) if self.norm else ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors it is made of, by their names in the bundle."""
        return (self.weight, *((self.bias,) if self.bias else ()), *self.normalization)


@dataclass(frozen=True)
class Quantisation:
    """What a board writes into the graph: its convolutions, and the tensors that stand in it as they are."""

    layers: tuple[Layer, ...]
    tensors: tuple[str, ...]

    @property
    def needed(self) -> tuple[str, ...]:
        """The bundle's tensors that the graph is made of, each once."""
        return tuple(dict.fromkeys((*self.tensors, *(name for layer in self.layers for name in layer.tensors))))

    def made_of(self, changed: Collection[str]) -> "Quantisation":
        """What of it is made of any of these tensors; the rest stands in the graph as the export wrote it."""
        layers = tuple(layer for layer in self.layers if any(name in changed for name in layer.tensors))
        return Quantisation(layers, tuple(name for name in self.tensors if name in changed))


def layer_tensors(layer: Layer, weights: Mapping[str, np.ndarray], input_scale: float | None) -> dict[str, np.ndarray]:
    """The graph's initialisers for `layer`: WEIGHT.folded and WEIGHT.bias in float32 where it stays so, otherwise
    WEIGHT.int8, WEIGHT.scale [O], WEIGHT.bias (int32 [O]) and WEIGHT.bias_scale [O]."""
    weight, bias = _folded(layer, weights)
    parts = {"folded": weight, "bias": bias} if input_scale is None else _quantised(weight, bias, input_scale)
    return {f"{layer.weight}.{part}": value for part, value in parts.items()}


def refreshed(model: bytes, quantisation: Quantisation, weights: Mapping[str, np.ndarray], what: str) -> bytes:
    """The int8 graph in `model` with the weights and statistics `weights`; every other byte stays.

    Raises UserError, naming `what`, if the graph is not the one that `quantisation` describes.
    """
    names = {layer.reads: f"{layer.reads}.scale" for layer in quantisation.layers if layer.reads}
    scales = values_of(model, list(names.values()), what)
    values = {name: weights[name] for name in quantisation.tensors}
    for layer in quantisation.layers:
        scale = float(scales[names[layer.reads]]) if layer.reads else None
        values |= layer_tensors(layer, weights, scale)
    return with_values(model, values, what)


def map_scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of a uint8 map whose values lie in low…high, extended to hold 0, which is then exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255, _LEAST))
    return scale, np.uint8(round(-low / float(scale)))


def _folded(layer: Layer, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Weight [O, I/groups, h, w] and bias [O] of the convolution with its normalisation in it, float32."""
    weight = weights[layer.weight]
    own = weights[layer.bias] if layer.bias else np.zeros(len(weight), np.float32)
    if layer.epsilon is None:
        return weight, own
    gain, shift, mean, var = (weights[name] for name in layer.normalization)
    scale = gain / np.sqrt(var + np.float32(layer.epsilon))
    return weight * scale[:, None, None, None], shift - (mean - own) * scale


def _quantised(weight: np.ndarray, bias: np.ndarray, input_scale: float) -> dict[str, np.ndarray]:
    """int8 [O, I/groups, h, w], scale [O], bias int32 [O], bias_scale [O] of one convolution."""
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1) / _WEIGHT_MOST
    least = np.abs(bias) / (_BIAS_MOST * input_scale)  # of a channel that is almost only bias
    scale = np.maximum(np.maximum(largest, least), _LEAST / min(input_scale, 1.0)).astype(np.float32)
    bias_scale = scale * np.float32(input_scale)
    return {
        "int8": np.rint(weight / scale[:, None, None, None]).clip(-_WEIGHT_MOST, _WEIGHT_MOST).astype(np.int8),
        "scale": scale,
        "bias": np.rint(bias / bias_scale).astype(np.int32),
        "bias_scale": bias_scale,
    }
