"""The bar beside every accuracy: the same network and the same pixels, without any training of ours.

Classes are means of features of length 1 and the nearest by cosine answers (the head "prototype" before any step),
under the weights that training started from: of a pretrained network, what everybody has for nothing.
"""

from dataclasses import replace

from gems_edge.device.bundle import HEAD
from gems_edge.meta.meta_model import MetaModel
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run, first_weights
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import TEMPERATURE


def untrained(run: Run, config: TrainConfig) -> MetaModel:
    """The dense network of a run as it was before training, with class means for a head; it takes no step.

    `config`: the run's, perhaps in another normalisation mode.
    """
    plain = replace(
        config, method="maml", head="prototype", metric="cosine", steps=0, train_ways=0, ticket=TicketConfig(),
        adapter=AdapterConfig(),
    )  # fmt: skip
    model = FewShotModel(plain.model_spec())
    # A ticket's start may lack weights; a pretrained start is the run's own, so that nothing is looked for anew.
    start = run.start(config) if config.dense else first_weights(plain)
    weights = {
        name: tensor if name in (TEMPERATURE, *HEAD) else start[name] for name, tensor in model.tensors().items()
    }
    return MetaModel(model, weights, rule_of(plain))
