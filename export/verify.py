"""The check before a bundle is handed over: onnxruntime computes on the board what torch computed in training."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.mixture import Mixture, MixtureSampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.device.bundle import HEAD
from gems_edge.device.learner import Learner, adapt_session
from gems_edge.device.runtime import Session
from gems_edge.errors import MachineError
from gems_edge.export.graphs import RULE
from gems_edge.export.source import MetaModel
from gems_edge.meta.evaluation.bundle import answer_episode, compare_precisions, learn_episode
from gems_edge.meta.inner import Support, Trajectory, adapt, classify, detached, support_of
from gems_edge.meta.rules.base import Rule
from gems_edge.models.fewshot import Weights

# As shares of the length of torch's update: of the median step and part, and of the worst. Flat image areas give equal
# values under a pool; where rounding breaks such a tie differently, a gradient takes another, equally right way:
# seldom, and then by up to 6e-4 (ResNet-12, mode group). A wrong gradient differs everywhere and by far more.
UPDATE_TOLERANCE = 1e-4
WORST_UPDATE_TOLERANCE = 1e-2
# Largest single difference of a probability after all steps.
PROBABILITY_TOLERANCE = 1e-3
# Of what a rule decides and carries to the next step (kept shares, rates): means over millions of weights round.
DECISION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Verification:
    episodes: int
    update_relative_error: float  # ‖Δ_onnxruntime − Δ_torch‖ / ‖Δ_torch‖, median over steps, backbone and head apart
    update_tolerance: float
    worst_update_relative_error: float
    worst_update_tolerance: float
    probability_error: float  # largest difference of a query's probability after all steps, the worst episode
    probability_tolerance: float
    decision_error: float  # largest difference of what the rule carries from step to step; 0 where it carries nothing
    decision_tolerance: float

    @property
    def passed(self) -> bool:
        return (
            self.update_relative_error <= self.update_tolerance
            and self.worst_update_relative_error <= self.worst_update_tolerance
            and self.probability_error <= self.probability_tolerance
            and self.decision_error <= self.decision_tolerance
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify_bundle(
    directory: Path, learned: MetaModel, steps: int, images: Mixture, episodes: Iterable[EpisodeIndices]
) -> Verification:
    """Run the bundle in `directory` on real `episodes` as the board does, and compare with torch in float32.

    Every step is compared from torch's own weights before it: a shared head's first step moves nothing but the head, so
    one step would not show a wrong gradient of the backbone. The answers are compared after all steps of both.
    Raises MachineError if the two differ by more than the tolerances.
    """
    learner, tensors = Learner.load(directory), episode_tensors(images)
    session = adapt_session(learner.bundle, learner.threads)
    model, rule = learned.model, learned.rule
    updates: list[float] = []
    decisions, answers = [0.0], []
    for indices in episodes:
        episode = tensors.episode(indices)
        support = support_of(episode, len(indices.classes))
        trajectory = adapt(model, detached(learned.weights, rule), support, rule, steps)
        errors = step_errors(session, trajectory, support, rule, learner.bundle.start_carried())
        updates += errors.updates
        decisions += errors.decisions
        with torch.no_grad():
            logits = classify(model, trajectory.adapted, episode.query_images, support, model.spec.normalization)
        probabilities = learn_episode(learner, images, indices, steps)
        answers.append(np.abs(probabilities - logits.softmax(1).numpy()).max())
    return _within_tolerances(
        Verification(
            episodes=len(answers),
            update_relative_error=float(np.median(updates)),
            update_tolerance=UPDATE_TOLERANCE,
            worst_update_relative_error=float(np.max(updates)),
            worst_update_tolerance=WORST_UPDATE_TOLERANCE,
            probability_error=float(np.max(answers)),
            probability_tolerance=PROBABILITY_TOLERANCE,
            decision_error=float(np.max(decisions)),
            decision_tolerance=DECISION_TOLERANCE,
        )
    )


def _within_tolerances(result: Verification) -> Verification:
    if not result.passed:
        raise MachineError(
            f"onnxruntime does not reproduce torch: updates differ by {result.update_relative_error:.1e} of their size,"
            f" the worst by {result.worst_update_relative_error:.1e} (allowed {UPDATE_TOLERANCE:.0e}, "
            f"{WORST_UPDATE_TOLERANCE:.0e}), probabilities by {result.probability_error:.1e} (allowed "
            f"{PROBABILITY_TOLERANCE:.0e}), what is carried from step to step by {result.decision_error:.1e} (allowed "
            f"{DECISION_TOLERANCE:.0e}); no bundle was written; please report this with the versions of torch and "
            "onnxruntime"
        )
    return result


def int8_accuracy(
    directory: Path,
    steps: int,
    images: Mixture,
    sampler: MixtureSampler,
    episodes: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """int8 beside fp32 over the same `episodes`, evenly of the distributions, learned and answered as on the board.

    See meta.evaluation.bundle.compare_precisions.
    """
    learner, answers = Learner.load(directory), []
    each = max(2, -(-episodes // len(sampler.samplers)))
    for tasks in sampler.samplers:
        for task in range(each):
            answers.append(answer_episode(learner, images, tasks.draw(0, task), steps))
            if progress:
                progress(len(answers))
    return compare_precisions(answers)


class StepErrors(NamedTuple):
    """Of an inner loop: relative errors of the updates, part by part, and differences of what is carried."""

    updates: list[float]
    decisions: list[float]


def step_errors(
    session: Session, trajectory: Trajectory, support: Support, rule: Rule, carried: dict[str, np.ndarray]
) -> StepErrors:
    """Every step of an inner loop on onnxruntime, from torch's weights and what torch carried to it."""
    updates, decisions = [], []
    for step, (before, after) in zip(trajectory.steps, itertools.pairwise(trajectory.weights)):
        errors, following = update_errors(session, before, after, support, rule, carried)
        expected = {name: step.state[name.removeprefix(RULE)].detach().numpy() for name in carried}
        decisions += [float(np.abs(following[name] - expected[name]).max()) for name in carried]
        if rule.picks_weights:  # compared at torch's thresholds: one rounded differently moves a few other weights
            errors, _ = update_errors(session, before, after, support, rule, expected)
        updates += errors
        carried = expected
    return StepErrors(updates, decisions)


def update_errors(
    session: Session, before: Weights, after: Weights, support: Support, rule: Rule, carried: dict[str, np.ndarray]
) -> tuple[list[float], dict[str, np.ndarray]]:
    """‖Δ_onnxruntime − Δ_torch‖ / ‖Δ_torch‖ of one step from `before`, for backbone and head where the rule moves them.

    `carried` is what the step before handed on; what this one hands on is returned with the errors. A part whose update
    is rounding only (below 1e-5 of the whole; seen up to 2e-6) is measured against the whole.
    """
    adapted = rule.adapted(before)
    start = {name: before[name].detach().numpy() for name in (*adapted, *HEAD)}
    feeds = {"images": support.images.numpy(), "targets": support.targets.numpy(), **start, **carried}
    outputs = [*(f"updated.{name}" for name in adapted), *(f"next.{name}" for name in carried)]
    results = dict(zip(outputs, session.run(outputs, feeds)))
    parts: dict[bool, list[float]] = {}
    for name in adapted:
        value = results[f"updated.{name}"]
        expected = after[name].detach().numpy().astype(np.float64)
        sums = parts.setdefault(name in HEAD, [0.0, 0.0])
        sums[0] += float(((value - expected) ** 2).sum())
        sums[1] += float(((expected - start[name]) ** 2).sum())
    total = sum(length for _, length in parts.values())
    errors = [(error / (length if length > 1e-10 * total else total or 1.0)) ** 0.5 for error, length in parts.values()]
    return errors, {name: results[f"next.{name}"] for name in carried}
