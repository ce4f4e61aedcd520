"""A small network that is cut in two, and small image sets for it: what tests of features share."""

from dataclasses import replace

import numpy as np
import torch

from gems_edge.data.imageset import ImageSet
from gems_edge.data.mixture import Mixture
from gems_edge.meta.meta_model import Halves, MetaModel, halves
from gems_edge.meta.processes import alone
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import seeded_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import full_widths

ONE = alone(torch.device("cpu"))
CONFIG = TrainConfig(
    backbone="mobilenet-v2", widths=(), image_size=32, channels=3, normalization="group", learn_from="features.7"
)


def mixture(seed: int = 0) -> Mixture:
    random, split = np.random.default_rng(seed), np.array(["train", "train", "val", "val", "test", "test"])
    sets = [
        ImageSet(
            name, random.integers(0, 255, (6 * size, 32, 32, 3), np.uint8), np.arange(6 * size) % 6, tuple("abcdef"),
            split, None, False, "",
        )
        for name, size in (("one", 7), ("two", 8))
    ]  # fmt: skip
    return Mixture(("one", "two"), tuple(sets))


def parted(config: TrainConfig = CONFIG, **changes: torch.Tensor) -> Halves:
    config = replace(config, widths=tuple(w // 4 for w in full_widths((), config.backbone)))
    model, weights = FewShotModel(config.model_spec()), seeded_weights(config)
    learned = MetaModel(model, {n: w.detach() for n, w in weights.items()} | changes, rule_of(config))
    return halves(learned, model.spec.cut)
