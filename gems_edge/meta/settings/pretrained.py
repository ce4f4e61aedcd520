"""What a run that starts from a pretrained network takes where its user says nothing.

What measured best where it was measured; docs/pretrained.md has the figures and the commands.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gems_edge.meta.rules.registry import RULES
from gems_edge.meta.settings.run import AUTO, TrainConfig, normalization_of
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.models.pretrained import KNOWN, RANDOM
from gems_edge.models.spec import PER_IMAGE

# Of any network and method.
ALWAYS: dict[str, Any] = {
    "normalization": "frozen",
    "queries": 5,
    "first_order": True,
    "inner_lr": 0.02,
    "iterations": 240,
    "lr": 0.0003,
    "validate_every": 60,
    "keep_features": 1.5,
}
# Several kinds of images hold features by themselves: of what is free to move more learns, and no more is forgotten.
KEPT_OF_SEVERAL = 1.0
# Of a ticket: what its training starts from lacks weights, so its features are none to keep.
TICKET: dict[str, Any] = {"keep_features": 0.0}
# Of the networks whose weights we know: what they were trained on, but smaller, which costs a board a third.
IMAGES: dict[str, Any] = {"image_size": 128, "channels": 3}
# Of the head that is best on a pretrained network, which serves any number of classes.
PROTOTYPES: dict[str, Any] = {"head": "prototype", "head_lr": 0.5}
# Classes of a training episode of that head: more than are asked for later teach it more.
TRAIN_WAYS = 10
# Gradient steps where the user names a method, or a head that cannot do without; otherwise class means alone.
STEPS = 1
# Where the networks that we know are cut; another one learns as a whole.
LEARN_FROM = {"efficientnet-lite0": "blocks.11", "mobilenet-v2": "features.14", "resnet18": "layer4.0"}


def default_config(given: Mapping[str, Any]) -> TrainConfig:
    """The settings that a user's own are put on top of. `given`: these, by name; None where one is not given."""
    said = {name: value for name, value in given.items() if value is not None}
    if said.get("init", RANDOM) == RANDOM:
        return TrainConfig()
    backbone = said.get("backbone", TrainConfig.backbone)
    prototypes = said.get("head", "prototype") == "prototype"
    one_model_each = RULES[said.get("method", TrainConfig.method)].one_model_each
    kinds = 1 if one_model_each else len(said.get("data", TrainConfig.data))
    mode = said.get("normalization", AUTO)
    per_image = (normalization_of(said["init"]) if mode == AUTO else mode) in PER_IMAGE
    ticket = said.get("ticket_method", TicketConfig.method) != TicketConfig.method
    channels = ticket and said.get("ticket_unit") == "channel"  # these go from the whole network
    return replace(
        TrainConfig(),
        init=said["init"],
        backbone=backbone,
        **ALWAYS | ({"keep_features": KEPT_OF_SEVERAL} if kinds > 1 else {}) | (TICKET if ticket else {}),
        **(IMAGES if backbone in KNOWN else {}),
        **(PROTOTYPES | {"train_ways": max(TRAIN_WAYS, said.get("ways", 0))} if prototypes else {}),
        steps=0 if prototypes and "method" not in said else STEPS,
        learn_from=LEARN_FROM.get(backbone, "") if per_image and not channels else "",
        meta_batch=kinds,  # a task of each kind of images
    )
