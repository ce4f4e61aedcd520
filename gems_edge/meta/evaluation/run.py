"""`evaluate` for a run, with torch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.mixture import Mixture, load_mixture
from gems_edge.data.specs import distribution_name, own_specs
from gems_edge.data.tensors import Episodes
from gems_edge.errors import UserError
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.choices import Choices
from gems_edge.meta.evaluation.document import EvaluationProtocol, document, with_other_shots
from gems_edge.meta.evaluation.episodes import AllShares, check_mode, evaluate, modes_for
from gems_edge.meta.evaluation.untrained import untrained
from gems_edge.meta.features import episodes_of, trunk_key
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.overlap import subnet_overlap
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.processes import Processes, single_process, start_processes
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import layers_of
from gems_edge.progress import Count, Phase, counted_from, no_display


@dataclass(frozen=True)
class _Subject:
    """A trained model above its cut: of the run, or of one distribution of a multi-maml run."""

    top: MetaModel
    images: Episodes  # or the features that it reads


# What the bar is called among the subjects; no distribution has a name with a slash.
_BAR = "/untrained"


def _ready(
    subjects: Mapping[str, MetaModel], images: Mixture, split: str, processes: Processes, phase: Phase
) -> dict[str, _Subject]:
    """Every model with what it reads of its own distribution and of those that have none; the bar of all. What several
    read is there once."""
    ready: dict[str, _Subject] = {}
    read: dict[tuple[str, ...], Episodes] = {}
    for name, learned in subjects.items():
        parts = halves(learned, learned.model.spec.cut)
        own = [each for each in images.names if name in (each, _BAR) or each not in subjects]
        key = (trunk_key(parts), *own) if parts.parts else ()
        if key not in read:
            numbers = [images.names.index(each) for each in own]
            read[key] = episodes_of(parts, images, (split,), processes, phase, numbers)
        ready[name] = _Subject(parts.learned, read[key])
    return ready


@dataclass(frozen=True)
class _Tested:
    """One distribution: the share of right queries of every episode, and what the rule chose on average."""

    shares: AllShares
    choices: dict[str, Any]
    layers: list[str]


def evaluate_run(
    directory: Path,
    protocol: EvaluationProtocol,
    compute: str = "auto",
    progress: Count | None = None,
    phase: Phase = no_display,
) -> dict[str, Any]:
    """The document of `evaluate --json` for a run.

    A multi-maml run answers for a distribution that it was trained on with that one's own model, and for any other with
    each of its models: the accuracy is then their mean.
    """
    single_process("evaluate")
    run = Run(directory)
    config = run.config()
    mode = check_mode(config.normalization, protocol.normalization or config.normalization)
    protocol.check_ways(config.head, config.ways)
    subjects = _subjects(run)
    processes = start_processes(compute)
    if processes.device.type == "cpu":
        keep_freed_memory()
    data = own_specs(protocol.data, config.data) if protocol.data else config.data
    images = load_mixture(
        data,
        image_size=config.image_size,
        channels=config.channels,
        root=protocol.root,
        skip_bad=config.skip_bad,
    )
    samplers = protocol.samplers(images, config.ways, config.shots, config.queries)
    steps, modes = protocol.step_counts(config.steps), protocol.modes or modes_for(config.normalization)
    test = _Test(steps, modes, protocol.episodes)
    bar_test = _Test([0], (mode,), protocol.episodes)
    ready = _ready(subjects | _bar(run), images, protocol.split, processes, phase)
    bar = ready.pop(_BAR, None)
    documents, done = [], 0
    for sampler in samplers:
        tested = {}
        for name, tasks in zip(images.names, sampler.samplers):
            own = [ready[name]] if name in ready else ready.values()
            tested[name] = test.run(own, tasks, counted_from(progress, done))
            done += protocol.episodes
        bars = [bar_test.run([bar], tasks, None).shares[mode, 0] for tasks in sampler.samplers] if bar else None
        shares = [each.shares for each in tested.values()]
        result = document(shares, mode, steps[-1], sampler, data, bars, protocol.each_episode)
        documents.append(_with_choices(result, tested, set(map(distribution_name, config.data))))
    return with_other_shots(documents)


def _bar(run: Run) -> dict[str, MetaModel]:
    """The network as it was before training, where it can still be had: of a multi-maml run that of any distribution,
    as all start alike."""
    own = next(iter(run.distributions().values()), run)
    bar = untrained(own, own.config())
    return {} if bar is None else {_BAR: bar}


def _subjects(run: Run) -> dict[str, MetaModel]:
    """Distribution → its model; a run that has one model for all has it under ""."""
    if not run.complete():
        raise UserError(
            f"{run.directory} has not trained every distribution yet; "
            f"go on with gems-edge train --resume -o {run.directory}"
        )
    runs = run.distributions() or {"": run}
    return {name: MetaModel(*part.model(), rule_of(part.config())) for name, part in runs.items()}


@dataclass(frozen=True)
class _Test:
    """The episodes, inner steps and modes that every model is tested on."""

    steps: list[int]
    modes: tuple[str, ...]
    episodes: int

    def run(self, subjects: Collection[_Subject], sampler: EpisodeSampler, progress: Count | None) -> _Tested:
        """Test on one distribution; of several models every episode counts with their mean."""
        tested = [self._run(subject, sampler, progress) for subject in subjects]
        keys = tested[0].shares
        shares = {key: np.mean([each.shares[key] for each in tested], axis=0).tolist() for key in keys}
        return _Tested(shares, tested[0].choices, tested[0].layers)

    def _run(self, subject: _Subject, sampler: EpisodeSampler, progress: Count | None) -> _Tested:
        learned, device = subject.top, subject.images.device
        choices = Choices(learned.rule.decisions(learned.weights), self.steps[-1], device)
        with matrix_precision("fp32"):
            shares = evaluate(
                TaskThreads(learned.model.to(device), self.episodes),
                learned.weights,
                subject.images,
                sampler,
                learned.rule,
                steps=self.steps,
                modes=self.modes,
                tasks=range(self.episodes),
                seen=choices.add,
                progress=progress,
            )
        return _Tested(shares, choices.means(), list(layers_of(learned.weights)))


def _with_choices(result: dict[str, Any], tested: dict[str, _Tested], trained: set[str]) -> dict[str, Any]:
    """`result` with whether each distribution was trained on, what the rule chose for it, and what subnets share."""
    for name, entry in result["distributions"].items():
        entry["seen"] = name in trained
    choices = {name: each.choices for name, each in tested.items()}
    if not any(choices.values()):
        return result
    first, *_ = tested.values()
    result["layers"] = first.layers
    for name, entry in result["distributions"].items():
        entry["choices"] = choices[name]
    if "keep" in first.choices:
        result["overlap"] = subnet_overlap({name: means["keep"][0] for name, means in choices.items()})
    return result
