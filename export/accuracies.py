"""How accurate a run, what is exported of it, and the network before any training are on test episodes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gems_edge.data.mixture import MixtureSampler
from gems_edge.export.source import ExportOptions, MetaModel, Read, Reports, Source, read_by
from gems_edge.export.steps import StepPlan, shares_of
from gems_edge.meta.evaluation.accuracy import mean_accuracy, mean_over_distributions
from gems_edge.meta.evaluation.episodes import modes_for
from gems_edge.meta.evaluation.untrained import untrained
from gems_edge.progress import Count, Phase, counted_from, no_display


def accuracy_of_the_run(source: Source, options: ExportOptions, reports: Reports) -> dict[str, Any]:
    reports.say(f"accuracy over {options.episodes} test episodes of {', '.join(source.images.names)} …")
    return accuracy_of(source.trained, "the run", source, options, reports)


def accuracy_of(
    learned: MetaModel,
    name: str,
    source: Source,
    options: ExportOptions,
    reports: Reports,
    plan: StepPlan | None = None,
) -> dict[str, Any]:
    with reports.evaluation(f"evaluate {name}", options.episodes * len(source.tests)) as progress:
        return accuracies(learned, source, source.tests, options.episodes, progress, plan, reports.evaluation)


def untrained_accuracy(source: Source, options: ExportOptions, reports: Reports) -> dict[str, Any]:
    """The bar, as `accuracies` gives them; empty where the weights that training started from are not to be had."""
    learned = untrained(source.run, source.config)
    if learned is None:
        return {}
    plain = replace(source, config=replace(source.config, steps=0, head="prototype"))
    total = options.episodes * len(source.tests)
    with reports.evaluation("evaluate the network as it was before training", total) as progress:
        return accuracies(learned, plain, source.tests, options.episodes, progress, None, reports.evaluation)


def accuracies(
    learned: MetaModel,
    source: Source,
    samplers: Sequence[MixtureSampler],
    episodes: int,
    progress: Count | None,
    plan: StepPlan | None = None,
    phase: Phase = no_display,
) -> dict[str, Any]:
    """Mode → accuracy over `episodes` of the first sampler, spread evenly over the distributions, and each's own; of
    several samplers, which differ in their shots, that of each under "by_shots". Steps are the run's,
    or those of a `plan`."""
    plan, read = plan or StepPlan(source.config.steps), read_by(learned, source, samplers[0].samplers[0].split, phase)
    tested = [
        _accuracies_of(read, source, sampler, plan, episodes, counted_from(progress, number * episodes))
        for number, sampler in enumerate(samplers)
    ]
    if len(tested) == 1:
        return tested[0]
    return {mode: entry | {"by_shots": [each[mode] for each in tested]} for mode, entry in tested[0].items()}


def _accuracies_of(
    read: Read, source: Source, sampler: MixtureSampler, plan: StepPlan, episodes: int, progress: Count | None
) -> dict[str, Any]:
    config, shots = source.config, sampler.samplers[0].shots
    taken, modes = plan.steps(shots.mean), modes_for(config.normalization)
    results = shares_of(read, source, sampler, [taken], modes, episodes, progress)
    protocol = {"ways": config.ways, "shots": shots.value, "steps": taken}
    by_mode: dict[str, Any] = {}
    for mode, steps in next(iter(results.values())):
        parts = {name: mean_accuracy(values[mode, steps]) for name, values in results.items()}
        by_mode[mode] = mean_over_distributions(list(parts.values())).as_dict() | protocol
        if len(parts) > 1:
            by_mode[mode]["distributions"] = {name: part.as_dict() for name, part in parts.items()}
    return by_mode
