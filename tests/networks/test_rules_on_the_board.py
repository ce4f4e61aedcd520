"""adapt.onnx of every network and rule, step by step against torch, as the export's gate does."""

import pytest
import torch
from every_network import NETWORKS, SIZE, settings, start

from gems_edge.device.bundle import HEAD
from gems_edge.device.runtime import Session
from gems_edge.export.graphs import RULE, adapt_graph
from gems_edge.export.source import MetaModel
from gems_edge.export.twin import NEXT, UPDATED, Twin
from gems_edge.export.verify import worst_differences
from gems_edge.meta.inner import Support, one_hot
from gems_edge.meta.rules.registry import RULES
from gems_edge.models.fewshot import initial_weights

WAYS, STEPS, IMAGES = 5, 3, (10, 7, 15)
METHODS = [method for method, facts in RULES.items() if not facts.one_model_each]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_step_equals_torch(network, method):
    model, weights, rule = start(settings(network, method, modes=("support", "group", "frozen"), ways=WAYS))
    graph = adapt_graph(model, weights, rule)
    session = Session(graph.SerializeToString(), "adapt.onnx", threads=1)
    learned = MetaModel(model, weights, rule)
    followed = [on_the_board(session, learned, support_set(images, seed)) for seed, images in enumerate(IMAGES)]
    wrong = [d for d in worst_differences(followed).values() if not d.passed]
    assert not wrong
    moved = {sample.difference.at for samples in followed for sample in samples if sample.kind == "update"}
    assert moved == set(rule.adapted(weights))
    steps_off = [s for samples in followed for s in samples if not s.difference.passed]
    assert len(steps_off) <= 0.02 * sum(map(len, followed))


def support_set(images: int, seed: int) -> Support:
    """Noise, a part of which is flat: equal values under the pools."""
    pixels = torch.rand(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    pixels[:, :, SIZE // 3 :, : SIZE // 2] = 0.0
    return Support(pixels, one_hot(torch.arange(images) % WAYS, WAYS, torch.float32))


def on_the_board(session: Session, learned: MetaModel, support: Support):
    """What torch says of STEPS steps of a session of adapt.onnx."""
    twin, rule = Twin(learned, support), learned.rule
    weights = {n: w.numpy() for n, w in initial_weights(learned.model, learned.weights, WAYS).items()}
    carried = {f"{RULE}{name}": rule.begin(learned.weights)[name].numpy() for name in rule.carried}
    feeds = {"images": support.images.numpy(), "targets": support.targets.numpy()}
    adapted = rule.adapted(learned.weights)
    for _ in range(STEPS):
        fed = {name: weights[name] for name in {*adapted, *HEAD}}
        outputs = dict(zip(session.outputs, session.run(session.outputs, feeds | fed | carried)))
        twin.follow(outputs)
        weights |= {name: outputs[UPDATED + name] for name in adapted}
        carried = {name: outputs[NEXT + name] for name in carried}
    return twin.samples
