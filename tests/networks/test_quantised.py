"""predict.int8.onnx of every network beside predict.onnx."""

import numpy as np
import pytest
import torch
from every_network import NETWORKS, settings, start
from image_sets import flat_icons

from gems_edge.data.episodes import make_sampler
from gems_edge.data.mixture import MixtureSampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.runtime import Session
from gems_edge.export import quantise as subject
from gems_edge.export.graphs import predict_graph
from gems_edge.export.quantise import quantise
from gems_edge.export.source import MetaModel
from gems_edge.models.fewshot import forward, initial_weights


@pytest.mark.parametrize("network", NETWORKS)
def test_bytes_answer_as_floats_do(network, monkeypatch):
    monkeypatch.setattr(subject, "EPISODES", 4)
    config = settings(network, "maml", ("support",), turn=1)
    model, weights, rule = start(config)
    icons = flat_icons(config.image_size, 0)
    tensors, sampler = episode_tensors(icons), make_sampler(icons.sets[0], "test", 5, 2, 5, seed=0)
    episode = tensors.episode(sampler.draw(0, 0))
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
