"""The outer loop: Adam on the mean query loss of a meta-batch, through the inner loop."""

import math
import time
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from gems_edge.data.mixture import mixture_sampler
from gems_edge.errors import MachineError, Terminated
from gems_edge.meta.augment import augmentation_of, of_task
from gems_edge.meta.choices import Choices
from gems_edge.meta.evaluation.accuracy import Accuracy, mean_accuracy, mean_over_distributions
from gems_edge.meta.evaluation.episodes import evaluate
from gems_edge.meta.features import episodes_of
from gems_edge.meta.keep_general import between, draw
from gems_edge.meta.logbook import Logbook
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.outer import learning_rate, make_optimizer, meta_gradient
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.processes import Processes
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Checkpoint, Run, fitting
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.start import Start, starting
from gems_edge.meta.tally import MetaTask, Tally, details
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import Weights
from gems_edge.models.pretrained import RANDOM
from gems_edge.models.tensor_names import is_constant
from gems_edge.places import check_room
from gems_edge.progress import Progress, Say, phase_of, silent
from gems_edge.sigterm import Sigterm


class Watch(Protocol):
    """Looks at the weights every `every` iterations and may end a training early."""

    every: int

    def resume(self, iteration: int) -> bool:
        """Forget what was seen after `iteration`; whether the training had ended there."""

    def look(self, iteration: int, weights: Weights) -> tuple[bool, dict[str, float]]:
        """Whether training ends after this iteration, and what to log. What it wants to keep it writes itself."""


def train(
    run: Run,
    config: TrainConfig,
    *,
    resume: bool = False,
    initial: Weights | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
    root: Path | None = None,
    processes: Processes | None = None,
    say: Say = silent,
) -> dict[str, float]:
    """Meta-train into `run`, starting from `initial` weights (default: seeded), and return the best validation.

    With a ticket in the config, `run` holds its file: the weights it removes are zero from the first iteration to the
    last. `watch` may end the training before its last iteration; then nothing is validated at the end. `processes`:
    those that a caller started.
    With `resume` a run goes on from its last checkpoint and ends with the same bits as one that was never stopped.
    That holds on the same machine with the same numbers of processes and threads, on GPUs as far as their libraries are
    deterministic. Raises UserError for a directory that is not empty (without resume) or whose run has another config
    (with it); MachineError when training diverges.
    """
    with starting(run, config, resume=resume, root=root, processes=processes, say=say) as start:
        return train_from(start, run, initial=initial, watch=watch, progress=progress)


def train_from(
    start: Start,
    run: Run,
    *,
    initial: Weights | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """As `train` with `resume`, for one of several trainings that share processes and images."""
    start.check(run)  # before features are computed
    trainer = Trainer(run, start, initial=initial, watch=watch, progress=progress)
    start.begin(run)  # last, so that a refusal above leaves nothing behind
    if start.processes.first:
        check_room(run.directory, trainer.stored_bytes())
    if start.config.init != RANDOM and start.processes.first and not run.initial_path.exists():
        run.save_initial(trainer.whole_of(trainer.first))
    with matrix_precision(start.config.precision):
        return trainer.train()


class Stretch:
    """What was trained since the last log line, and at what rate."""

    def __init__(self, tally: Tally, iteration: int):
        self.tally = tally
        self.restart(iteration)

    def restart(self, iteration: int) -> None:
        """The rate counts from here: what took time before was no training."""
        self.iteration, self.started = iteration, time.perf_counter()

    def rate(self, iteration: int) -> float:
        """Iterations a second."""
        return (iteration - self.iteration) / (time.perf_counter() - self.started)


class Trainer:
    """State of one training: model, optimiser, where it stands."""

    book: Logbook
    sigterm: Sigterm

    def __init__(
        self,
        run: Run,
        start: Start,
        *,
        initial: Weights | None = None,
        watch: Watch | None = None,
        progress: Progress | None = None,
    ):
        config, images, self.processes = start.config, start.images, start.processes
        self.run, self.config, self.watch, self.progress = run, config, watch, progress
        self.sampler = start.training_sampler()
        self.validation = mixture_sampler(images, "val", config.ways, config.shots, config.queries, config.seed)
        model = run.empty_model(config).to(self.processes.device)
        weights = fitting(config, model, initial or run.start(config), run.initial_path)
        weights = model.masked({name: w.detach().to(self.processes.device) for name, w in weights.items()})
        whole = MetaModel(model, weights, rule_of(config))
        self.names = tuple(weights)
        parts = halves(whole, model.spec.cut)
        self.tensors = episodes_of(
            parts, images, ("train", "val"), self.processes, phase_of(progress), augmentation=augmentation_of(config)
        )
        self.below, self.model, self.rule = parts.below, parts.learned.model, parts.learned.rule
        self.first = parts.learned.weights
        self.weights = {name: w.clone().requires_grad_(not is_constant(name)) for name, w in self.first.items()}
        self.threads = TaskThreads(self.model, len(self.processes.tasks(config.meta_batch)))
        self.selected = tuple(self.rule.subnet(self.rule.begin(self.weights)))
        self.optimizer = make_optimizer(self.weights, config)
        self.iteration = 0
        self.best: dict[str, float] = {}

    def train(self) -> dict[str, float]:
        """Train to the end; the best validation. At SIGTERM a checkpoint is written, and Terminated raised."""
        with Sigterm() as self.sigterm:
            self._train()
        self.book.close()
        self.processes.wait()
        return self.best

    def _train(self) -> None:
        config = self.config
        if self._resume():
            self._validate()
            self._save()
        stop = self.watch is not None and self.watch.resume(self.iteration)
        if self.iteration == 0:
            self._keep()
        stretch = Stretch(self.tally(), self.iteration)
        with self.sigterm.waits():
            while self.iteration < config.iterations and not stop:
                norm = self.step(stretch.tally)
                self.iteration += 1
                self._keep()
                stop, terminates = self._look(), self._terminates()
                last = self.iteration == config.iterations
                checkpoint = last or stop or terminates or self.iteration % config.checkpoint_every == 0
                # A tenth of the validation interval: curves with enough points, no more syncs with a GPU than needed.
                # And at every checkpoint, so that no mean spans one.
                if checkpoint or self.iteration % max(1, config.validate_every // 10) == 0:
                    self._log_training(stretch, norm)
                    stretch = Stretch(self.tally(), self.iteration)
                validates = last or self.iteration % config.validate_every == 0
                if terminates:
                    self._terminate(validates)
                if validates:
                    self._validate_or_terminate()
                    stretch.restart(self.iteration)
                if checkpoint:
                    self._save()
        if not self.best and not stop:  # 0 iterations: the initial weights are the run's
            self._validate()
            self._save()
        if config.keep_general and not stop:
            self._draw_back()

    def _terminates(self) -> bool:
        """Whether SIGTERM came to a process of this training: all end after the same step."""
        if self.processes.count == 1:
            return self.sigterm.came
        came = torch.tensor(float(self.sigterm.came), device=self.processes.device)
        self.processes.sum_([came])
        return bool(came)

    def _terminate(self, validates: bool) -> NoReturn:
        """Save where training stands, before the validation that is due (`validates`), and end it."""
        self._save(validates)
        raise Terminated(
            f"stopped by SIGTERM after iteration {self.iteration} of {self.config.iterations}, which is saved; the "
            "same command goes on from there (train: with --resume)"
        )

    def _validate_or_terminate(self) -> None:
        """Validate; a validation that SIGTERM cuts short is done anew by who goes on."""
        try:
            with self.sigterm.at_once():
                self._validate()
        except Terminated:
            self._terminate(validates=True)

    def stored_bytes(self) -> int:
        """What a checkpoint takes with the run's weights: of each learning weight two moments beside it."""
        whole, learning = (sum(w.nbytes for w in tensors.values()) for tensors in (self.below | self.first, self.first))
        return 2 * whole + 2 * learning

    def whole_of(self, above: Weights) -> Weights:
        """The weights of the whole network."""
        weights = self.below | above
        return {name: weights[name] for name in self.names}

    def tally(self) -> Tally:
        decisions = self.rule.decisions(self.weights)
        return Tally(self.sampler.names, decisions, self.config.steps, self.processes.device)

    def step(self, tally: Tally) -> Tensor:
        """One outer step; its tasks are added to `tally`. The norm of the meta-gradient."""
        config = self.config
        tasks = self.processes.tasks(config.meta_batch)
        drawn = [self.sampler.draw(self.iteration, task, config.meta_batch) for task in tasks]
        episodes = (
            self.tensors.episode(indices, random=of_task(config.seed, self.iteration, task))
            for task, (_, indices) in zip(tasks, drawn)
        )

        def seen(number: int, task: MetaTask) -> None:
            tally.add(drawn[number][0], task)

        start = self.first if config.keep_features else None
        gradients, union = meta_gradient(self.threads, self.weights, episodes, config, self.rule, seen, start)
        gradients = self.model.masked(gradients)
        for name, gradient in gradients.items():
            self.weights[name].grad = gradient
        self.processes.sum_(gradients.values())
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), config.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.iteration) * group["share"]
        outside = self._outside(union)
        self.optimizer.step()
        with torch.no_grad():  # equation 7 of GEMS: Adam's momentum would move them too
            for name, (before, unmoved) in outside.items():
                self.weights[name].copy_(torch.where(unmoved, before, self.weights[name]))
        return norm

    def _outside(self, union: Weights) -> dict[str, tuple[Tensor, Tensor]]:
        """Of weights that lie in no task's subnet: the tensor as it is, and where they are."""
        counts = {name: union.get(name, torch.zeros_like(self.weights[name])) for name in self.selected}
        self.processes.sum_(counts.values())
        return {name: (self.weights[name].detach().clone(), count == 0) for name, count in counts.items()}

    def _look(self) -> bool:
        """Whether the watch ends the training here."""
        if self.watch is None or self.iteration % self.watch.every:
            return False
        stop, seen = self.watch.look(self.iteration, self.whole_of(self.weights))
        self._log("watch", **seen)
        return stop

    def _log_training(self, stretch: Stretch, norm: Tensor) -> None:
        """A log line of what was trained since the last one; MachineError if it has diverged."""
        self.processes.sum_(stretch.tally.tensors())
        loss, accuracy = stretch.tally.means()
        if not math.isfinite(loss + float(norm)):  # before it can reach a checkpoint
            raise MachineError(
                f"training diverged before iteration {self.iteration} (loss {loss:g}, gradient norm {float(norm):g}); "
                "train anew with a lower --inner-lr or --lr"
            )
        self._log(
            "train",
            loss=loss,
            accuracy=accuracy,
            lr=learning_rate(self.config, self.iteration - 1),
            rate=stretch.rate(self.iteration),
            **stretch.tally.details(self.weights),
        )

    def _validate(self) -> None:
        """Log the accuracies on validation classes; the best weights so far are the run's."""
        accuracies, choices = self._validation()
        result = mean_over_distributions(list(accuracies.values()))
        entries = {name: accuracy.as_dict() for name, accuracy in accuracies.items()}
        parts = details(entries, choices if any(choices.values()) else {}, self.weights)
        self._log("validation", accuracy=result.accuracy, ci95=result.ci95, **parts)
        if not self.best or result.accuracy > self.best["accuracy"]:
            self.best = {"iteration": self.iteration, "accuracy": result.accuracy, "ci95": result.ci95}
            if self.processes.first:
                self.run.save_weights(self.whole_of(self.weights))

    def _draw_back(self) -> None:
        """Replace the run's weights, the best ones, by weights between these and the start (--keep-general)."""
        trained = {name: torch.zeros_like(weight) for name, weight in self.first.items()}
        if self.processes.first:
            kept = self.run.trained()
            trained = {name: kept[name].to(tensor) for name, tensor in trained.items()}
        self.processes.sum_(trained.values())

        def accuracy_of(weights: Weights) -> Accuracy:
            return mean_over_distributions(list(self._validation(weights)[0].values()))

        drawn = draw(self.first, trained, self.config.keep_general, accuracy_of)
        if self.processes.first:
            self.run.save_drawn(self.whole_of(trained), self.whole_of(between(self.first, trained, drawn.share)))
        chosen = drawn.validation[drawn.share]
        self.best |= {"accuracy": chosen.accuracy, "ci95": chosen.ci95, "share": drawn.share}
        self._log("general", **drawn.as_dict())

    def _validation(self, weights: Weights | None = None) -> tuple[dict[str, Accuracy], dict[str, dict[str, Any]]]:
        """Each distribution's accuracy on its validation classes, and what the rule chose there on average.

        Of the weights as they are now, or of the `weights` given.
        """
        config, names = self.config, self.validation.names
        episodes = max(2, -(-config.validation_episodes // len(names)))
        tasks = self.processes.tasks(episodes)
        shares = torch.zeros(len(names), episodes, dtype=torch.float64, device=self.processes.device)
        means = {}
        for number, (name, sampler) in enumerate(zip(names, self.validation.samplers)):
            choices = Choices(self.rule.decisions(self.weights), config.steps, self.processes.device)
            right = evaluate(
                self.threads,
                weights or self.weights,
                self.tensors,
                sampler,
                self.rule,
                steps=[config.steps],
                modes=[config.normalization],
                tasks=tasks,
                seen=choices.add if choices.sums else None,
            )
            for task, share in zip(tasks, right.get((config.normalization, config.steps), [])):
                shares[number, task] = share
            self.processes.sum_(choices.tensors())
            means[name] = choices.means()
        self.processes.sum_([shares])
        return {name: mean_accuracy(row) for name, row in zip(names, shares.tolist())}, means

    def _log(self, kind: str, **values: Any) -> None:
        if self.processes.first:
            record = self.book.write(kind, self.iteration, values)
            if self.progress:
                self.progress(record | {"iterations": self.config.iterations})

    def _keep(self) -> None:
        if self.iteration in self.config.keep and self.processes.first:
            self.run.save_kept(self.iteration, self.whole_of(self.weights))

    def _save(self, validates: bool = False) -> None:
        if not self.processes.first:
            return
        tensors = {f"weights.{name}": weight for name, weight in self.whole_of(self.weights).items()}
        for name, weight in self.weights.items():
            state = self.optimizer.state.get(weight, {})
            tensors |= {f"{kind}.{name}": state[kind] for kind in ("exp_avg", "exp_avg_sq") if kind in state}
        self.run.save_checkpoint(
            Checkpoint(self.iteration, self.best, self.run.stored_metrics_size(), tensors, validates)
        )

    def _resume(self) -> bool:
        """Take up the last checkpoint, where there is one; whether a validation is to be done first."""
        checkpoint = self.run.checkpoint()
        if self.processes.first:
            self.run.cut_metrics(checkpoint.metrics_bytes if checkpoint else 0)
        self.processes.wait()
        self.book = Logbook(self.run, 0 if checkpoint is None else checkpoint.iteration)
        if checkpoint is None:
            return False
        self.iteration, self.best = checkpoint.iteration, checkpoint.best
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(checkpoint.tensors[f"weights.{name}"])
                if f"exp_avg.{name}" in checkpoint.tensors:
                    moments = {
                        kind: checkpoint.tensors[f"{kind}.{name}"].to(weight.device)
                        for kind in ("exp_avg", "exp_avg_sq")
                    }
                    self.optimizer.state[weight] = {"step": torch.tensor(float(self.iteration)), **moments}
        return checkpoint.validates
