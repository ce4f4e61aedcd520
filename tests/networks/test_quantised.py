"""predict.int8.onnx of every network beside predict.onnx."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from every_network import MIXED, NETWORKS, settings, start
from image_sets import flat_icons

from gems_edge.data.episodes import make_sampler
from gems_edge.data.mixture import MixtureSampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.runtime import Session
from gems_edge.export import quantise as subject
from gems_edge.export.graphs import predict_graph
from gems_edge.export.quantise import quantise
from gems_edge.export.source import MetaModel
from gems_edge.models.fewshot import FewShotModel, forward, initial_weights
from gems_edge.models.pretrained import KNOWN, Pretrained
from gems_edge.models.spec import Pixels


@pytest.mark.parametrize(
    "network, mode", [*((n, "support") for n in NETWORKS), *((n, "frozen") for n in (*KNOWN, MIXED))]
)
def test_bytes_answer_as_floats_do(network, mode, monkeypatch):
    monkeypatch.setattr(subject, "EPISODES", 4)
    pretrained = Pretrained(pixels=Pixels((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)) if mode == "frozen" else Pixels())
    config = settings(network, "maml", (mode,), turn=1, pretrained=pretrained)
    model, weights, rule = start(config)
    icons = flat_icons(config.image_size, 0)
    tensors, sampler = episode_tensors(icons), make_sampler(icons.sets[0], "test", 5, 2, 5, seed=0)
    episode = tensors.episode(sampler.draw(0, 0))
    if mode == "frozen":
        weights |= pretraining(model, weights, episode.support_images)
    with torch.no_grad():
        statistics = forward(model, weights, episode.support_images).statistics
        start_weights = initial_weights(model, weights, 5)
        expected = forward(model, start_weights, episode.query_images, statistics).logits.numpy()
    predict = predict_graph(model, weights, statistics)
    mixture = MixtureSampler(icons.names, (sampler,), (1.0,), seed=0)
    int8 = quantise(predict, MetaModel(model, weights, rule), 1, statistics, tensors, mixture).graph
    (logits,) = Session(int8.SerializeToString(), "int8", threads=1).run(
        ["logits"], {"images": episode.query_images.numpy()}
    )
    # Fifty layers that nobody trained amplify rounding: they are held to what the rounding of pixels does to them.
    noise = (torch.rand(episode.query_images.shape, generator=torch.Generator().manual_seed(0)) - 0.5) / 255
    with torch.no_grad():
        noisy = forward(model, start_weights, episode.query_images + noise, statistics).logits.numpy()
    spread = np.abs(expected - expected.mean(0)).max()
    assert np.abs(logits - expected).mean() < max(0.1 * spread, 6 * np.abs(noisy - expected).mean())
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.7


def pretraining(model, weights, images):
    """Running statistics as some images leave them."""
    with torch.no_grad():
        seen = forward(FewShotModel(replace(model.spec, normalization="support")), weights, images).statistics
    return {".running_".join(name.rsplit(".", 1)): value for name, value in seen.items()}
