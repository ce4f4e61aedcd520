"""The check of a bundle: passes whatever rounding explains, and refuses every wrong graph."""

from dataclasses import replace
from pathlib import Path

import handmade as hm
import numpy as np
import onnx
import pytest
import torch
from graph_models import made
from image_sets import flat_icons
from memory_bundles import write_untrained
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from gems_edge.data.episodes import make_sampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.learner import Learner
from gems_edge.errors import MachineError
from gems_edge.export.source import MetaModel
from gems_edge.export.twin import Difference, Sample
from gems_edge.export.verify import verdict, verify_bundle
from gems_edge.meta.evaluation.bundle import learn_episode
from gems_edge.meta.inner import adapt, classify, detached, support_of
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.rules.mmsup import MMSUP
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec, full_widths

STEPS, EPISODES = 3, 3


def bundle(path: Path, learned: MetaModel, shots=1) -> Path:
    write_untrained(learned.model, learned.weights, learned.rule, {(shots, "balanced"): path})
    return path


def verified(path: Path, learned: MetaModel, shots=1, seed=0, steps=STEPS, episodes=EPISODES):
    icons = flat_icons(learned.model.spec.image_size, seed)
    sampler = make_sampler(icons.sets[0], "test", learned.model.spec.ways, shots, 3, seed)
    return verify_bundle(path, learned, steps, icons, [sampler.draw(0, task) for task in range(episodes)])


def untrained(spec: ModelSpec, rate: float, seed=0) -> MetaModel:
    torch.manual_seed(seed)
    model = FewShotModel(spec)
    return MetaModel(model, {n: w.detach() for n, w in model.named_parameters()}, Descent("maml", rate))


def rewritten(path: Path, weights) -> None:
    """The bundle with other start values of some tensors."""
    stored = load((path / "weights.safetensors").read_bytes())
    hm.replace_file(path, "weights.safetensors", save(stored | {name: w.numpy() for name, w in weights.items()}))


# What must pass


@pytest.mark.parametrize(
    "backbone, width, size, shots, normalization, rate",
    [
        ("conv4", 16, 28, 5, "support", 0.1),
        ("conv4", 16, 28, 1, "group", 0.1),
        pytest.param("conv4", 8, 84, 5, "support", 0.05, marks=pytest.mark.slow(20)),
        pytest.param("resnet12", 8, 42, 1, "support", 0.05, marks=pytest.mark.slow(20)),
    ],
)
def test_flat_coloured_images_and_untrained_networks_pass(tmp_path, backbone, width, size, shots, normalization, rate):
    spec = ModelSpec(backbone, full_widths((width,), backbone), size, 3, normalization, "shared", 5)
    for seed in range(3):
        learned = untrained(spec, rate, seed)
        path = tmp_path / "a.gems"
        if not path.exists():
            bundle(path, learned, shots)
        rewritten(path, learned.weights)  # graphs are the same, and tracing them takes long
        result = verified(path, learned, shots, seed, steps=5, episodes=5)
        assert result.steps == 5 and result.answer.error < 1e-3


@pytest.mark.slow(10)
def test_a_network_that_amplifies_rounding_passes(tmp_path):
    """Where board and torch end up far apart, although every step of one is a step of the other."""
    learned = untrained(ModelSpec("resnet12", full_widths((8,), "resnet12"), 42, 3, "support", "shared", 5), 0.1)
    model = learned.model
    path = bundle(tmp_path / "a.gems", learned)
    icons = flat_icons(42, 0)
    indices = make_sampler(icons.sets[0], "test", 5, 1, 3, 0).draw(0, 0)
    episode = episode_tensors(icons).episode(indices)
    support = support_of(episode, 5)
    ends = adapt(model, detached(learned.weights, learned.rule), support, learned.rule, 5).adapted
    with torch.no_grad():
        own = classify(model, ends, episode.query_images, support, "support").softmax(1).numpy()
    assert np.abs(learn_episode(Learner.load(path), icons, indices, 5) - own).max() > 0.01
    assert verified(path, learned, steps=5).answer.error < 1e-3


def difference(error, allowed=1e-3, at="conv"):
    return Difference(at, error, allowed)


def samples(*updates, still=False, forward=1e-6):
    """Of an episode: updates of one tensor, step by step."""
    found = [Sample("update", step, difference(error), still) for step, error in enumerate(updates)]
    return [*found, Sample("forward", 0, difference(forward, 3e-5, "loss")), Sample("answer", 3, difference(1e-6))]


def test_a_kink_in_few_episodes_passes_and_a_fault_in_most_does_not():
    fine = verdict([samples(1e-5, 2e-1), samples(1e-5, 1e-5), samples(1e-1, 1e-5), samples(1e-5, 1e-5)])
    assert fine.passed and fine.other_sides == 2 and fine.update.error == 1e-5
    wrong = verdict([samples(1e-5, 2e-3), samples(1e-5, 1e-5), samples(1e-5, 2e-3)])
    assert not wrong.passed and wrong.update == difference(2e-3)
    assert not verdict([samples(1e-5, forward=1e-4), samples(1e-5)]).passed  # no kink does that


def test_a_mask_that_is_ignored_shows_where_it_holds():
    """A tensor that is held in two episodes of five, and moves all the same."""
    assert not verdict([samples(1e-5)] * 3 + [samples(0.5, still=True)] * 2).passed


def test_what_rounding_explains_is_allowed():
    assert verdict([[Sample("update", 0, Difference("conv", 0.02, 0.03)), *samples(1e-5)[1:]]]).passed


# What must not


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A small Conv-4 in mode support, and its bundle."""
    model, weights = made("conv4", "per-class", "support", 16, divisor=8)
    learned = MetaModel(model, weights, Descent("maml", 0.05))
    return bundle(tmp_path_factory.mktemp("plain") / "a.gems", learned), learned


def refused(path: Path, learned: MetaModel, change, file="adapt.onnx") -> str:
    """What the check says of the bundle with a changed graph."""
    graph = onnx.load(path / file)
    before = graph.SerializeToString()
    change(graph.graph)
    assert graph.SerializeToString() != before
    try:
        hm.replace_file(path, file, graph.SerializeToString())
        with pytest.raises(MachineError, match="does not reproduce torch") as refusal:
            verified(path, learned)
    finally:
        hm.replace_file(path, file, before)
    return str(refusal.value)


def scaled(output, factor, start=None):
    """An output is computed as it was, and then multiplied: itself, or how far it is from the input `start`."""

    def change(graph):
        node = next(node for node in graph.node if output in node.output)
        node.output[list(node.output).index(output)] = "raw"
        for reader in graph.node:  # what is computed from it stays as it was
            reader.input[:] = ["raw" if name == output else name for name in reader.input]
        graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
        if start is None:
            graph.node.append(helper.make_node("Mul", ["raw", "factor"], [output]))
            return
        graph.node.append(helper.make_node("Sub", ["raw", start], ["way"]))
        graph.node.append(helper.make_node("Mul", ["way", "factor"], ["other way"]))
        graph.node.append(helper.make_node("Add", [start, "other way"], [output]))

    return change


def test_the_unchanged_graph_passes(plain):
    assert verified(*plain).passed


@pytest.mark.parametrize("factor", [1.02, -1.0, 0.0])
@pytest.mark.parametrize(
    "name",
    ["backbone.blocks.0.norm.bias", "backbone.blocks.0.conv.weight", "backbone.blocks.3.conv.weight", "head.bias"],
)
def test_a_scaled_turned_or_missing_gradient_of_one_tensor_is_refused(plain, name, factor):
    assert f"the step of {name} is off" in refused(*plain, scaled(f"updated.{name}", factor, start=name))


@pytest.mark.parametrize(
    "output", ["loss", "backbone.blocks.0.norm.mean", "backbone.blocks.0.norm.var", "backbone.blocks.3.norm.var"]
)
def test_wrong_statistics_and_a_wrong_loss_are_refused(plain, output):
    assert f"{output} is off" in refused(*plain, scaled(output, 1.001))


@pytest.mark.parametrize("number", range(7))
def test_a_convolution_with_wrong_padding_is_refused(plain, number):
    """Three of four that go forward (the last one's map has no border that matters), and those that go back."""

    def change(graph):
        pads = [a for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "pads" and any(a.ints)]
        top, left, bottom, right = pads[number].ints
        pads[number].ints[:] = [top - 1, left - 1, bottom + 1, right + 1]

    refused(*plain, change)


def dropped(node, keep):
    return lambda graph: graph.node[node].CopyFrom(
        helper.make_node("Identity", [graph.node[node].input[keep]], [graph.node[node].output[0]])
    )


def sums(graph):
    """(number of the node, input) of all sums and differences of maps and vectors that nodes compute."""
    shapes = {}
    constants = {tensor.name for tensor in graph.graph.initializer}
    for value in onnx.shape_inference.infer_shapes(graph).graph.value_info:
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT and value.name not in constants:
            shapes[value.name] = [dim.dim_value or dim.dim_param for dim in kind.shape.dim]
    for number, node in enumerate(graph.graph.node):
        if node.op_type in ("Add", "Sub") and all(name in shapes for name in node.input):
            for keep, name in enumerate(node.input):
                if shapes[name] == shapes.get(node.output[0]) != []:
                    yield number, keep


@pytest.mark.slow(30)
def test_every_term_counts(plain):
    """Every sum in the graph without one of its terms."""
    terms = list(sums(onnx.load(plain[0] / "adapt.onnx")))
    assert len(terms) >= 25
    for number, keep in terms:
        refused(*plain, dropped(number, keep))


def test_a_wrong_answer_is_refused(plain):
    assert "a probability is off" in refused(*plain, scaled("logits", 1.05), "predict.onnx")


def test_a_ticket_that_is_ignored_is_refused(plain, tmp_path):
    model, weights = plain[1].model, plain[1].weights
    name = "backbone.blocks.1.conv.weight"
    masks = {name: np.random.default_rng(0).random(weights[name].shape) < 0.9}
    masked = FewShotModel(model.spec, masks)
    learned = MetaModel(masked, masked.masked(weights), plain[1].rule)
    path = bundle(tmp_path / "a.gems", learned)

    def ignore(graph):
        (mask,) = (tensor for tensor in graph.initializer if tensor.name == f"mask.{name}")
        mask.CopyFrom(numpy_helper.from_array(np.ones(weights[name].shape, np.float32), mask.name))

    assert name in refused(path, learned, ignore)


def test_rates_of_other_steps_are_refused(plain, tmp_path):
    rates = ((0.1,) * 5, (0.1, 0.0, 0.1, 0.1, 0.1), (0.1,) * 5)
    learned = replace(plain[1], rule=Frozen("bmp", 0.1, rates))
    path = bundle(tmp_path / "a.gems", learned)
    assert verified(path, learned).passed
    rewritten(path, {"rule.rates": torch.tensor([rates[0], rates[0], rates[1]])})
    with pytest.raises(MachineError, match="carried to the next step as rule.rates"):
        verified(path, learned)


def test_shares_that_are_carried_wrong_are_refused(tmp_path):
    rule = MMSUP(0.1)
    model, weights = made("conv4", "per-class", "support", 16, divisor=8)
    weights |= rule.initial(weights, model.spec.shape.feature_channels)
    weights["adapter.output.weight"] += 0.3 * torch.randn(
        weights["adapter.output.weight"].shape, generator=torch.Generator().manual_seed(1)
    )
    learned = MetaModel(model, weights, rule)
    path = bundle(tmp_path / "a.gems", learned)
    assert verified(path, learned).decision.error < 1e-5
    assert "is carried to the next step" in refused(path, learned, scaled("next.rule.keep", 1.01))
