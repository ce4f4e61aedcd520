"""Gaining without forgetting: weights between those that a training started from and those that it ended with.

A pretrained network that was trained on a user's images answers better on these, and worse on kinds of images that it
never saw. On the straight line between both sets of weights most of the gain comes early and most of the loss late
(WiSE-FT, Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"), and a point on it costs a board nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gems_edge.meta.evaluation.accuracy import Accuracy
from gems_edge.models.fewshot import Weights
from gems_edge.models.tensor_names import ADAPTER

# How far the weights may go from the start (0) to the trained ones (1).
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Drawn:
    """The share that was chosen, and what it was chosen by: of each share the accuracy on validation classes."""

    share: float
    kept: float  # the part of the gain that the user asked to keep
    validation: Mapping[float, Accuracy]

    def as_dict(self) -> dict[str, Any]:
        """For metrics.jsonl, run and manifest."""
        accuracies = [{"share": share, **accuracy.as_dict()} for share, accuracy in self.validation.items()]
        return {"share": self.share, "kept": self.kept, "validation": accuracies}


def between(first: Weights, trained: Weights, share: float) -> Weights:
    """(1 − share) · first + share · trained; an update rule's own meta-weights as they were trained."""
    return {
        name: tensor if name.startswith(ADAPTER) else torch.lerp(first[name].to(tensor), tensor, share)
        for name, tensor in trained.items()
    }


def draw(first: Weights, trained: Weights, kept: float, accuracy_of: Callable[[Weights], Accuracy]) -> Drawn:
    """How far to go from the `first` weights, by the accuracy on validation classes of weights on the way."""
    validation = {share: accuracy_of(between(first, trained, share)) for share in SHARES}
    return Drawn(smallest_share(validation, kept), kept, validation)


def smallest_share(validation: Mapping[float, Accuracy], kept: float) -> float:
    """The smallest share whose accuracy is above the start's by `kept` of the trained weights' gain, or by more.

    `validation`: of each of SHARES. Weights that gained nothing give share 0.
    """
    start, trained = validation[0.0].accuracy, validation[1.0].accuracy
    enough = min(max(start, trained), start + kept * max(0.0, trained - start))  # rounding may lift it above both
    return next(share for share in sorted(validation) if validation[share].accuracy >= enough)
