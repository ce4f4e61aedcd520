"""predict.int8.onnx: made from real episodes, made anew on the board, and run by onnxruntime on integers."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from gems_edge.data.mixture import load_mixture, mixture_sampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.int8 import refreshed
from gems_edge.device.runtime import Session
from gems_edge.errors import MachineError, UserError
from gems_edge.export import quantise as subject
from gems_edge.export.quantise import quantise
from gems_edge.export.source import MetaModel
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import FewShotModel, forward, initial_weights
from gems_edge.models.spec import ModelSpec, full_widths


@pytest.fixture(scope="module")
def glyphs(environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        return load_mixture(("glyphs",))


def made(backbone, seed=0):
    """A random network, some of whose normalisations turn values round."""
    torch.manual_seed(seed)
    widths = tuple(width // 8 for width in full_widths((), backbone))
    model = FewShotModel(ModelSpec(backbone, widths, 28, 1, "support", "shared", 5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight += 0.7 * torch.randn_like(weight)
    return model, {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module", params=["conv4", "resnet12"])
def quantised(request, glyphs):
    """The network, its support statistics on one episode, that episode, and its int8 form from two episodes."""
    model, weights = made(request.param)
    sampler = mixture_sampler(glyphs, "val", 5, 1, 5, seed=1)
    tensors = episode_tensors(glyphs)
    episode = tensors.episode(sampler.draw(0, 0, 1)[1])
    statistics = statistics_of(model, weights, episode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "EPISODES", 2)
        result = quantise(MetaModel(model, weights, Descent("maml", 0.05)), 1, statistics, tensors, sampler)
    return model, weights, statistics, episode, result


def statistics_of(model, weights, episode):
    with torch.no_grad():
        return forward(model, weights, episode.support_images)[1]


def arrays(model, weights, statistics):
    return {name: tensor.numpy() for name, tensor in (initial_weights(model, weights, 5) | statistics).items()}


def test_it_answers_as_the_float_network_does(quantised):
    model, weights, statistics, episode, result = quantised
    queries = episode.query_images
    with torch.no_grad():
        expected = forward(model, initial_weights(model, weights, 5), queries, statistics)[0].numpy()
    # A shared row gives every class the same logit: one number an image, which must follow the image.
    found = Session(result.graph.SerializeToString(), "int8", threads=1).run(["logits"], {"images": queries.numpy()})[0]
    spread = expected[:, 0].max() - expected[:, 0].min()
    assert found.shape == expected.shape and spread > 0
    assert np.abs(found - expected).max() < 0.1 * max(spread, np.abs(expected).max())
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.98


def test_the_board_writes_what_the_export_would_have(quantised):
    """From other weights and statistics, at the same scales of the maps: byte for byte the same file."""
    model, _, _, episode, result = quantised
    other = made(model.spec.backbone, seed=1)[1]
    values = arrays(model, other, statistics_of(model, other, episode))
    board = refreshed(result.graph.SerializeToString(), result.quantisation, values, "int8")
    ranges = result.about["calibration"]["ranges"]
    scales = {name: subject.map_scale(*found) for name, found in ranges.items()}
    exported = onnx.load_from_string(subject.integer_graph(model.spec, values, scales)[0].SerializeToString())
    written = onnx.load_from_string(board)
    names = {tensor.name: tensor for tensor in exported.graph.initializer if not tensor.name.startswith("head.")}
    changed = {tensor.name: tensor for tensor in written.graph.initializer if tensor.name in names}
    assert changed == names
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in exported.graph.node]
    assert board != result.graph.SerializeToString()


def test_onnxruntime_runs_it_on_integers(quantised, tmp_path):
    """Nothing between the first layer and the head goes back to float, and no map is pooled in another layout."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    model, result = quantised[0], quantised[4]
    onnxruntime.InferenceSession(result.graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    convolutions = len(model.spec.shape.layers)
    assert kinds["QLinearConv"] == (convolutions - 1 if model.spec.backbone == "conv4" else convolutions)
    assert kinds["Conv"] == convolutions - kinds["QLinearConv"] == kinds["Max"] == kinds["MaxPool"]
    assert kinds["NhwcMaxPool"] == 4 - kinds["MaxPool"]
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1 and kinds["Relu"] == 0


def test_the_file_is_plain_and_a_third_the_size(quantised):
    model, weights, *_, result = quantised
    content = result.graph.SerializeToString()
    assert result.graph.ir_version == 10 and [(o.domain, o.version) for o in result.graph.opset_import] == [("", 20)]
    floats = sum(weight.numel() for weight in weights.values()) * 4
    assert len(content) < floats / 3 + 20_000
    layers = result.about["layers"]
    assert [layer["weight"] for layer in layers].count("backbone.blocks.0.skip.weight") == (len(layers) > 4)
    assert {layer["weight"] for layer in layers} == {name for name in weights if "conv" in name or "skip" in name}


def test_a_fold_that_is_wrong_is_refused(glyphs, monkeypatch):
    model, weights = made("conv4")
    sampler, tensors = mixture_sampler(glyphs, "val", 5, 1, 5, seed=1), episode_tensors(glyphs)
    statistics = statistics_of(model, weights, tensors.episode(sampler.draw(0, 0, 1)[1]))
    monkeypatch.setattr(subject, "EPSILON", 0.1)
    with pytest.raises(MachineError, match="does not reproduce torch"):
        quantise(MetaModel(model, weights, Descent("maml", 0.05)), 1, statistics, tensors, sampler)


def test_group_normalisation_is_refused():
    with pytest.raises(UserError, match="mode group"):
        subject.check_quantisable("group")
