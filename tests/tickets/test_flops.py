"""FLOP books: the paper's own totals, and torch's counter on real training steps."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gems_edge.data.shots import Shots
from gems_edge.data.tensors import Episode
from gems_edge.errors import UserError
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.rules.registry import RULES, rule_of
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec, full_widths
from gems_edge.tickets.costs import training_work
from gems_edge.tickets.flops import TrainingWork, book, densities_of

# No two layers cost the same, so that no error hides behind another's.
SMALL = {"conv4": ((8, 9, 12, 16), 28), "resnet12": ((2, 3, 4, 5, 6, 7, 9, 8, 10, 12, 11, 13), 32)}
# KDD'22, Table 1: method → iterations, inner steps.
SETTINGS = {"maml": (80_000, 5), "anil": (200_000, 5), "boil": (200_000, 1)}


def small(backbone="conv4", method="maml", head="per-class", normalization="support", first_order=False):
    widths, size = SMALL[backbone]
    return TrainConfig(
        backbone=backbone, widths=widths, image_size=size, channels=3, method=method, head=head, ways=3,
        shots=Shots.given(2), queries=4, steps=2, normalization=normalization, first_order=first_order, meta_batch=1,
        iterations=1,
    )  # fmt: skip


def full_size(backbone):
    return ModelSpec(backbone, full_widths((), backbone), 84, 3, "transductive", "per-class", 5)


def paper_work(method, shots):
    iterations, steps = SETTINGS[method]
    rule = RULES[method]
    return TrainingWork(rule.moves_body, rule.moves_head, iterations, steps, 5, shots, 15, 4, False, "transductive")


# KDD'22, Tables 2 and 3, "ticket finding" of MWT: training the dense network once, in 10^15. tiered is mini's size.
PAPER = [
    ("conv4", "maml", 1, "0.78"), ("conv4", "anil", 1, "1.94"), ("conv4", "boil", 1, "0.39"),
    ("conv4", "maml", 5, "3.89"),
    ("resnet12", "maml", 1, "20.08"), ("resnet12", "anil", 1, "50.19"), ("resnet12", "boil", 1, "10.04"),
    ("resnet12", "maml", 5, "100.38"),
]  # fmt: skip


@pytest.mark.parametrize("backbone, method, shots, printed", PAPER)
def test_the_papers_totals(backbone, method, shots, printed):
    made = book("paper", full_size(backbone), paper_work(method, shots))
    assert made.total == pytest.approx(float(printed) * 1e15, rel=0.03)
    # To the last printed digit, if every 1×1 skip convolution of ResNet-12 counts twice: the paper's 1.8 % above ours.
    skips = sum(layer.total for layer in made.layers if "skip" in layer.name)
    assert f"{(made.total + skips) / 1e15:.2f}" == printed


def count(config):
    """torch's own count of one episode: FLOPs of the forward passes, and of everything. Above a cut: on features."""
    torch.manual_seed(0)
    whole = FewShotModel(config.model_spec())
    model = halves(MetaModel(whole, dict(whole.named_parameters()), rule_of(config)), whole.spec.cut).learned.model
    support, queries = (torch.arange(config.ways).repeat_interleave(n) for n in (config.shots.most, config.queries))
    shape = model.input_shape
    episode = Episode(torch.rand(len(support), *shape), support, torch.rand(len(queries), *shape), queries)
    weights = dict(model.named_parameters())
    with FlopCounterMode(display=False) as counter:
        loss = meta_loss(model, weights, episode, config, Descent(config.method, config.inner_lr)).loss
        by_op = dict(counter.get_flop_counts()["Global"])  # the inner backward passes run under other names
        loss.backward()
    forward = (by_op.get(op, 0) for op in (torch.ops.aten.convolution, torch.ops.aten.addmm))
    return sum(forward), counter.get_total_flops()


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize(
    "method, head", [(m, h) for m in SETTINGS for h in ("per-class", "shared") if m + h != "boilshared"]
)
@pytest.mark.parametrize("normalization", ["transductive", "support", "group"])
def test_the_full_book_is_what_torch_executes(backbone, method, head, normalization):
    for first_order in (True, False):  # so that backward and second_order are each held to the count
        config = small(backbone, method, head, normalization, first_order)
        made = book("full", config.model_spec(), training_work(config))
        forward, total = count(config)
        assert 2 * sum(layer.forward for layer in made.layers) == forward
        assert 2 * made.total == total


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("normalization", ["transductive", "support", "group"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_rows_that_are_made_of_photos_take_a_pass(backbone, method, normalization, steps):
    for first_order in (True, False):
        config = replace(small(backbone, method, "prototype", normalization, first_order), steps=steps)
        made = book("full", config.model_spec(), training_work(config))
        assert 2 * made.total == count(config)[1]
        paper = book("paper", config.model_spec(), training_work(config))
        images = max(1, steps) * config.ways * config.shots.most
        assert [layer.total for layer in paper.layers[:-1]] == [images * layer.macs for layer in shape_of(config)]


def shape_of(config):
    return config.model_spec().shape.layers


@pytest.mark.parametrize("backbone, below", [("conv4", 2), ("resnet12", 4)])
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("head", ["per-class", "prototype"])
def test_what_lies_below_a_cut_counts_nothing(backbone, below, method, head):
    for first_order in (True, False):
        config = replace(small(backbone, method, head, "group", first_order), learn_from=f"blocks.{below // 4 or 2}")
        for kind in ("paper", "full"):
            made = book(kind, config.model_spec(), training_work(config))
            assert [layer.total == 0 for layer in made.layers[:-1]] == [n < below for n in range(len(made.layers) - 1)]
        assert 2 * made.total == count(config)[1]


@pytest.mark.parametrize("head", ["per-class", "shared"])
def test_a_head_alone(head):
    for first_order in (True, False):
        config = replace(small("conv4", "anil", head, "group", first_order), learn_from="head")
        made = book("full", config.model_spec(), training_work(config))
        assert 2 * made.total == count(config)[1] and not any(layer.total for layer in made.layers[:-1])


def test_a_work_is_iterations_times_episodes():
    config = small()
    once, work = book("full", config.model_spec(), training_work(config)), training_work(config)
    assert book("full", config.model_spec(), replace(work, iterations=7, meta_batch=4)).total == 28 * once.total


@pytest.mark.parametrize("backbone", SMALL)
def test_names_are_the_models(backbone):
    spec = small(backbone).model_spec()
    names = [name for name, weight in FewShotModel(spec).named_parameters() if weight.ndim >= 2]
    for kind in ("paper", "full"):
        assert [layer.name for layer in book(kind, spec, training_work(small(backbone))).layers] == names


def test_what_a_rule_moves_is_what_counts():
    works = {method: training_work(small(method=method)) for method in RULES}
    assert {method: work.adapts_backbone for method, work in works.items() if not work.adapts_head} == {"boil": True}
    assert {method: work.adapts_head for method, work in works.items() if not work.adapts_backbone} == {"anil": True}
    several = replace(small(method="multi-maml"), data=("glyphs", "omniglot"), iterations=7)
    assert training_work(several).iterations == 14, "every distribution has a training of its own"


def test_the_paper_counts_the_backbones_forward_alone():
    made = book("paper", small().model_spec(), training_work(small()))
    assert all(layer.total == layer.forward for layer in made.layers)
    assert [layer.name for layer in made.layers if layer.total == 0] == ["head.weight"]


def test_the_images_get_no_gradient():
    made = book("full", small("resnet12").model_spec(), training_work(small("resnet12")))
    without = [layer.name for layer in made.layers if layer.backward_inputs == 0]
    assert without == ["backbone.blocks.0.conv1.weight", "backbone.blocks.0.skip.weight"]
    assert all(layer.backward_inputs <= layer.backward for layer in made.layers)


@pytest.mark.parametrize("kind", ["paper", "full"])
def test_a_mask_takes_its_share_of_its_layer(kind):
    spec, work, rng = small().model_spec(), training_work(small()), np.random.default_rng(0)
    shapes = {n: tuple(w.shape) for n, w in FewShotModel(spec).named_parameters() if w.ndim >= 2}
    masks = {name: rng.random(shape) < 0.1 + 0.2 * n for n, (name, shape) in enumerate(shapes.items())}
    dense, sparse = book(kind, spec, work), book(kind, spec, work, densities_of(masks))
    for before, after in zip(dense.layers, sparse.layers):
        mask = masks[before.name]
        for part in ("forward", "backward", "second_order", "backward_inputs"):
            assert getattr(after, part) * mask.size == pytest.approx(getattr(before, part) * mask.sum())
    assert book(kind, spec, work, dict.fromkeys(masks, 1.0)) == dense
    first = next(iter(masks))
    assert book(kind, spec, work, {first: 0.5}).layers[1:] == dense.layers[1:]


def test_kept_weights_are_kept_multiplications():
    """A weight of a convolution with padding is used once at every position of the map."""
    config = small()
    mask = np.zeros((9, 8, 3, 3), bool)
    mask[0, 0, 1] = True  # three weights, on maps of 14 × 14
    made = book(
        "paper", config.model_spec(), training_work(config), densities_of({"backbone.blocks.1.conv.weight": mask})
    )
    assert made.layers[1].forward == pytest.approx(3 * 14 * 14 * config.steps * config.ways * config.shots.most)


def test_as_dict_is_what_the_book_says():
    made = book("full", small().model_spec(), training_work(small()))
    table = made.as_dict()
    assert table["book"] == "full" and table["total"] == made.total == sum(row["total"] for row in table["layers"])
    assert [row["name"] for row in table["layers"]] == [layer.name for layer in made.layers]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda spec, work: book("papers", spec, work), "unknown book 'papers'; choose one of paper, full"),
        (lambda spec, work: book("full", spec, work, {"widths.0": 0.5}), "no weight 'widths.0'"),
        (lambda spec, work: book("full", spec, work, {"head.weight": 1.5}), "density of head.weight is 1.5"),
        (lambda spec, work: book("full", spec, work, {"head.weight": float("nan")}), "density of head.weight is nan"),
        (lambda spec, work: book("full", spec, replace(work, ways=9)), "3 ways cannot learn 9"),
        (lambda spec, work: book("full", spec, replace(work, normalization="group")), "cannot be trained in group"),
        (lambda spec, work: replace(work, normalization="batch"), "unknown normalization 'batch'"),
    ],
)
def test_what_is_wrong_is_named(call, words):
    with pytest.raises(UserError, match=words):
        call(small().model_spec(), training_work(small()))


def test_torch_is_not_imported():
    code = (
        "import sys, gems_edge.tickets.flops; assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
