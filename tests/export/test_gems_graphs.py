"""adapt.onnx of BMP, MMSUP and their frozen forms: whole inner loops on onnxruntime against torch in float64."""

import copy

import numpy as np
import pytest
import torch
from graph_models import as_float64, made, pictures

from gems_edge.device.runtime import Session
from gems_edge.errors import UserError
from gems_edge.export.graphs import RULE, adapt_graph, carried_names
from gems_edge.export.source import MetaModel
from gems_edge.export.specialise import apply_choice, specialise
from gems_edge.meta.inner import Support, adapt, one_hot
from gems_edge.meta.rules.bmp import BMP
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.meta.rules.mmsup import MMSUP
from gems_edge.models.fewshot import layers_of

STEPS = 3
RULES = {
    "bmp": BMP(0.1),
    "bmp-layer": BMP(0.1, rate_per_layer=True),
    "bmp-blind": BMP(0.1, task_feature=False),
    "mmsup": MMSUP(0.1),
    "mmsup-fixed": MMSUP(0.1, keep=(0.3,)),
}


def start(backbone, head, normalization, size, rule, seed=5):
    """Weights and φ at which masks are mixed, far from their thresholds, and kept shares differ."""
    model, weights = made(backbone, head, normalization, size)
    torch.manual_seed(seed)
    weights |= rule.initial(weights, model.spec.shape.feature_channels)
    for name, weight in weights.items():
        if name == "adapter.output.weight":
            weight += 0.3 * torch.randn_like(weight)
        if name == "adapter.output.bias" and rule.name == "bmp":
            layers = len(layers_of(weights))
            weight[1:layers:2] -= 2  # about every other mask
            weight[layers - 1] += 3  # a shared head that never moves learns nothing
        if name.startswith("head."):
            weight += 0.2 * torch.randn_like(weight)
    return model, weights


def loop(graph, rule, trajectory, support):
    """Relative error of every step's update on onnxruntime, each from torch's weights and what the graph carried."""
    session = Session(graph.SerializeToString(), "adapt.onnx", threads=1)
    adapted, errors = rule.adapted(trajectory.weights[0]), []
    carried = {f"{RULE}{name}": rule.begin(trajectory.weights[0])[name].float().numpy() for name in rule.carried}
    feeds = {"images": support.images.float().numpy(), "targets": support.targets.float().numpy()}
    for before, after in zip(trajectory.weights, trajectory.weights[1:]):
        fed = {name: before[name].detach().float().numpy() for name in {*adapted, "head.weight", "head.bias"}}
        outputs = ["loss", *(f"updated.{name}" for name in adapted), *(f"next.{name}" for name in carried)]
        found = dict(zip(outputs, session.run(outputs, feeds | fed | carried)))
        carried = {name: found[f"next.{name}"] for name in carried}
        moves = [(found[f"updated.{n}"] - fed[n], (after[n] - before[n]).detach().numpy()) for n in adapted]
        length = sum((move**2).sum() for _, move in moves)
        if length < 1e-12:  # the head is masked, and nothing else has a gradient while a shared head's rows are alike
            assert max(np.abs(own).max() for own, _ in moves) < 1e-6
            continue
        errors.append((sum(((own - move) ** 2).sum() for own, move in moves) / length) ** 0.5)
    return errors


# Other networks are in tests/networks.
CASES = [("conv4", 28, "per-class", "group", name) for name in RULES] + [
    pytest.param("conv4", 28, "shared", "support", name, marks=pytest.mark.slow(3)) for name in RULES
]


@pytest.mark.parametrize("backbone,size,head,normalization,name", CASES)
def test_inner_loops_on_onnxruntime_equal_torch(backbone, size, head, normalization, name):
    rule = RULES[name]
    model, weights = start(backbone, head, normalization, size, rule)
    graph, exact, errors = adapt_graph(model, weights, rule), copy.deepcopy(model).double(), []
    assert [value.name for value in graph.graph.input if value.name.startswith(RULE)] == list(carried_names(rule))
    for shots in ((1, 1), (4, 1, 2, 1), *([(1,) * 7] if head == "shared" else [])):
        classes = len(shots)
        labels = torch.arange(classes).repeat_interleave(torch.tensor(shots))
        images = pictures(len(labels), 3, size, flat=backbone == "conv4").double()
        support = Support(images, one_hot(labels, classes, torch.float64))
        trajectory = adapt(exact, as_float64(weights), support, rule, STEPS)
        errors += loop(graph, rule, trajectory, support)
        if rule.name == "bmp":
            masks = torch.stack([step.choice["mask"] for step in trajectory.steps])
            assert 0 < masks.mean() < 1
    # Now and then a kink (ReLU, pool) is taken on its other side in float32, most of all in ResNet-12.
    assert np.median(errors) <= 1e-4 and max(errors) <= 3e-2, errors


def test_a_frozen_layer_has_no_backward_pass():
    """Conv-4: with the first two blocks still, nothing is computed for them but their maps."""
    model, weights = made("conv4", "per-class", "support", 28)
    whole = adapt_graph(model, weights, Frozen("bmp", 0.1, ((0.1,) * 5,)))
    rule = Frozen("bmp", 0.1, ((0.0, 0.0, 0.2, 0.0, 0.1), (0.0, 0.0, 0.3, 0.0, 0.1)))
    graph = adapt_graph(model, weights, rule)
    kinds = [node.op_type for node in graph.graph.node]
    assert rule.adapted(weights) == tuple(n for n in weights if "blocks.2" in n or n.startswith("head"))
    # Forward 4; backward: the input's gradient of block 3 alone (block 2 is the lowest that moves).
    # In the whole graph also the patches of the images.
    assert [node.op_type for node in whole.graph.node].count("Conv") == 4 + 3 + 1 and kinds.count("Conv") == 4 + 1
    resizes = [node.op_type for node in whole.graph.node].count("Resize")
    assert resizes == 2 * kinds.count("Resize") > 0  # two pools of four are gone back through
    exact = copy.deepcopy(model).double()
    labels = torch.arange(5)
    support = Support(pictures(5, 3, 28).double(), one_hot(labels, 5, torch.float64))
    trajectory = adapt(exact, as_float64(weights), support, rule, STEPS)
    assert max(loop(graph, rule, trajectory, support)) < 1e-4
    moved = {n for n in weights if (trajectory.weights[1][n] != trajectory.weights[0][n]).any()}
    assert moved == set(rule.adapted(weights))
    # The third step repeats the second's rates.
    rates = [step.state["rates"][0].tolist() for step in trajectory.steps]
    assert rates[0] == rates[1] == rates[2] == [0.0, 0.0, 0.3, 0.0, 0.1]


@pytest.mark.parametrize("name", ["bmp", "bmp-layer", "mmsup"])
def test_freezing_takes_the_majority(name):
    from gems_edge.data.imageset import ImageSet
    from gems_edge.data.mixture import Mixture, mixture_sampler
    from gems_edge.data.tensors import episode_tensors
    from gems_edge.meta.inner import detached, support_of

    rule = RULES[name]
    model, weights = start("conv4", "per-class", "support", 28, rule, seed=6)
    images = np.random.default_rng(0).integers(0, 255, (60, 28, 28, 3), np.uint8)
    images[:30] //= 8  # two kinds of classes, so that tasks differ
    one = ImageSet("noise", images, np.arange(60) // 10, tuple("abcdef"), np.array(["val"] * 6), None, False, "")
    tensors = episode_tensors(one)
    sampler = mixture_sampler(Mixture(("noise",), (one,)), "val", 5, 1, 2, seed=0).samplers[0]
    learned = MetaModel(model, weights, rule)
    found = specialise(learned, STEPS, learned, tensors, sampler, range(9))
    chosen = []
    for task in range(9):
        support = support_of(tensors.episode(sampler.draw(0, task)), 5)
        chosen.append(adapt(model, detached(weights, rule), support, rule, STEPS).steps)
    assert not any(n.startswith("adapter.") for n in found.learned.weights)
    if name == "mmsup":
        keep = np.array([[float(x) for x in steps[0].choice["keep"]] for steps in chosen])
        assert found.about["keep"] == pytest.approx(np.median(keep, 0), rel=1e-6)
        masks = found.learned.model.masks
        for number, key in enumerate(n for n, w in found.learned.weights.items() if w.ndim > 1):
            assert masks[key].mean().item() == pytest.approx(np.median(keep, 0)[number], abs=1.01 / masks[key].numel())
    else:
        masks = np.array([[step.choice["mask"].tolist() for step in steps] for steps in chosen])
        rates = np.array([[step.choice["rate"].tolist() for step in steps] for steps in chosen])
        majority = masks.mean(0) > 0.5
        assert (np.array(found.about["masks"]) == majority).all()
        assert np.array(found.about["rates"]) == pytest.approx(majority * np.exp(np.log(rates).mean(0)), rel=1e-5)
        assert found.about["agreement"] == pytest.approx((masks == majority).mean())
    # A task whose own choices are the frozen ones learns the same.
    support = support_of(tensors.episode(sampler.draw(0, 0)), 5)
    ends = adapt(
        found.learned.model, detached(found.learned.weights, found.learned.rule), support, found.learned.rule, STEPS
    ).adapted
    assert all(torch.isfinite(value).all() for value in ends.values())


def test_as_many_steps_as_the_tracer_counts_images():
    """11 and 13 are the first sizes that the tracer would take for the images; the table of rates has them too."""
    model, weights = made("conv4", "per-class", "support", 28)
    rule = Frozen("bmp", 0.1, tuple((0.0, 0.0, 0.0, 0.01 * step, 0.1) for step in range(11)))
    graph = adapt_graph(model, weights, rule)
    labels = torch.arange(5)
    support = Support(pictures(5, 3, 28).double(), one_hot(labels, 5, torch.float64))
    trajectory = adapt(copy.deepcopy(model).double(), as_float64(weights), support, rule, 12)
    assert max(loop(graph, rule, trajectory, support)) < 1e-3


def test_a_shared_head_that_would_never_move_is_refused():
    rule = BMP(0.1)
    model, weights = made("conv4", "shared", "support", 28)
    trained = MetaModel(model, weights | rule.initial(weights, model.spec.shape.feature_channels), rule)
    choices = {"mask": torch.tensor([[[0.0, 1.0, 1.0, 1.0, 0.0]]]), "rate": torch.full((1, 1, 1), 0.1)}
    with pytest.raises(UserError, match="shared head"):
        apply_choice(trained, rule.frozen(trained.weights, choices))
    choices["mask"][0, 0] = 0
    with pytest.raises(UserError, match="any layer"):
        apply_choice(trained, rule.frozen(trained.weights, choices))
