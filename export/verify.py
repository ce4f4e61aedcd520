"""The check before a bundle is handed over: what onnxruntime computes on the board equals what torch computed in training."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.imageset import ImageSet
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.learner import Learner
from gems_edge.errors import UserError
from gems_edge.meta.evaluate import support_of
from gems_edge.meta.inner import adapt, classify, detached
from gems_edge.meta.rules import UpdateRule
from gems_edge.models.fewshot import FewShotModel, Weights

# Both as shares: of the length of the update after one step; of probability after all steps (largest single difference).
UPDATE_TOLERANCE = 1e-4
PROBABILITY_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Verification:
    episodes: int
    update_relative_error: float  # ‖Δ_onnxruntime − Δ_torch‖ / ‖Δ_torch‖ of one step, the worst episode
    update_tolerance: float
    probability_error: float  # largest difference of a query's probability after all steps, the worst episode
    probability_tolerance: float

    @property
    def passed(self) -> bool:
        return self.update_relative_error <= self.update_tolerance and self.probability_error <= self.probability_tolerance

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify_bundle(
    directory: Path, model: FewShotModel, weights: Weights, rule: UpdateRule, steps: int,
    images: ImageSet, sampler: EpisodeSampler, tasks: Iterable[int],
) -> Verification:  # fmt: skip
    """Teach the bundle in `directory` real episodes with the board's own Learner, and compare with torch in float32.

    Raises UserError if the two differ by more than the tolerances.
    """
    learner, tensors = Learner.load(directory), episode_tensors(images)
    labels = np.repeat(np.arange(sampler.ways), sampler.shots).tolist()
    update_errors, probability_errors = [], []
    for task in tasks:
        indices = sampler.draw(0, task)
        episode = tensors.episode(indices)
        support = support_of(episode, sampler.ways)
        trajectory = adapt(model, detached(weights), support, rule, steps)
        pixels = images.images[indices.support.reshape(-1)]
        learner.adapt(pixels, labels, steps=1)
        update_errors.append(_update_error(trajectory[0], trajectory[1], learner.taught.tensors, rule))
        learner.adapt(pixels, labels, steps=steps)
        with torch.no_grad():
            logits = classify(model, trajectory[-1], episode.query_images, support, model.spec.normalization)
        answers = learner.predict(images.images[indices.query.reshape(-1)])
        probability_errors.append(float(np.abs(answers - logits.softmax(1).numpy()).max()))
    result = Verification(
        len(update_errors), max(update_errors), UPDATE_TOLERANCE, max(probability_errors), PROBABILITY_TOLERANCE
    )
    if not result.passed:
        raise UserError(
            f"onnxruntime does not reproduce torch: update differs by {result.update_relative_error:.1e} of its size "
            f"(allowed {UPDATE_TOLERANCE:.0e}), probabilities by {result.probability_error:.1e} (allowed {PROBABILITY_TOLERANCE:.0e}); "
            "no bundle was written; please report this with the versions of torch and onnxruntime"
        )
    return result


def _update_error(before: Weights, after: Weights, adapted: dict[str, np.ndarray], rule: UpdateRule) -> float:
    difference = length = 0.0
    for name in rule.adapted(before):
        start = before[name].detach().numpy().astype(np.float64)
        expected = after[name].detach().numpy() - start
        difference += float(((adapted[name] - start - expected) ** 2).sum())
        length += float((expected**2).sum())
    return (difference / length) ** 0.5 if length else difference**0.5
