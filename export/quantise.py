"""predict.int8.onnx: the predict graph with quantised convolutions, calibrated on networks that have adapted.

Written with ONNX's own QuantizeLinear and DequantizeLinear, which any tool can run; onnxruntime makes one integer
operation of what stands between two of them. The head stays float32: it is less than a hundredth of the work, and the
number of its rows is the user's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch

from gems_edge.data.mixture import MixtureSampler
from gems_edge.data.tensors import Episode, EpisodeTensors
from gems_edge.device.bundle import HEAD
from gems_edge.device.int8 import Layer, Quantisation, layer_tensors, map_scale
from gems_edge.device.runtime import Session
from gems_edge.errors import MachineError
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.graphs import CLASSES, IMAGES
from gems_edge.export.source import MetaModel, check_quantisable
from gems_edge.meta.inner import adapt, classify, detached, support_of
from gems_edge.models.fewshot import Weights, forward, initial_weights, network_weights
from gems_edge.models.normalization import Statistics
from gems_edge.models.spec import ModelSpec

# Of the folded float32 network against torch, as a share of the largest logit.
TOLERANCE = 1e-3
EPSILON = 1e-5
EPISODES = 32
# The map that is the image itself: 0…1 in 256 steps, the pixels as they were.
IMAGE = "images"

Arrays = Mapping[str, np.ndarray]
Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Quantised:
    graph: onnx.ModelProto
    quantisation: Quantisation
    about: dict[str, Any]  # for the manifest


def quantise(
    learned: MetaModel,
    steps: int,
    statistics: Statistics,
    tensors: EpisodeTensors,
    sampler: MixtureSampler,
    progress: Callable[[int], None] | None = None,
) -> Quantised:
    """The int8 graph of a model at its start and `statistics`, its maps' ranges those of EPISODES adapted episodes.

    The episodes come evenly from the distributions of `sampler`. Raises MachineError if the folded network does not
    reproduce torch.
    """
    model = learned.model
    check_quantisable(model.spec.normalization)
    model.to(tensors.images.device)
    ranges: Ranges = {}
    for task in range(EPISODES):
        episode = tensors.episode(sampler.draw(0, task, EPISODES)[1])
        ranges = _widened(ranges, _ranges_after_adaptation(learned, steps, episode, sampler.ways))
        if progress:
            progress(task + 1)
    model.cpu()
    start = _numpy(initial_weights(model, network_weights(learned.weights), model.spec.ways) | statistics)
    graph, layers = integer_graph(model.spec, start, {name: map_scale(*ends) for name, ends in ranges.items()})
    about = {
        "epsilon": EPSILON,
        "layers": [asdict(layer) for layer in layers],
        "calibration": {"split": "val", "episodes": EPISODES, "ranges": {n: list(r) for n, r in ranges.items()}},
    }
    return Quantised(graph, Quantisation(layers, EPSILON), about)


def _ranges_after_adaptation(learned: MetaModel, steps: int, episode: Episode, ways: int) -> Ranges:
    """The ranges of the query images' maps once the model has adapted to the episode's support set."""
    model, rule, device = learned.model, learned.rule, episode.support_images.device
    weights = {name: tensor.to(device) for name, tensor in learned.weights.items()}
    support = support_of(episode, ways)
    adapted = adapt(model, detached(weights, rule), support, rule, steps).adapted
    with torch.no_grad():
        statistics = forward(model, adapted, support.images).statistics
        expected = classify(model, adapted, episode.query_images, support, "support")
    logits, ranges = map_ranges(model.spec, _numpy(adapted | statistics), episode.query_images.cpu().numpy())
    _check_folded(logits, expected.cpu().numpy())
    return ranges


def _widened(ranges: Ranges, others: Ranges) -> Ranges:
    """The ranges that hold both; each holds 0, and the image's all of 0…1."""
    result = dict(ranges)
    for name, (low, high) in others.items():
        least, most = ranges.get(name, (0.0, 1.0 if name == IMAGE else 0.0))
        result[name] = min(least, low), max(most, high)
    return result


def map_ranges(spec: ModelSpec, weights: Arrays, images: np.ndarray) -> tuple[np.ndarray, Ranges]:
    """The float32 logits of `images` [N, C, H, W], and the least and greatest value of every map to be quantised."""
    writer = _FloatWriter(weights)
    session = Session(_write(writer, spec, show_ranges=True).SerializeToString(), "the calibration graph")
    names = [f"{end}.{name}" for name in writer.maps for end in ("low", "high")]
    logits, *ends = session.run(["logits", *names], {"images": images})
    return logits, {name: (float(low), float(high)) for name, low, high in zip(writer.maps, ends[::2], ends[1::2])}


def integer_graph(
    spec: ModelSpec, weights: Arrays, scales: dict[str, tuple[np.float32, np.uint8]]
) -> tuple[onnx.ModelProto, tuple[Layer, ...]]:
    """predict.int8.onnx at `weights` (head and statistics among them) with the maps' scales and zero points; layers."""
    writer = _IntegerWriter(weights, scales)
    return _write(writer, spec), tuple(writer.layers)


@dataclass(frozen=True)
class Map:
    """A tensor of the graph and the map whose scale it has; None: the image."""

    value: str
    name: str | None


class _FloatWriter:
    """Writes the layers in float32 and collects the maps that are to be quantised."""

    def __init__(self, weights: Arrays):
        self.builder = GraphBuilder("predict")
        self.weights = weights
        self.layers: list[Layer] = []
        self.maps: dict[str, str] = {}

    def convolution(self, x: Map, name: str, norm: str | None = None) -> str:
        """The convolution NAME of `x` with the normalisation `norm` folded in."""
        layer = Layer(f"{name}.weight", norm, x.name)
        self.layers.append(layer)
        kernel = list(self.weights[layer.weight].shape[2:])
        pads = [size // 2 for size in kernel]
        return self.builder.op(
            "Conv", x.value, *self.parameters(layer), kernel_shape=kernel, pads=[*pads, *pads], strides=[1, 1]
        )

    def parameters(self, layer: Layer) -> tuple[str, ...]:
        """The tensors of the folded weight and bias."""
        return tuple(self._stored(layer_tensors(layer, self.weights, EPSILON, None)))

    def quantise(self, value: str, name: str) -> Map:
        """`value` as the map `name`."""
        self.maps[name] = value
        return Map(value, name)

    def pool(self, x: Map) -> Map:
        return Map(_pooled(self, x.value), x.name)

    def _stored(self, tensors: dict[str, np.ndarray]) -> list[str]:
        return [self.builder.initializer(name, value).name for name, value in tensors.items()]


class _IntegerWriter(_FloatWriter):
    """Writes the layers with uint8 maps and int8 weights; `scales`: each map's scale and zero point."""

    def __init__(self, weights: Arrays, scales: dict[str, tuple[np.float32, np.uint8]]):
        super().__init__(weights)
        self.scales = scales

    def parameters(self, layer: Layer) -> tuple[str, ...]:
        if layer.reads is None:
            return super().parameters(layer)
        map_scale = float(self.scales[layer.reads][0])
        weight, scale, bias, bias_scale = self._stored(layer_tensors(layer, self.weights, EPSILON, map_scale))
        return (
            self.builder.op("DequantizeLinear", weight, scale, axis=0),
            self.builder.op("DequantizeLinear", bias, bias_scale, axis=0),
        )

    def quantise(self, value: str, name: str) -> Map:
        scale, zero = self.scales[name]
        stored = self._stored({f"{name}.scale": np.asarray(scale), f"{name}.zero_point": np.asarray(zero)})
        value = self.builder.op("DequantizeLinear", self.builder.op("QuantizeLinear", value, *stored), *stored)
        return super().quantise(value, name)

    def pool(self, x: Map) -> Map:
        pooled = super().pool(x)
        return pooled if x.name is None else self.quantise(pooled.value, x.name)  # values of the same scale: exact


def _write(writer: _FloatWriter, spec: ModelSpec, show_ranges: bool = False) -> onnx.ModelProto:
    """images → logits as predict.onnx; with `show_ranges` also low.NAME and high.NAME of every map."""
    b = writer.builder
    images = b.input("images", [IMAGES, spec.channels, spec.image_size, spec.image_size])
    features = _BACKBONES[spec.backbone](writer, spec, Map(images.name, None))
    head = [b.overridable(name, writer.weights[name], [CLASSES, *writer.weights[name].shape[1:]]) for name in HEAD]
    b.output("logits", b.op("Gemm", features, *(tensor.name for tensor in head), transB=1), [IMAGES, CLASSES])
    for name, value in writer.maps.items() if show_ranges else ():
        b.output(f"low.{name}", b.op("ReduceMin", value, keepdims=0), [])
        b.output(f"high.{name}", b.op("ReduceMax", value, keepdims=0), [])
    return b.model()


def _conv4(writer: _FloatWriter, spec: ModelSpec, x: Map) -> str:
    """The first convolution and its pool in float32: with three input channels the int8 kernel is the slower one."""
    for n in range(len(spec.widths)):
        y = writer.convolution(x, f"backbone.blocks.{n}.conv", f"backbone.blocks.{n}.norm")
        if x.name is None:  # a quarter to quantise; onnxruntime would move QuantizeLinear past a Relu
            y = writer.builder.op("Max", _pooled(writer, y), writer.builder.constant(0.0))
            x = writer.quantise(y, f"blocks.{n}")
        else:
            x = writer.pool(writer.quantise(writer.builder.op("Relu", y), f"blocks.{n}"))
    return writer.builder.op("Flatten", x.value)


def _resnet12(writer: _FloatWriter, spec: ModelSpec, x: Map) -> str:
    """All in int8: no pool follows the first convolution, so float32 there costs more than it saves (1.8 for 1.5 ms
    with a quarter of the widths)."""
    x = writer.quantise(x.value, IMAGE)
    for n in range(len(spec.widths) // 3):
        block, y = f"backbone.blocks.{n}", x
        for k in (1, 2):
            convolved = writer.convolution(y, f"{block}.conv{k}", f"{block}.norm{k}")
            y = writer.quantise(writer.builder.op("Relu", convolved), f"blocks.{n}.{k}")
        y = writer.quantise(writer.convolution(y, f"{block}.conv3", f"{block}.norm3"), f"blocks.{n}.3")
        skip = writer.quantise(writer.convolution(x, f"{block}.skip"), f"blocks.{n}.skip")
        x = writer.pool(writer.quantise(writer.builder.op("Add", y.value, skip.value), f"blocks.{n}"))
    return writer.builder.op("ReduceMean", x.value, writer.builder.constant([2, 3]), keepdims=0)


_BACKBONES = {"conv4": _conv4, "resnet12": _resnet12}


def _check_folded(logits: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(logits - expected).max() / max(np.abs(expected).max(), 1.0)
    if not error <= TOLERANCE:
        raise MachineError(
            "the network with its normalisation folded for --int8 does not reproduce torch: logits differ by "
            f"{error:.1e} of the largest (allowed {TOLERANCE:.0e}); export without --int8, and please report this"
        )


def _pooled(writer: _FloatWriter, value: str) -> str:
    return writer.builder.op("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])


def _numpy(tensors: Weights) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
