"""Bundles that are cut in two: where, that a board's answers are the whole network's, and what of it is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from graph_models import made, pictures
from test_verify import bundle, refused, scaled, verified

from gems_edge.device.bundle import HEAD, read_bundle
from gems_edge.device.learner import Learner
from gems_edge.device.runtime import Session
from gems_edge.errors import UserError
from gems_edge.export.cut import board_step, board_trunk, highest_cut
from gems_edge.export.graphs import adapt_graph
from gems_edge.export.source import MetaModel
from gems_edge.meta.inner import Support, adapt, detached, one_hot
from gems_edge.meta.meta_model import halves
from gems_edge.meta.rules.bmp import BMP
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import layers_of

ANIL, MAML = Descent("anil", 0.1), Descent("maml", 0.1)
# Layers 2 and 3 of five adapt, and the head; in the second step the third alone does.
LATE = Frozen("bmp", 0.1, ((0.0, 0.0, 0.1, 0.05, 0.1), (0.0, 0.0, 0.0, 0.1, 0.2)))


def learned(rule, normalization="group", backbone="conv4", head="shared", size=32) -> MetaModel:
    model, weights = made(backbone, head, normalization, size)
    return MetaModel(model, weights, rule)


def cut_name(*arguments) -> str | None:
    cut = highest_cut(learned(*arguments))
    return cut and cut.name


def test_where_a_network_is_cut():
    assert cut_name(ANIL) == "head" and cut_name(LATE) == "blocks.2"
    assert cut_name(MAML) is None and cut_name(Descent("boil", 0.1)) is None
    assert cut_name(BMP(0.1)) is None
    assert cut_name(ANIL, "support") is None  # its statistics are the support set's
    first = replace(LATE, rates=((0.0, 0.1, 0.0, 0.0, 0.1),))
    assert cut_name(first) == "blocks.1"
    assert cut_name(replace(first, still=frozenset({"backbone.blocks.1.conv.weight"}))) == "blocks.1"  # its norm adapts
    assert cut_name(ANIL, "group", "resnet12") == "head" and cut_name(ANIL, "group", "mobilenet-v2") == "head"


@pytest.mark.parametrize("rule", [ANIL, LATE], ids=["anil", "frozen"])
@pytest.mark.parametrize("head", ["shared", "per-class"])
def test_steps_on_features_are_those_of_the_whole_graph(rule, head):
    """adapt.onnx of the top, on what trunk.onnx gives, against adapt.onnx of the whole network: the same numbers."""
    whole = learned(rule, head=head)
    parted = halves(whole, highest_cut(whole))
    trunk = Session(board_trunk(parted).SerializeToString(), "trunk", threads=1)
    graphs = adapt_graph(whole.model, whole.weights, rule), board_step(parted)
    images, targets = pictures(6, 3, 32).numpy(), np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    fed = {"images": images}, {"features": trunk.run(["features"], {"images": images})[0]}
    given = [
        stepped(graph, part, inputs | {"targets": targets})
        for graph, part, inputs in zip(graphs, (whole, parted.learned), fed)
    ]
    assert given[0].keys() == given[1].keys() and len(given[0]) > 2
    for name, value in given[0].items():
        np.testing.assert_allclose(given[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    kinds = [[node.op_type for node in graph.graph.node] for graph in graphs]
    assert len(kinds[1]) < len(kinds[0]) and kinds[1].count("Conv") < kinds[0].count("Conv")


def stepped(graph: onnx.ModelProto, part: MetaModel, inputs: dict) -> dict:
    """What a graph of one step gives, but for what it carries to the next."""
    session, start = Session(graph.SerializeToString(), "adapt", threads=1), part.weights
    feeds = {name: start[name].numpy() for name in (*part.rule.adapted(start), *HEAD)}
    classes = inputs["targets"].shape[1]
    feeds |= {name: np.resize(feeds[name], (classes, *feeds[name].shape[1:])) for name in HEAD}
    carried = {f"rule.{name}": part.rule.begin(start)[name].numpy() for name in part.rule.carried}
    outputs = [name for name in session.outputs if not name.startswith("next.")]
    return dict(zip(outputs, session.run(outputs, inputs | feeds | carried)))


def test_a_frozen_rule_of_a_part_moves_what_it_moved():
    whole = learned(LATE)
    top = halves(whole, highest_cut(whole)).learned
    assert top.rule.rates == ((0.1, 0.05, 0.1), (0.0, 0.1, 0.2))
    assert top.rule.adapted(top.weights) == LATE.adapted(whole.weights)
    assert list(layers_of(top.weights)) == ["blocks.2", "blocks.3", "head"]


@pytest.mark.parametrize("rule, backbone", [(ANIL, "conv4"), (LATE, "conv4"), (ANIL, "resnet12")])
def test_a_bundle_with_a_trunk_is_verified(tmp_path, rule, backbone):
    exported = learned(rule, backbone=backbone)
    path = bundle(tmp_path / "a.gems", exported, shots=2)
    opened = read_bundle(path)
    assert opened.manifest["format_version"] == 3 and "trunk.onnx" in opened.manifest["files"]
    assert (path / "trunk.onnx").exists() and len(opened.trunk.features) == (1 if rule is ANIL else 3)
    found = verified(path, exported, shots=2)
    assert found.passed and found.update.error < 1e-3 and found.forward.error < 3e-5


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    exported = learned(LATE)
    return bundle(tmp_path_factory.mktemp("cut") / "a.gems", exported), exported


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0])
def test_a_trunk_that_gives_something_else_is_refused(cut, factor):
    assert "features is off" in refused(*cut, scaled("features", factor), file="trunk.onnx")


def test_a_step_of_the_top_that_is_wrong_is_refused(cut):
    name = "backbone.blocks.3.conv.weight"
    assert f"the step of {name} is off" in refused(*cut, scaled(f"updated.{name}", 1.02, start=name))


def test_a_bundle_without_a_trunk_stays_what_it_was(tmp_path):
    path = bundle(tmp_path / "a.gems", learned(MAML, "support"))
    opened = read_bundle(path)
    assert opened.manifest["format_version"] == 1 and opened.manifest["trunk"] is None and opened.trunk is None
    assert not (path / "trunk.onnx").exists() and "trunk" not in opened.manifest["cost"]
    with pytest.raises(UserError, match="has no trunk"):
        Learner.load(path).features(np.zeros((1, 32, 32, 3), np.uint8))


def test_costs_know_three_graphs(cut):
    cost = read_bundle(cut[0]).manifest["cost"]
    whole = adapt_graph(cut[1].model, cut[1].weights, LATE)
    assert 0 < cost["trunk"]["macs"] < cost["predict"]["macs"]
    assert cost["memory"]["feature_bytes"] == 4 * np.prod(read_bundle(cut[0]).trunk.features)
    assert cost["memory"]["trunk"]["nodes"] == len(onnx.load(cut[0] / "trunk.onnx").graph.node)
    assert whole.ByteSize() > (cut[0] / "adapt.onnx").stat().st_size


def test_in_float64_the_halves_are_the_whole():
    """Steps on the trunk's features in torch, against steps through the whole network."""
    exported = learned(LATE)
    parted = halves(exported, highest_cut(exported))
    weights = {name: tensor.double() for name, tensor in exported.weights.items()}
    images = pictures(6, 3, 32).double()
    targets = one_hot(torch.tensor([0, 0, 0, 1, 1, 2]), 3, torch.float64)
    exported.model.double(), parted.learned.model.double()
    whole = adapt(exported.model, detached(weights, LATE), Support(images, targets), LATE, 3).adapted
    features = parted.parts.trunk(weights, images)
    above, rule = parted.parts.above(weights), parted.learned.rule
    top = adapt(parted.learned.model, detached(above, rule), Support(features, targets), rule, 3).adapted
    for name, tensor in top.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-12, atol=1e-12)
