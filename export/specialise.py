"""Freezing what a GEMS run decides for one distribution, so that the board neither asks g_φ nor computes what it never uses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.tensors import EpisodeTensors
from gems_edge.errors import UserError
from gems_edge.meta.evaluate import support_of
from gems_edge.meta.inner import adapt, detached
from gems_edge.meta.rules.adapter import by_layer, ranks
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.models.fewshot import FewShotModel, Weights, layers_of, network_weights


@dataclass(frozen=True)
class Specialised:
    model: FewShotModel  # with an MMSUP run's subnet among its masks
    weights: Weights  # without φ
    rule: Rule
    about: dict[str, Any]  # for the manifest


def specialise(
    model: FewShotModel, weights: Weights, rule: Rule, steps: int, tensors: EpisodeTensors, sampler: EpisodeSampler,
    tasks: Iterable[int], progress: Callable[[int], None] | None = None,
) -> Specialised:  # fmt: skip
    """Freeze a BMP or MMSUP rule to what it mostly chooses on `tasks` of `sampler`.

    BMP: of each step and layer the mask that most tasks have, and the geometric mean of the rates (of a layer's own rate over
    the tasks that adapt it). MMSUP: a weight belongs to the subnet if it belongs to that of most tasks. `about` says what
    was frozen and how often the rule's own choice agrees. Raises UserError if nothing would be left to adapt.
    """
    model, chosen = model.to(tensors.images.device), []
    weights = {name: weight.to(tensors.images.device) for name, weight in weights.items()}
    for done, task in enumerate(tasks, 1):
        support = support_of(tensors.episode(sampler.draw(0, task)), sampler.ways)
        trajectory = adapt(model, detached(weights, rule), support, rule, steps)
        chosen.append(
            {n: torch.stack([step.choice[n] for step in trajectory.steps]) for n in trajectory.steps[0].choice}
        )
        if progress:
            progress(done)
    found = {name: torch.stack([one[name] for one in chosen]).cpu() for name in chosen[0]}  # [tasks, steps, layers]
    model.cpu()
    weights = {name: weight.cpu() for name, weight in weights.items()}
    freeze = _freeze_layers if "mask" in found else _freeze_subnet
    return check_learns(freeze(model, weights, rule, found))


def check_learns(found: Specialised) -> Specialised:
    """`found`, or UserError if nothing in it would ever move."""
    moving, head = found.rule.adapted(found.weights), found.model.spec.head
    # The rows of a shared head begin alike, and as long as they are nothing below them has a gradient.
    if not moving or (head == "shared" and not any(name.startswith("head.") for name in moving)):
        what = "its shared head" if moving else "any layer"
        raise UserError(
            f"--for-data: on most tasks this run does not adapt {what}, so a specialised board could learn nothing; "
            "export it without --for-data, or train it longer"
        )
    return found


def _freeze_layers(model: FewShotModel, weights: Weights, rule: Rule, found: dict[str, torch.Tensor]) -> Specialised:
    mask, rate = found["mask"], found["rate"]
    majority = (mask.mean(0) > 0.5).to(mask.dtype)
    on = mask if rate.shape[2] > 1 else torch.ones_like(rate)
    rates = majority * ((rate.log() * on).sum(0) / on.sum(0).clamp(min=1)).exp()
    frozen = Frozen(rule.name, rule.inner_lr, tuple(map(tuple, rates.tolist())))
    agreed = (mask == majority).to(mask.dtype).mean(0)
    about = {
        "layers": list(layers_of(weights)),
        "masks": majority.int().tolist(),
        "rates": rates.tolist(),
        "agreement": float(agreed.mean()),
        "agreement_per_step": agreed.tolist(),
    }
    return Specialised(model, network_weights(weights), frozen, about)


def _freeze_subnet(model: FewShotModel, weights: Weights, rule: Rule, found: dict[str, torch.Tensor]) -> Specialised:
    keep = found["keep"][:, 0]  # [tasks, layers]; chosen at the first step for all
    share = keep.median(0).values  # subnets lie inside each other, so this is the majority of them
    network, layer = network_weights(weights), by_layer(weights)
    chosen = {name: (ranks(w) < share[layer[name]]).to(w.dtype) for name, w in network.items() if w.ndim >= 2}
    still = frozenset(name for name, mask in chosen.items() if not mask.any())
    masks = {name: mask * model.masks.get(name, 1.0) for name, mask in chosen.items() if name not in still}
    masks = {name: mask for name, mask in masks.items() if not mask.all()}
    # Of a layer's positions those between a task's own share and the frozen one are decided otherwise.
    sizes = torch.tensor(
        [sum(mask.numel() for n, mask in chosen.items() if layer[n] == at) for at in range(len(share))]
    )
    agreed = 1 - (keep - share).abs().mean(0)
    about = {
        "layers": list(layers_of(weights)),
        "keep": share.tolist(),
        "weights_kept": float(sum(mask.sum() for mask in chosen.values()) / sizes.sum()),
        "agreement": float((agreed * sizes).sum() / sizes.sum()),
        "agreement_per_layer": agreed.tolist(),
    }
    frozen = Frozen(rule.name, rule.inner_lr, ((rule.inner_lr,) * len(share),), still)
    return Specialised(model.with_masks(model.masks | masks), network, frozen, about)
