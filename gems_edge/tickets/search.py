"""The three verbs that tickets are made of, train, prune and rewind, and what they work on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gems_edge.errors import UserError
from gems_edge.meta.features import episodes_of
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run, first_weights, fitting, seeded_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.settings.ticket import TICKETS, TicketConfig
from gems_edge.meta.start import Start
from gems_edge.meta.train import train_from
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.spec import ModelSpec
from gems_edge.models.ticket import Masks, Ticket, maskable
from gems_edge.progress import Progress, in_phase
from gems_edge.tickets import channels, criteria
from gems_edge.tickets.primary import PrimaryWatch

SEARCH = "search"  # the training that finds a ticket is a run of its own, in this directory of the ticket's run
# Streams of random numbers drawn from a run's seed, apart from its episodes and initial weights.
_RANDOM_MASKS = 0x7C3E
# Trains a run, dense or with a ticket of its own; training.train_run.
TrainRun = Callable[[Start, Run, Progress | None], dict[str, float]]


@dataclass
class Search:
    """What the ticket functions work with: the settings, where to train, and what the search took so far."""

    start: Start  # its config holds the ticket's settings
    run: Run  # of the ticket; a training that finds it lives in its directory "search"
    train: TrainRun  # handed in, for with several rounds a training has a search of its own
    progress: Progress | None = None
    # How the ticket was found, as its file keeps it.
    report: dict[str, Any] = field(default_factory=lambda: {"iterations": 0, "seconds": 0.0, "cpu_seconds": 0.0})

    @property
    def config(self) -> TrainConfig:
        return self.start.config

    @property
    def ticket(self) -> TicketConfig:
        return self.config.ticket

    @property
    def spec(self) -> ModelSpec:
        return self.config.model_spec()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The maskable weights in forward order: of those that learn."""
        shapes = {name: tuple(tensor.shape) for name, tensor in seeded_weights(self.config).items()}
        return self.spec.learning({name: shapes[name] for name in maskable(shapes)})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def sizes(self) -> dict[str, int]:
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @cached_property
    def random(self) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, _RANDOM_MASKS])

    # Train

    def trained(self) -> Weights:
        """The network trained to the end, best on validation: that of --dense-run, or one trained for this.

        With several rounds it is the ticket of one round less, at the ratio that it has then: every round removes the
        same share.
        """
        if self.ticket.dense_run:
            run = dense_run(self.config)
            spent = run.spent()
        else:
            run = Run(self.run.directory / SEARCH)
            self.train(replace(self.start, config=self._search_config()), run, self._progress())
            spent = _spent_in_all(run)
        self.report |= {"iterations": run.config().iterations * self.ticket.rounds, **spent}
        config = run.config()  # where it was drawn back, what it was trained to counts
        return fitting(config, run.empty_model(config), run.trained(), run.directory)

    def settled(self, mask_of: Callable[[Weights], np.ndarray]) -> Weights:
        """The dense network when its first layer's mask settles, or at the last iteration if it never does."""
        run = Run(self.run.directory / SEARCH)
        watch = PrimaryWatch(run.directory / "primary.safetensors", self.ticket, mask_of, self.start.processes.first)
        # Nothing but the weights at the end is wanted, so a validation would only cost.
        config = replace(self._search_config(), validate_every=max(1, self.config.iterations))
        train_from(replace(self.start, config=config), run, watch=watch, progress=self._progress())
        checkpoint = run.checkpoint()
        assert checkpoint is not None, "a training leaves its last checkpoint"
        self.report |= {
            "iterations": checkpoint.iteration, **run.spent(), "settled": watch.settled, "delta": self.ticket.delta,
            "interval": self.ticket.interval, "overlaps": [[i, round(o, 6)] for i, o in watch.overlaps],
        }  # fmt: skip
        return checkpoint.weights

    def _progress(self) -> Progress | None:
        """`progress` that says which phase it tells of."""
        return in_phase(self.progress, "find ticket")

    def _search_config(self) -> TrainConfig:
        """The dense training, or with several rounds that of the ticket before this one."""
        rounds, keep = self.ticket.rounds, self.config.keep
        if rounds > 1:
            ratio = 1 - (1 - self.ticket.ratio) ** ((rounds - 1) / rounds)
            # Every method that prunes a trained network takes its masks from MWT's.
            ticket = replace(self.ticket, method="mwt", ratio=ratio, rounds=rounds - 1)
            return replace(self.config, ticket=ticket, keep_general=0.0)
        if self.ticket.rewind:
            keep = keep.also(self.ticket.rewind)
        return replace(self.config, ticket=TicketConfig(), keep=keep, keep_general=0.0)

    # Prune

    def magnitudes(self, weights: Weights) -> dict[str, np.ndarray]:
        """|w| of the maskable weights."""
        return criteria.magnitudes({name: weights[name] for name in self.names})

    def largest(self, scores: dict[str, np.ndarray]) -> Masks:
        """The largest scores stay, ranked as --scope says."""
        return criteria.largest(scores, self.ticket.ratio, self.ticket.scope)

    def smart_counts(self) -> dict[str, int]:
        return criteria.smart_counts(self.sizes, self.ticket.ratio, self.ticket.head_keep)

    def smart_widths(self) -> tuple[int, ...]:
        """Widths of a channel ticket that depend on the ratio alone, as smart ratios do: all channels count alike."""
        equal = [torch.ones(width) for width in self.spec.widths]
        return channels.channel_widths(self.spec, equal, self.ticket.ratio, self.ticket.round_to)[0]

    def sensitivity(self, weights: Weights) -> dict[str, np.ndarray]:
        """SNIP's |w · ∂L/∂w| (Lee et al. 2019), L the meta-objective: mean query loss after the inner loop."""
        config, processes, sampler = self.config, self.start.processes, self.start.training_sampler()
        model, weights = FewShotModel(self.spec).to(processes.device), {n: w.detach() for n, w in weights.items()}
        parts = halves(MetaModel(model, weights, rule_of(config)), self.spec.cut)
        tensors, top = episodes_of(parts, self.start.images, ("train",), processes), parts.learned
        leaves = {name: tensor.to(processes.device).requires_grad_() for name, tensor in top.weights.items()}
        for task in range(self.ticket.snip_episodes):
            _, indices = sampler.draw(task // config.meta_batch, task % config.meta_batch, config.meta_batch)
            loss = meta_loss(top.model, leaves, tensors.episode(indices), config, top.rule).loss
            torch.autograd.backward(loss / self.ticket.snip_episodes)
        self.report["episodes"] = self.ticket.snip_episodes
        return {name: _sensitivity(leaves[name]) for name in self.names}

    # Rewind

    def rewound(self, iteration: int) -> Weights:
        """θ_k, the weights after `iteration` steps of dense training."""
        if iteration == 0:
            return first_weights(self.config)
        if self.ticket.dense_run:
            return dense_run(self.config).kept(iteration)
        directory = self.run.directory
        for _ in range(self.ticket.rounds):
            directory = directory / SEARCH
        return Run(directory).kept(iteration)

    def initial_weights(self, ticket: Ticket) -> Weights:
        """What training the ticket starts from, before masking: the dense network's fresh, first or rewound weights.

        For a channel ticket they are sliced to its channels.
        """
        fresh = TICKETS[ticket.method].start == "fresh"  # from the same distribution as θ0
        weights = seeded_weights(self.config, other=1) if fresh else self.rewound(self.ticket.rewind)
        on_cpu = {name: tensor.detach().cpu() for name, tensor in weights.items()}
        if ticket.unit == "weight":
            return on_cpu
        return channels.remove_channels(FewShotModel(self.spec), on_cpu, list(ticket.masks.values()))[1]


def _sensitivity(weight: Tensor) -> np.ndarray:
    """|w · ∂L/∂w| of one tensor whose gradient was summed up; zero where the loss does not depend on it."""
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    scores: np.ndarray = (weight.detach() * gradient).abs().cpu().numpy()
    return scores


def dense_run(config: TrainConfig) -> Run:
    """The finished dense run that --dense-run names; UserError if it is another model's, sparse or unfinished."""
    run = Run(config.ticket.dense_run)
    stored = run.config()
    names = ("compute", "keep", "keep_features", "keep_general", "precision", "ticket", "checkpoint_every")
    free = {name: getattr(config, name) for name in names}
    if not stored.dense:
        raise UserError(f"{run.directory} trained a ticket; --dense-run wants a dense run")
    if (same := replace(stored, **free)) != config:
        name = next(n for n in same.__dataclass_fields__ if getattr(same, n) != getattr(config, n))
        raise UserError(
            f"{run.directory} was trained with {name} = {getattr(stored, name)!r}, not {getattr(config, name)!r}: "
            "its weights are no ticket for this run"
        )
    if not run.finished():
        raise UserError(f"{run.directory} is not finished; go on with gems-edge train --resume -o {run.directory}")
    return run


def _spent_in_all(run: Run) -> dict[str, float]:
    """Seconds of a run and, with several rounds, of the trainings that found its ticket."""
    total = dict(run.spent())
    if (run.directory / SEARCH).is_dir():
        inner = _spent_in_all(Run(run.directory / SEARCH))
        total = {name: value + inner.get(name, 0.0) for name, value in total.items()}
    return total
