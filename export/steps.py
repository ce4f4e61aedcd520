"""How many gradient steps a board takes: what was right most often on validation episodes, by number of photos."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gems_edge.data.mixture import MixtureSampler
from gems_edge.device.bundle import steps_for
from gems_edge.device.manifest import least_steps
from gems_edge.export.source import MetaModel, Read, Source, read_by
from gems_edge.meta.evaluation.accuracy import Accuracy, mean_accuracy, mean_over_distributions
from gems_edge.meta.evaluation.episodes import AllShares, evaluate
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.rules.still import Still
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import network_weights
from gems_edge.progress import Count, Phase, counted_from, no_display

# Rates that are tried, as multiples of the trained one, and the gain in accuracy from which on one is taken.
# Of two first-order Conv-4 runs (3 steps at 0.05, 300 iterations; 100 test episodes, 1 shot) 0.7 made 90.1 % on glyphs
# 90.9 and 76.1 % on grocery 78.1; 1.4 lost 2 to 5 points.
FACTORS, WORTH = (1.0, 0.7), 0.005
CHOOSING_EPISODES = 100  # at most
# Fewer steps are taken where they are right as often as the best number, to this share of the queries.
ALIKE = 0.001


@dataclass(frozen=True)
class StepPlan:
    most: int  # what adapt.onnx is made for; 0: no gradient at all
    by_shots: tuple[tuple[int, int], ...] = ()  # photos of each class → steps; (): `most` for any number
    tried: tuple[dict[str, Any], ...] = ()  # for the manifest
    factor: float = 1.0  # of the trained rates

    def steps(self, shots: float) -> int:
        """The steps for so many photos of each class."""
        return steps_for(self.by_shots, shots, self.most)


def choose_steps(
    learned: MetaModel, source: Source, episodes: int, progress: Count | None, phase: Phase = no_display
) -> StepPlan:
    """For the least and the most shots of the run the fewest steps, of those that it was trained with or fewer, that
    are as good as any on `episodes` validation episodes: from 1 on, of a prototype head from 0. The rate is the same
    for both: the trained one, unless a lower one is clearly better."""
    counts, of_all = step_counts(source), episodes * len(source.validating)
    read = read_by(learned, source, source.validating[0].samplers[0].split, phase)
    tables: dict[float, list[dict[int, Accuracy]]] = {}
    for place, factor in enumerate(FACTORS):
        at_rate = replace(read, learned=replace(read.learned, rule=read.learned.rule.scaled(factor)))
        tables[factor] = [
            step_accuracies(
                at_rate, source, sampler, counts, episodes, counted_from(progress, place * of_all + number * episodes)
            )
            for number, sampler in enumerate(source.validating)
        ]
    factor = max(FACTORS, key=lambda factor: _mean_of_best(tables[factor]) + (WORTH if factor == 1 else 0))
    shots = [sampler.samplers[0].shots.most for sampler in source.validating]
    by_shots = tuple((each, _fewest(table)) for each, table in zip(shots, tables[factor]))
    tried = tuple(
        {"shots": each, "rate_factor": factor, "split": "val", "accuracies": _rows(table)}
        for factor in FACTORS
        for each, table in zip(shots, tables[factor])
    )
    return StepPlan(max(steps for _, steps in by_shots), by_shots, tried, factor)


def _mean_of_best(tables: Sequence[dict[int, Accuracy]]) -> float:
    return sum(max(each.accuracy for each in table.values()) for table in tables) / len(tables)


def _fewest(table: dict[int, Accuracy]) -> int:
    best = max(each.accuracy for each in table.values())
    return min(count for count, each in table.items() if each.accuracy >= best - ALIKE)


def _rows(table: dict[int, Accuracy]) -> list[dict[str, Any]]:
    return [{"steps": count, **each.as_dict()} for count, each in table.items()]


def step_counts(source: Source) -> range:
    """What a board may take."""
    return range(least_steps(source.config.head), source.config.steps + 1)


def without_steps(learned: MetaModel, config: TrainConfig) -> MetaModel:
    """What a board runs that takes no step: no rule moves anything, and a rule's own weights are left out."""
    return replace(learned, weights=network_weights(learned.weights), rule=Still(config.method, config.inner_lr))


def step_accuracies(
    read: Read,
    source: Source,
    sampler: MixtureSampler,
    counts: Sequence[int],
    episodes: int,
    progress: Count | None,
) -> dict[int, Accuracy]:
    """Steps → accuracy over `episodes` of the sampler, spread evenly over the distributions, in the board's mode."""
    mode = source.config.normalization
    shares = shares_of(read, source, sampler, counts, (mode,), episodes, progress).values()
    return {count: mean_over_distributions([mean_accuracy(each[mode, count]) for each in shares]) for count in counts}


def shares_of(
    read: Read,
    source: Source,
    sampler: MixtureSampler,
    counts: Sequence[int],
    modes: Sequence[str],
    episodes: int,
    progress: Count | None,
) -> dict[str, AllShares]:
    """Of each distribution the share of right queries of every episode, by mode and steps, from one adaptation."""
    each = max(2, -(-episodes // len(sampler.samplers)))
    learned = read.learned
    threads = TaskThreads(learned.model.to(source.device), each)
    results = {}
    with matrix_precision("fp32"):
        for number, (name, tasks) in enumerate(zip(sampler.names, sampler.samplers)):
            results[name] = evaluate(
                threads, learned.weights, read.episodes, tasks, learned.rule, steps=counts, modes=modes,
                tasks=range(each), progress=counted_from(progress, number * each),
            )  # fmt: skip
    learned.model.cpu()
    return results
