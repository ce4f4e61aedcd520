"""Freezing what a GEMS run decides for one distribution: a board need not ask g_φ, nor compute what it never uses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.tensors import Episodes
from gems_edge.errors import UserError
from gems_edge.export.source import MetaModel
from gems_edge.meta.inner import adapt, detached, support_of
from gems_edge.meta.rules.base import FrozenChoice
from gems_edge.models.fewshot import FewShotModel, network_weights


@dataclass(frozen=True)
class Specialised:
    learned: MetaModel  # without φ, and of an MMSUP run with the subnet among the model's masks
    about: dict[str, Any]  # for the manifest


def specialise(
    trained: MetaModel,
    steps: int,
    top: MetaModel,
    tensors: Episodes,
    sampler: EpisodeSampler,
    tasks: Iterable[int],
    progress: Callable[[int], None] | None = None,
) -> Specialised:
    """Freeze the run's rule to what it mostly chooses on `tasks` of `sampler` (Rule.frozen).

    `top`: what of `trained` lies above its cut, and reads the `tensors`. `about` says what was frozen and how often
    the rule's own choice agrees. Raises UserError if nothing would be left to adapt.
    """
    choices = task_choices(top, steps, tensors, sampler, tasks, progress)
    return apply_choice(trained, trained.rule.frozen(trained.weights, choices))


def task_choices(
    trained: MetaModel,
    steps: int,
    tensors: Episodes,
    sampler: EpisodeSampler,
    tasks: Iterable[int],
    progress: Callable[[int], None] | None,
) -> dict[str, torch.Tensor]:
    """What the rule decides at every step of every task, by name: [tasks, steps, length]."""
    device, rule = tensors.device, trained.rule
    model = trained.model.to(device)
    weights = detached({name: weight.to(device) for name, weight in trained.weights.items()}, rule)
    chosen: list[dict[str, torch.Tensor]] = []
    for done, task in enumerate(tasks, 1):
        support = support_of(tensors.episode(sampler.draw(0, task)), sampler.ways)
        steps_taken = adapt(model, weights, support, rule, steps).steps
        chosen.append(
            {name: torch.stack([step.choice[name] for step in steps_taken]) for name in steps_taken[0].choice}
        )
        if progress:
            progress(done)
    trained.model.cpu()
    return {name: torch.stack([choice[name] for choice in chosen]).cpu() for name in chosen[0]}


def apply_choice(trained: MetaModel, choice: FrozenChoice) -> Specialised:
    """The trained model with a frozen choice in place of its rule; UserError if nothing in it would ever move."""
    model, weights = trained.model, network_weights(trained.weights)
    masks = {name: mask * model.masks.get(name, 1.0) for name, mask in choice.masks.items()}
    masks = model.masks | {name: mask for name, mask in masks.items() if not mask.all()}
    check_learns(model, choice.rule.adapted(weights))
    return Specialised(MetaModel(model.with_masks(masks), weights, choice.rule), choice.about)


def check_learns(model: FewShotModel, adapted: tuple[str, ...]) -> None:
    """UserError if a network that adapts these tensors could learn nothing."""
    # The rows of a shared head begin alike, and as long as they are nothing below them has a gradient.
    if not adapted or (model.spec.head == "shared" and not any(name.startswith("head.") for name in adapted)):
        what = "its shared head" if adapted else "any layer"
        raise UserError(
            f"--for-data: on most tasks this run does not adapt {what}, so a specialised board could learn nothing; "
            "export it without --for-data, or train it longer"
        )
