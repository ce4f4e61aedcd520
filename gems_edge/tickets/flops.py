"""What a meta-training costs in multiply-accumulates, layer by layer, in two books that are never mixed. No torch here.

paper: the totals of KDD'22, Tables 2 and 3: iterations × inner steps × support images of a meta-batch × forward MACs of
the backbone, a MAC counted as one FLOP. The paper says that its FLOPs include back-propagation, but its totals are this
product: nothing for the head, the queries or any backward pass. Ours are within 0.4 % of its Conv-4 totals and 1.8 %
below its ResNet-12 ones, which come out to the last digit if every 1×1 skip convolution is counted twice; we count it
once.
full: what our training step executes, backward passes and second-order terms included.

A convolution or linear layer is bilinear in its weights and inputs, so its forward pass, the gradient of its weights,
the gradient of its inputs and every derivative of those is one product of the same number of MACs per image: forward
MACs. A book counts the images that go through such products. With a mask every product loses the same share: the masked
weights in the forward pass and the inputs' gradient, the masked gradients in the weights' own. That is what sparse
kernels would save; torch multiplies by the zeros all the same. Elementwise work (normalisation, ReLU, pooling, softmax,
the update itself) and validation count nothing, and neither does what lies below a cut (--learn-from): an image goes
through it once, whatever the number of iterations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from gems_edge.device.manifest import NORMALIZATIONS
from gems_edge.errors import UserError
from gems_edge.models.spec import PER_IMAGE, ModelSpec
from gems_edge.models.tensor_names import BODY

BOOKS = ("paper", "full")


@dataclass(frozen=True)
class TrainingWork:
    """What a meta-training does. Sizes are of one episode; `meta_batch` episodes make an iteration."""

    adapts_backbone: bool  # inner steps move it
    adapts_head: bool
    iterations: float
    steps: int  # inner steps
    ways: int
    shots: float  # per class, on average
    queries: int  # per class
    meta_batch: int
    first_order: bool
    normalization: str  # transductive, support, group or frozen

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATIONS:
            raise UserError(f"unknown normalization {self.normalization!r}; choose one of {', '.join(NORMALIZATIONS)}")


@dataclass(frozen=True)
class LayerFlops:
    """MACs of one layer over a whole training."""

    name: str  # of its weight
    forward: float  # support of every step, queries, and in mode "support" the statistics
    backward: float  # of the inner losses, the query loss and the statistics
    second_order: float  # of the outer loss through the inner steps
    backward_inputs: float = 0.0  # the part of `backward` that goes into the inputs; the rest goes into the weights

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.second_order


@dataclass(frozen=True)
class Book:
    """MACs of every layer in forward order, head last."""

    name: str  # paper or full
    layers: tuple[LayerFlops, ...]

    @property
    def total(self) -> float:
        return sum(layer.total for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Keys book, total and layers, a list of LayerFlops with their totals."""
        layers = [asdict(layer) | {"total": layer.total} for layer in self.layers]
        return {"book": self.name, "total": self.total, "layers": layers}


def densities_of(masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share kept of each weight, from the bool masks of a weight ticket (models/ticket.py).

    A channel ticket needs none: its compact network is another ModelSpec.
    """
    return {name: int(mask.sum()) / mask.size for name, mask in masks.items()}


def book(name: str, spec: ModelSpec, work: TrainingWork, densities: Mapping[str, float] | None = None) -> Book:
    """The MACs of `work` on a model in the book "paper" or "full".

    `densities`: share kept, 0…1, by weight name; a weight that is not named is dense.
    Raises UserError for an unknown book, a weight that the model does not have, a density outside 0…1, or a model that
    cannot do this work.
    """
    layers, densities = _layers(spec, work.ways), densities or {}
    _check(name, spec, work, [layer.name for layer in layers], densities)
    images = partial(_paper_images if name == "paper" else _executed_images, work, spec.head == "prototype")
    flops = (_flops(layer, images(layer), work, densities.get(layer.name, 1.0)) for layer in layers)
    return Book(name, tuple(flops))


def _check(
    name: str, spec: ModelSpec, work: TrainingWork, weights: Sequence[str], densities: Mapping[str, float]
) -> None:
    if name not in BOOKS:
        raise UserError(f"unknown book {name!r}; choose one of {', '.join(BOOKS)}")
    if spec.head == "per-class" and work.ways > spec.ways:
        raise UserError(f"a head of {spec.ways} ways cannot learn {work.ways} classes")
    alone = [mode for mode in (spec.normalization, work.normalization) if mode in PER_IMAGE]
    if alone and spec.normalization != work.normalization:
        raise UserError(f"a model of normalization {spec.normalization} cannot be trained in {work.normalization}")
    for weight, density in densities.items():
        if weight not in weights:
            raise UserError(f"this model has no weight {weight!r}; its weights are {', '.join(weights)}")
        if not 0 <= density <= 1:
            raise UserError(f"the density of {weight} is {density}; it must be between 0 and 1")


@dataclass(frozen=True)
class _Layer:
    name: str
    macs: int  # of one image's forward pass
    head: bool = False
    reads_data: bool = False  # images, or features of what lies below a cut: no gradient goes into them
    normalized: bool = True  # some statistic of a normalisation depends on its output
    below: bool = False  # a cut


def _layers(spec: ModelSpec, ways: int) -> list[_Layer]:
    cut = spec.cut
    trunk, readers = (cut.layers, {f"{BODY}{path}" for path in cut.readers}) if cut else (0, set())
    layers = [
        _Layer(
            f"{layer.name}.weight", layer.macs, reads_data=layer.reads_images or layer.name in readers,
            normalized=layer.normalized, below=number < trunk,
        )
        for number, layer in enumerate(spec.shape.layers)
    ]  # fmt: skip
    # A row per class, whether each is learned, made of photos, or all are copies of a shared one.
    whole = trunk == len(layers)
    return [*layers, _Layer("head.weight", spec.feature_size * ways, head=True, reads_data=whole)]


@dataclass(frozen=True)
class _Images:
    """Images that go through one layer's products in one episode."""

    forward: float
    into_weights: float = 0
    into_inputs: float = 0
    second_order: float = 0


def _flops(layer: _Layer, images: _Images, work: TrainingWork, density: float) -> LayerFlops:
    scale = work.iterations * work.meta_batch * layer.macs * density
    return LayerFlops(
        layer.name,
        forward=scale * images.forward,
        backward=scale * (images.into_weights + images.into_inputs),
        second_order=0.0 if work.first_order else scale * images.second_order,
        backward_inputs=scale * images.into_inputs,
    )


def _paper_images(work: TrainingWork, prototypes: bool, layer: _Layer) -> _Images:
    """Rows that are made of the support set take it through the backbone, even if no step follows."""
    passes = max(work.steps, prototypes)
    return _Images(0 if layer.head or layer.below else passes * work.ways * work.shots)


def _executed_images(work: TrainingWork, prototypes: bool, layer: _Layer) -> _Images:
    if layer.below:
        return _Images(0)
    if layer.head:
        return _head_images(layer, work, prototypes)
    if work.adapts_backbone and work.steps:
        return _convolution_images(layer, work, prototypes)
    return _constant_body_images(layer, work, prototypes)


# In the functions below: the outer gradient goes back through every inner step once more, as far as it is second order.
# Through the step's forward pass: a product for the weights and one for the inputs. Through the step's backward pass:
# each of its products has two factors, and each factor's gradient is a product.


def _convolution_images(layer: _Layer, work: TrainingWork, prototypes: bool) -> _Images:
    inner, queries, statistics = _passes(work)
    forward = inner + queries + statistics
    # Every method meta-trains every weight, so the query loss goes back through all; an inner loss goes back through
    # the backbone, too, and through the first step's pass that of rows which were made of it, of any order.
    rows = work.ways * work.shots * prototypes
    backward = inner + queries + statistics * layer.normalized + rows
    if layer.reads_data:
        return _Images(forward, backward, 0, inner * 2 - rows)
    return _Images(forward, backward, backward, inner * 6 - 2 * rows)


def _constant_body_images(layer: _Layer, work: TrainingWork, prototypes: bool) -> _Images:
    """Under ANIL, and without steps, the support set goes through the backbone once for all steps and statistics.

    The head's inner gradients hold its features: the outer gradient goes back through it once, in second order always,
    in first order where a statistic that normalises the queries depends on the layer, or rows were made of it.
    """
    support, queries, counted = work.ways * work.shots, work.ways * work.queries, _passes(work)[2] > 0
    through = support * (prototypes or (counted and layer.normalized))
    backward, second = queries + through, support - through
    if layer.reads_data:
        return _Images(support + queries, backward, 0, second)
    return _Images(support + queries, backward, backward, 2 * second)


def _head_images(layer: _Layer, work: TrainingWork, prototypes: bool) -> _Images:
    """Rows that are means of features are a product of their own, with the labels."""
    inner, queries, _ = _passes(work)  # the statistics' pass needs no head
    means = work.ways * work.shots * prototypes
    if layer.reads_data:  # nothing learns below
        weights = inner * work.adapts_head + queries
        return _Images(inner + queries + means, weights, 0, inner * (1 + work.adapts_head))
    return _Images(
        forward=inner + queries + means,
        into_weights=inner * work.adapts_head + queries,
        into_inputs=inner * work.adapts_backbone + queries + means,
        second_order=inner * (2 + 2 * work.adapts_head + 2 * work.adapts_backbone),
    )


def _passes(work: TrainingWork) -> tuple[float, int, float]:
    """Images of an episode that run forward: support in all inner steps, queries, and support for the statistics.

    Mode "support" runs the support set once more, under the adapted weights, for the statistics that queries are
    normalised by; the outer gradient goes back through it.
    """
    support = work.ways * work.shots
    return work.steps * support, work.ways * work.queries, support if work.normalization == "support" else 0
