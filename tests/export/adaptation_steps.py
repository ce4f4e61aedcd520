"""Adaptation graphs that the tests of passes share, and what to run them on."""

from functools import cache

import numpy as np
import torch
from graph_models import made, pictures

from gems_edge.device.runtime import Session
from gems_edge.export.graphs import adapt_graph
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import initial_weights


@cache
def step_of(backbone, method, head, normalization, size):
    """An adaptation graph, its model and weights."""
    model, weights = made(backbone, head, normalization, size)
    # Half of the channels of a trained network may well have a negative weight.
    weights = {
        n: w * (1 - 2 * (torch.arange(len(w)) % 2)) if n.endswith("norm.weight") else w for n, w in weights.items()
    }
    weights = {name: weight.float() for name, weight in weights.items()}
    return adapt_graph(model, weights, Descent(method, 0.1)), model, weights


def assert_same_results(whole, other, model, weights, images, classes=5):
    """Sums over images may round differently; nothing else is computed in another way."""
    sessions = [Session(graph.SerializeToString(), "adapt.onnx", threads=1) for graph in (whole, other)]
    signatures = [(session.inputs, session.overridable, session.outputs) for session in sessions]
    assert signatures[0] == signatures[1]
    feeds = feeds_of(sessions[0], model, weights, images, classes)
    expected, results = (session.run(session.outputs, feeds) for session in sessions)
    for name, value, result in zip(sessions[0].outputs, expected, results):
        assert np.allclose(value, result, rtol=1e-5, atol=1e-6 * max(1, np.abs(value).max())), name


def feeds_of(session, model, weights, images, classes):
    targets = np.eye(classes, dtype=np.float32)[np.arange(images) % classes]
    start = initial_weights(model, weights, classes)
    random = np.random.default_rng(0)
    feeds = {"images": pictures(images, 3, model.spec.image_size).numpy(), "targets": targets}
    for name in (*session.inputs, *session.overridable):
        if name not in feeds:
            feeds[name] = start[name].numpy()
            if name.startswith("head"):  # a shared head's rows start alike, and the backbone would not move
                feeds[name] = feeds[name] + 0.1 * random.standard_normal(start[name].shape).astype(np.float32)
    return feeds
