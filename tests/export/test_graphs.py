"""adapt.onnx and predict.onnx against torch, for every model and rule that exports."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graph_models import as_float64, made, pictures

from gems_edge.device.runtime import Session
from gems_edge.export.graphs import adapt_graph, predict_graph
from gems_edge.meta.inner import Support, inner_step, one_hot
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import forward, initial_weights

METHODS = (("maml", "shared"), ("maml", "per-class"), ("anil", "shared"), ("boil", "per-class"))
# All of them at the size of glyphs; at an odd size every method once and every head in both modes: tracing one takes
# seconds. Other networks are in tests/networks.
CASES = [("conv4", *method, mode, 28) for method in METHODS for mode in ("support", "group")] + [
    pytest.param("conv4", *method, mode, 37, marks=pytest.mark.slow(5))
    for method, mode in zip(METHODS, ("support", "group", "group", "support"))
]


@pytest.mark.parametrize("backbone,method,head,normalization,size", CASES)
def test_a_step_on_onnxruntime_equals_torch(backbone, method, head, normalization, size):
    model, weights = made(backbone, head, normalization, size)
    rule = Descent(method, 0.1)
    session = Session(adapt_graph(model, weights, rule).SerializeToString(), "adapt.onnx", threads=1)
    exact, errors = copy.deepcopy(model).double(), []
    # Numbers other than the traced ones, unequal ones too; per-class heads may have fewer classes.
    for shots in ((1, 1), (4, 1, 2), (3,) * 5, *([(1,) * 7] if head == "shared" else [])):
        classes = len(shots)
        labels = torch.arange(classes).repeat_interleave(torch.tensor(shots))
        images = pictures(len(labels), 3, size, flat=backbone == "conv4")
        support = Support(images.double(), one_hot(labels, classes, torch.float64))
        start = initial_weights(model, weights, classes)
        # A step away from the symmetric start of a shared head, which would leave the backbone where it is. The float32
        # values are the start of both; what the rule does not move is inside the graph, at its initial value.
        moved = inner_step(exact, as_float64(start), support, Descent("maml", 0.05)).weights
        fed = {*rule.adapted(start), "head.weight", "head.bias"}
        before = as_float64({name: moved[name].float() if name in fed else start[name] for name in start})
        step = inner_step(exact, before, support, rule)
        feeds = {"images": images.numpy(), "targets": support.targets.float().numpy()}
        feeds |= {name: before[name].detach().float().numpy() for name in fed}
        adapted = rule.adapted(start)
        outputs = ["loss", *(f"updated.{name}" for name in adapted), *model.statistics_names()]
        found = {name: torch.from_numpy(np.asarray(v)) for name, v in zip(outputs, session.run(outputs, feeds))}
        assert found["loss"].item() == pytest.approx(step.loss.item(), rel=1e-5)
        assert all(found[f"updated.{name}"].shape == step.weights[name].shape for name in adapted)
        difference = sum((found[f"updated.{name}"] - step.weights[name]).square().sum() for name in adapted)
        length = sum((before[name] - step.weights[name]).square().sum() for name in adapted)
        errors.append((difference / length).sqrt().item())
        for name, value in step.statistics.items():
            assert torch.allclose(found[name].double(), value, rtol=1e-4, atol=1e-5)
    # As export/verify.py: in float32 a kink (ReLU, pool) may now and then be taken on its other side.
    assert np.median(errors) <= 1e-4 and max(errors) <= 1e-2, errors


@pytest.mark.parametrize("backbone,size", [("conv4", 28), pytest.param("resnet12", 42, marks=pytest.mark.slow(3))])
@pytest.mark.parametrize("normalization", ["support", "group"])
@pytest.mark.parametrize("head", ["shared", "per-class"])
def test_predict_equals_torch_and_is_folded(backbone, size, normalization, head):
    model, weights = made(backbone, head, normalization, size)
    with torch.no_grad():
        statistics = forward(model, weights, pictures(9, 3, size))[1]
        queries = pictures(4, 3, size)
        expected = forward(model, initial_weights(model, weights, 5), queries, statistics or None)[0].numpy()
    graph = predict_graph(model, weights, statistics)
    found = Session(graph.SerializeToString(), "predict.onnx", threads=1).run(["logits"], {"images": queries.numpy()})[
        0
    ]
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_predict_is_a_chain_of_plain_layers_for_onnxruntime(tmp_path):
    import onnxruntime

    model, weights = made("conv4", "shared", "support", 28)
    with torch.no_grad():
        statistics = forward(model, weights, pictures(9, 3, 28))[1]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "folded.onnx"), 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(
        predict_graph(model, weights, statistics).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node]
    assert kinds == ["Conv", "MaxPool", "Relu"] * 4 + ["Reshape", "Gemm"] or sorted(set(kinds)) == [
        "Conv",
        "Gemm",
        "MaxPool",
        "Relu",
        "Reshape",
    ]


def test_frozen_parts_have_no_backward_pass():
    def kinds(method, head):
        model, weights = made("conv4", head, "support", 28)
        return [node.op_type for node in adapt_graph(model, weights, Descent(method, 0.1)).graph.node]

    maml, anil = kinds("maml", "per-class"), kinds("anil", "per-class")
    assert "Resize" in maml and "Resize" not in anil  # the pools' backward pass
    # Forward, the gradient at the input of all layers but the first, and the patches of the images.
    assert maml.count("Conv") == 4 + 3 + 1
    assert anil.count("Conv") == 4
    model, weights = made("conv4", "per-class", "support", 28)
    inputs = {value.name for value in adapt_graph(model, weights, Descent("anil", 0.1)).graph.input}
    assert inputs == {"images", "targets", "head.weight", "head.bias"}


@pytest.mark.slow(6)
@pytest.mark.parametrize("backbone,size", [("conv4", 84), ("resnet12", 84)])
def test_models_are_plain_small_and_say_nothing_of_this_machine(backbone, size):
    model, weights = made(backbone, "shared", "support", size)
    with torch.no_grad():
        statistics = forward(model, weights, pictures(2, 3, size))[1]
    held = sum(weight.numel() * 4 for weight in weights.values())
    for graph, constants in (
        (adapt_graph(model, weights, Descent("maml", 0.1)), 0),
        (predict_graph(model, weights, statistics), held),
    ):
        content = graph.SerializeToString()
        assert graph.ir_version == 10 and [(o.domain, o.version) for o in graph.opset_import] == [("", 20)]
        assert len(content) < constants + 600_000  # no folded maps of zeros; indices of patches, 4 bytes each
        for trace in (b"site-packages", b"gems_edge/", str(Path.cwd()).encode(), str(Path.home()).encode() + b"/"):
            assert trace not in content
        assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
        assert {node.domain for node in graph.graph.node} == {""}
        assert not any(tensor.external_data for tensor in graph.graph.initializer)
