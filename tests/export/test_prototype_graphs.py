"""A prototype head in adapt.onnx: the rows of the first step, every step, and no step, against torch."""

import numpy as np
import pytest
import torch
from graph_models import pictures

from gems_edge.device.bundle import FIRST, HEAD
from gems_edge.device.runtime import Session
from gems_edge.export.graphs import RULE, adapt_graph
from gems_edge.export.source import MetaModel
from gems_edge.export.twin import NEXT, START, UPDATED, Twin
from gems_edge.export.verify import worst_differences
from gems_edge.meta.inner import Support, one_hot
from gems_edge.meta.rules.registry import RULES, rule_of
from gems_edge.meta.rules.still import Still
from gems_edge.meta.run import seeded_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel, initial_weights

METHODS = [name for name, facts in RULES.items() if not facts.one_model_each]
CASES = [(method, ("cosine", "euclidean")[n % 2], ("support", "group")[n // 2 % 2]) for n, method in enumerate(METHODS)]


def learned(method, metric, mode) -> MetaModel:
    config = TrainConfig(
        widths=(8, 6, 8, 5), image_size=28, channels=3, method=method, head="prototype", metric=metric,
        normalization=mode, inner_lr=0.05 if metric == "cosine" else 0.002, head_lr=0.1 if metric == "cosine" else 0.0,
    )  # fmt: skip
    return MetaModel(FewShotModel(config.model_spec()), seeded_weights(config), rule_of(config))


def support_set(*shots) -> Support:
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    return Support(pictures(len(labels), 3, 28), one_hot(labels, len(shots), torch.float32))


def on_the_board(session, model: MetaModel, support: Support, steps: int):
    """What torch says of the rows and of `steps` steps of a session of adapt.onnx."""
    twin, rule, classes = Twin(model, support), model.rule, support.targets.shape[1]
    weights = {n: w.detach().numpy() for n, w in initial_weights(model.model, model.weights, classes).items()}
    weights |= {name: weights[name] + np.float32(7) for name in HEAD}  # what is fed first means nothing
    carried = {f"{RULE}{name}": rule.begin(model.weights)[name].detach().numpy() for name in rule.carried}
    feeds = {"images": support.images.numpy(), "targets": support.targets.numpy()}
    adapted = rule.adapted(model.weights)
    for step in range(max(steps, 1)):
        fed = {name: weights[name] for name in {*adapted, *HEAD}} | {FIRST: np.array(step == 0, np.float32)}
        outputs = dict(zip(session.outputs, session.run(session.outputs, feeds | fed | carried)))
        twin.follow(outputs)
        if step == 0:
            weights |= {name: outputs[START + name] for name in HEAD}
        weights |= {name: outputs[UPDATED + name] for name in adapted}
        carried = {name: outputs[NEXT + name] for name in carried}
    return twin.samples


@pytest.mark.parametrize("method,metric,mode", CASES)
def test_rows_and_steps_equal_torch(method, metric, mode):
    model = learned(method, metric, mode)
    session = Session(adapt_graph(*vars(model).values()).SerializeToString(), "adapt.onnx", threads=1)
    sets = (support_set(1, 1, 1, 1, 1), support_set(3, 1, 2), support_set(*[1] * 7))
    followed = [on_the_board(session, model, support, 3) for support in sets]
    assert not [d for d in worst_differences(followed).values() if not d.passed]
    samples = sum(followed, [])
    assert {s.difference.at for s in samples if s.kind == "update"} == set(model.rule.adapted(model.weights))
    assert {s.difference.at for s in samples if s.kind == "forward"} >= {START + name for name in HEAD}


def test_without_steps_the_graph_is_a_forward_pass():
    model = learned("bmp", "cosine", "support")
    whole = adapt_graph(*vars(model).values())
    still = MetaModel(model.model, model.weights, Still("bmp", 0.05))
    graph = adapt_graph(*vars(still).values())
    assert {value.name for value in graph.graph.input} == {"images", "targets", FIRST, *HEAD}
    convolutions = sum(node.op_type == "Conv" for node in graph.graph.node)
    assert convolutions == 4 < sum(node.op_type == "Conv" for node in whole.graph.node)
    session = Session(graph.SerializeToString(), "adapt.onnx", threads=1)
    samples = on_the_board(session, still, support_set(2, 1, 1), 0)
    assert samples and all(sample.difference.passed for sample in samples)
