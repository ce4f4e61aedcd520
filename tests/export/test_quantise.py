"""predict.int8.onnx: made from real episodes, made anew on the board, and run by onnxruntime on integers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from gems_edge.data.mixture import load_mixture, mixture_sampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.int8 import layer_tensors, refreshed
from gems_edge.device.runtime import Session
from gems_edge.errors import MachineError, UserError
from gems_edge.export import quantise as subject
from gems_edge.export.cut import board_trunk, highest_cut
from gems_edge.export.graphs import predict_graph
from gems_edge.export.passes import fold
from gems_edge.export.quantise import quantise, quantise_trunk
from gems_edge.export.source import MetaModel
from gems_edge.meta.meta_model import halves
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.backbones import registry
from gems_edge.models.fewshot import FewShotModel, forward, initial_weights
from gems_edge.models.normalization import Normalization
from gems_edge.models.spec import ModelSpec, full_widths


@pytest.fixture(scope="module")
def glyphs(environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        return load_mixture(("glyphs",))


@pytest.fixture(scope="module", autouse=True)
def networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "mixed", "mixed_network")
        yield


def made(backbone, seed=0):
    """A random network, some of whose normalisations turn values round."""
    torch.manual_seed(seed)
    widths = tuple(width // (1 if backbone == "mixed" else 8) for width in full_widths((), backbone))
    model = FewShotModel(ModelSpec(backbone, widths, 28, 1, "support", "shared", 5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight += 0.7 * torch.randn_like(weight)
    return model, {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module", params=["conv4", "resnet12", "mixed"])
def quantised(request, glyphs):
    """The network, its support statistics on one episode, that episode, and its int8 form from two episodes."""
    model, weights = made(request.param)
    sampler = mixture_sampler(glyphs, "val", 5, 1, 5, seed=1)
    tensors = episode_tensors(glyphs)
    episode = tensors.episode(sampler.draw(0, 0, 1)[1])
    statistics = statistics_of(model, weights, episode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "EPISODES", 2)
        learned, predict = MetaModel(model, weights, Descent("maml", 0.05)), predict_graph(model, weights, statistics)
        result = quantise(predict, learned, 1, statistics, tensors, sampler)
    return model, weights, statistics, episode, result, predict


def statistics_of(model, weights, episode):
    with torch.no_grad():
        return forward(model, weights, episode.support_images)[1]


def arrays(model, weights, statistics):
    return {name: tensor.numpy() for name, tensor in (initial_weights(model, weights, 5) | statistics).items()}


def test_it_answers_as_the_float_network_does(quantised):
    model, weights, statistics, episode, result, _ = quantised
    queries = episode.query_images
    with torch.no_grad():
        expected = forward(model, initial_weights(model, weights, 5), queries, statistics)[0].numpy()
    # A shared row gives every class the same logit: one number an image, which must follow the image.
    found = Session(result.graph.SerializeToString(), "int8", threads=1).run(["logits"], {"images": queries.numpy()})[0]
    spread = expected[:, 0].max() - expected[:, 0].min()
    assert found.shape == expected.shape and spread > 0
    allowed = 0.12 if model.spec.backbone == "mixed" else 0.1
    assert np.abs(found - expected).max() < allowed * max(spread, np.abs(expected).max())
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.98


def test_the_board_writes_what_the_export_would_have(quantised):
    """From other weights and statistics, at the same scales of the maps: byte for byte the same file. So what teaching
    leaves alone need not be written."""
    model, weights, statistics, episode, result, predict = quantised
    content, start = result.graph.SerializeToString(), arrays(model, weights, statistics)
    assert refreshed(content, result.quantisation, start, "int8") == content
    other = made(model.spec.backbone, seed=1)[1]
    values = arrays(model, other, statistics_of(model, other, episode))
    moved = result.quantisation.layers[-1].weight
    few = refreshed(content, result.quantisation.made_of({moved}), start | {moved: values[moved]}, "int8")
    assert few == refreshed(content, result.quantisation, start | {moved: values[moved]}, "int8") != content
    board = refreshed(content, result.quantisation, values, "int8")
    again, quantisation = subject.integer_graph(predict, values, result.about["calibration"]["ranges"])
    assert quantisation == result.quantisation
    exported = onnx.load_from_string(again.SerializeToString())
    written = onnx.load_from_string(board)
    names = {tensor.name: tensor for tensor in exported.graph.initializer if not tensor.name.startswith("head.")}
    changed = {tensor.name: tensor for tensor in written.graph.initializer if tensor.name in names}
    assert changed == names
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in exported.graph.node]
    assert board != content


# What onnxruntime runs of each network. In all, only the image or the first map is quantised and the last one is
# dequantised, and copied to another layout and back; but for what is float32 between maps.
ENDS = {"QuantizeLinear": 1, "DequantizeLinear": 1, "Transpose": 2, "Gemm": 1}
KINDS = {
    "conv4": ENDS
    | {"Conv": 1, "ReorderOutput": 1, "MaxPool": 1, "Max": 1}  # the first block in float32
    | {"QLinearConv": 3, "NhwcMaxPool": 3, "Reshape": 1},
    "resnet12": ENDS | {"QLinearConv": 16, "QLinearAdd": 4, "NhwcMaxPool": 4, "ReduceMean": 1},
    # Between two pairs of copies its normalisation without a convolution.
    "mixed": {"Conv": 1, "ReorderOutput": 1, "QuantizeLinear": 2, "DequantizeLinear": 2, "Transpose": 5}
    | {"QLinearConv": 6, "QLinearMul": 3, "QLinearAdd": 3, "QLinearConcat": 1, "QLinearAveragePool": 1}
    | {"QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "NhwcMaxPool": 1, "BatchNormalization": 1, "ReduceMean": 1}
    | {"FusedGemm": 1, "Gemm": 1},
}


def test_onnxruntime_runs_it_on_integers(quantised, tmp_path):
    """No map is pooled in another layout, and a clamp behind an integer operation costs nothing."""
    assert run_by_onnxruntime(quantised[4].graph, tmp_path) == KINDS[quantised[0].spec.backbone]


def run_by_onnxruntime(graph, place):
    """The kinds of nodes that onnxruntime runs, counted."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(place / "run.onnx"), 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(place / "run.onnx").graph.node)


def test_the_file_is_plain_and_a_third_the_size(quantised):
    model, weights, *_, result, _ = quantised
    content = result.graph.SerializeToString()
    assert result.graph.ir_version == 10 and [(o.domain, o.version) for o in result.graph.opset_import] == [("", 20)]
    floats = sum(weight.numel() for weight in weights.values()) * 4
    assert len(content) < floats / 3 + 20_000


def test_every_convolution_is_a_layer(quantised):
    """With its own bias, and its normalisation's own ε."""
    model, weights, *_, result, _ = quantised
    layers = {layer.weight: layer for layer in result.quantisation.layers}
    assert list(layers) == [name for name, weight in weights.items() if weight.ndim == 4]
    assert all(
        (layer.bias is not None) == (name.replace(".weight", ".bias") in weights) for name, layer in layers.items()
    )
    norms = {norm.name: norm.epsilon for norm in model.modules() if isinstance(norm, Normalization)}
    found = {layer.norm: layer.epsilon for layer in layers.values() if layer.norm}
    assert found.items() <= norms.items() and len(norms) - len(found) == (model.spec.backbone == "mixed")


def test_a_fold_that_is_wrong_is_refused(glyphs, monkeypatch):
    model, weights = made("conv4")
    sampler, tensors = mixture_sampler(glyphs, "val", 5, 1, 5, seed=1), episode_tensors(glyphs)
    statistics = statistics_of(model, weights, tensors.episode(sampler.draw(0, 0, 1)[1]))
    predict = predict_graph(model, weights, statistics)
    wrong = lambda layer, *rest: layer_tensors(replace(layer, epsilon=0.1), *rest)  # noqa: E731
    monkeypatch.setattr(fold, "layer_tensors", wrong)
    with pytest.raises(MachineError, match="does not reproduce torch"):
        quantise(predict, MetaModel(model, weights, Descent("maml", 0.05)), 1, statistics, tensors, sampler)


def test_group_normalisation_is_refused():
    model = FewShotModel(ModelSpec("conv4", (2, 2, 2, 2), 28, 1, "group", "shared", 5))
    with pytest.raises(UserError, match="mode group"):
        subject.check_quantisable(model)


@pytest.mark.parametrize("backbone", ["conv4", "resnet12", "mixed"])
def test_a_quantised_trunk_gives_what_the_quantised_network_has_there(glyphs, backbone):
    """ANIL in mode frozen: predict.int8.onnx is the head behind trunk.int8.onnx, the same bytes before it."""
    torch.manual_seed(1)
    widths = tuple(width // (1 if backbone == "mixed" else 8) for width in full_widths((), backbone))
    model = FewShotModel(ModelSpec(backbone, widths, 28, 1, "frozen", "shared", 5))
    weights = {name: tensor.detach() for name, tensor in model.tensors().items()}
    weights |= {name: each + 0.5 * torch.rand(each.shape) for name, each in weights.items() if each.ndim == 1}
    learned = MetaModel(model, weights, Descent("anil", 0.05))
    cut = highest_cut(learned)
    trunk, predict = board_trunk(halves(learned, cut)), predict_graph(model, weights, {})
    sampler, tensors = mixture_sampler(glyphs, "val", 5, 1, 5, seed=1), episode_tensors(glyphs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "EPISODES", 2)
        made = quantise(predict, learned, 1, {}, tensors, sampler)
        below = quantise_trunk(trunk, weights, tensors, sampler)
    assert cut.name == "head" and Counter(node.op_type for node in below.graph.node)["QuantizeLinear"] >= 3
    images = {"images": tensors.episode(sampler.draw(0, 0, 2)[1]).query_images.contiguous().numpy()}
    [features] = Session(below.SerializeToString(), "trunk", threads=1).run(["features"], images)
    [exact] = Session(trunk.SerializeToString(), "trunk", threads=1).run(["features"], images)
    [logits] = Session(made.graph.SerializeToString(), "predict", threads=1).run(["logits"], images)
    rows = [weights[name].numpy() for name in ("head.weight", "head.bias")]
    np.testing.assert_allclose(features @ rows[0].T + rows[1] + np.zeros(5), logits, rtol=1e-4, atol=1e-4)
    error = np.abs(features - exact).mean() / np.abs(exact).mean()
    assert 0 < error < 0.05
    assert all(layer.frozen == (layer.norm is not None) for layer in made.quantisation.layers)
