"""predict.int8.onnx and trunk.int8.onnx: predict.onnx on bytes (passes/quantise.py), calibrated on networks that have
adapted, and the trunk with the same maps on the same bytes: a board teaches on what it will then see."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch

from gems_edge.data.mixture import MixtureSampler
from gems_edge.data.tensors import Episode, EpisodeTensors
from gems_edge.device.int8 import Quantisation, map_scale
from gems_edge.device.runtime import Session
from gems_edge.errors import MachineError
from gems_edge.export.passes.quantise import IMAGE, with_bytes, with_ranges
from gems_edge.export.source import MetaModel, check_quantisable
from gems_edge.meta.inner import adapt, classify, detached, support_of
from gems_edge.models.fewshot import Weights, body, initial_weights, network_weights
from gems_edge.models.normalization import Statistics

# Of the folded float32 network against torch, as a share of the largest logit.
TOLERANCE = 1e-3
EPISODES = 32

Arrays = Mapping[str, np.ndarray]
Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Quantised:
    graph: onnx.ModelProto
    quantisation: Quantisation
    about: dict[str, Any]  # for the manifest


def quantise(
    predict: onnx.ModelProto,
    learned: MetaModel,
    steps: int,
    statistics: Statistics,
    tensors: EpisodeTensors,
    sampler: MixtureSampler,
    progress: Callable[[int], None] | None = None,
) -> Quantised:
    """The int8 form of `predict`, at the start of `learned` and `statistics`; ranges of EPISODES adapted episodes.

    The episodes come evenly from the distributions of `sampler`. Raises UserError for a network that cannot be
    quantised, MachineError if the folded one does not reproduce torch.
    """
    model = learned.model
    check_quantisable(model)
    model.to(tensors.images.device)
    ranges: Ranges = {}
    for task in range(EPISODES):
        episode = tensors.episode(sampler.draw(0, task, EPISODES)[1])
        ranges = _widened(ranges, _ranges_after_adaptation(predict, learned, steps, episode, sampler.ways))
        if progress:
            progress(task + 1)
    model.cpu()
    start = _numpy(initial_weights(model, network_weights(learned.weights), model.spec.ways) | statistics)
    graph, quantisation = integer_graph(predict, start, ranges)
    calibration = {"split": "val", "episodes": EPISODES, "ranges": {n: list(r) for n, r in ranges.items()}}
    return Quantised(graph, quantisation, asdict(quantisation) | {"calibration": calibration})


def quantise_trunk(
    trunk: onnx.ModelProto, weights: Weights, tensors: EpisodeTensors, sampler: MixtureSampler
) -> onnx.ModelProto:
    """The int8 form of `trunk` at `weights`, its features in float32 again: ranges of the images that `quantise` has
    them of."""
    arrays, ranges = _numpy(weights), Ranges()
    for task in range(EPISODES):
        images = tensors.episode(sampler.draw(0, task, EPISODES)[1]).query_images
        ranges = _widened(ranges, map_ranges(trunk, arrays, images.cpu().numpy())[1])
    return integer_graph(trunk, arrays, ranges)[0]


def _ranges_after_adaptation(
    predict: onnx.ModelProto, learned: MetaModel, steps: int, episode: Episode, ways: int
) -> Ranges:
    """The ranges of the query images' maps once the model has adapted to the episode's support set."""
    model, rule, device = learned.model, learned.rule, episode.support_images.device
    weights = {name: tensor.to(device) for name, tensor in learned.weights.items()}
    support = support_of(episode, ways)
    adapted = adapt(model, detached(weights, rule), support, rule, steps).adapted
    with torch.no_grad():
        statistics = body(model, adapted, support.images, shares=support.shares).statistics
        expected = classify(model, adapted, episode.query_images, support, model.spec.normalization)
    logits, ranges = map_ranges(predict, _numpy(adapted | statistics), episode.query_images.cpu().numpy())
    _check_folded(logits, expected.cpu().numpy())
    return ranges


def _widened(ranges: Ranges, others: Ranges) -> Ranges:
    """The ranges that hold both; each holds 0."""
    result = dict(ranges)
    for name, (low, high) in others.items():
        least, most = ranges.get(name, (0.0, 0.0))
        result[name] = min(least, low), max(most, high)
    return result


def map_ranges(model: onnx.ModelProto, weights: Arrays, images: np.ndarray) -> tuple[np.ndarray, Ranges]:
    """What predict.onnx or trunk.onnx gives for `images` [N, C, H, W] at `weights` (the bundle's tensors, a row of the
    head per class) in float32, and the least and greatest value of every map to be on bytes."""
    graph, maps = with_ranges(model, weights)
    session = Session(graph.SerializeToString(), "the calibration graph")
    ends_of = [f"{end}.{name}" for name in maps for end in ("low", "high")]
    result, *ends = session.run([model.graph.output[0].name, *ends_of], {"images": images})
    return result, {name: (float(low), float(high)) for name, low, high in zip(maps, ends[::2], ends[1::2])}


def integer_graph(model: onnx.ModelProto, weights: Arrays, ranges: Ranges) -> tuple[onnx.ModelProto, Quantisation]:
    """The int8 graph at `weights`, as of map_ranges, with the maps' `ranges`; what a board writes anew in it."""
    scales = {name: map_scale(*ends) for name, ends in ranges.items()} | {IMAGE: map_scale(0.0, 1.0)}
    return with_bytes(model, weights, scales)


def _check_folded(logits: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(logits - expected).max() / max(np.abs(expected).max(), 1.0)
    if not error <= TOLERANCE:
        raise MachineError(
            "the network with its normalisation folded for --int8 does not reproduce torch: logits differ by "
            f"{error:.1e} of the largest (allowed {TOLERANCE:.0e}); export without --int8, and please report this"
        )


def _numpy(tensors: Weights) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
