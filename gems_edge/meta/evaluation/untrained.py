"""The bar beside every accuracy: the same network and the same pixels, without any training of ours.

Classes are means of features of length 1 and the nearest by cosine answers (the head "prototype" before any step),
under the weights that training started from: of a pretrained network, what everybody has for nothing.
"""

from dataclasses import replace

from gems_edge.device.bundle import HEAD
from gems_edge.errors import UserError
from gems_edge.meta.meta_model import MetaModel
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run, first_weights
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.settings.ticket import TICKETS, TicketConfig
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.tensor_names import TEMPERATURE


def untrained(run: Run, config: TrainConfig) -> MetaModel | None:
    """The dense network of a run as it was before training, with class means for a head; it takes no step.

    `config`: the run's, perhaps in another normalisation mode. None where the run does not hold the weights that it
    started from, and the file that they came from is not to be had any more.
    """
    plain = replace(
        config, method="maml", head="prototype", metric="cosine", steps=0, train_ways=0, ticket=TicketConfig(),
        adapter=AdapterConfig(),
    )  # fmt: skip
    model = FewShotModel(plain.model_spec())
    try:
        kept = _holds_first_weights(config) and run.initial_path.exists()
        start = {} if kept else first_weights(plain)
    except UserError:
        return None
    start = start or run.initial()  # damaged: refused, for the bar would be missing unsaid
    weights = model.tensors()
    for name in weights.keys() - {TEMPERATURE, *HEAD}:
        if name not in start or start[name].shape != weights[name].shape:
            raise UserError(
                f"{run.initial_path} does not fit the run's config: it has no {name} of the network's shape; bring "
                "back a copy of it, or train the run anew in another directory"
            )
        weights[name] = start[name]
    return MetaModel(model, weights, rule_of(plain))


def _holds_first_weights(config: TrainConfig) -> bool:
    """Whether what the run started from is the whole network at θ0: a ticket may have lost channels, or start later."""
    ticket = config.ticket
    return config.dense or (ticket.unit == "weight" and not ticket.rewind and TICKETS[ticket.method].start != "fresh")
