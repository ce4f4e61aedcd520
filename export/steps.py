"""How many gradient steps a board takes: what was right most often on validation episodes, by number of photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gems_edge.data.mixture import MixtureSampler
from gems_edge.device.bundle import steps_for
from gems_edge.export.source import MetaModel, Read, Source, read_by
from gems_edge.meta.evaluation.accuracy import Accuracy, mean_accuracy, mean_over_distributions
from gems_edge.meta.evaluation.episodes import AllShares, evaluate
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.progress import Count, Phase, counted_from, no_display

# Fewer steps are taken where they are right as often as the best number, to this share of the queries.
ALIKE = 0.001


@dataclass(frozen=True)
class StepPlan:
    most: int  # what adapt.onnx is made for; 0: no gradient at all
    by_shots: tuple[tuple[int, int], ...] = ()  # photos of each class → steps; (): `most` for any number
    tried: tuple[dict[str, Any], ...] = ()  # for the manifest

    def steps(self, shots: float) -> int:
        """The steps for so many photos of each class."""
        return steps_for(self.by_shots, shots, self.most)


def choose_steps(
    learned: MetaModel, source: Source, episodes: int, progress: Count | None, phase: Phase = no_display
) -> StepPlan:
    """For the least and the most shots of the run the fewest steps, of those that it was trained with or fewer, that
    are as good as any on `episodes` validation episodes: from 1 on, of a prototype head from 0."""
    counts, by_shots, tried = step_counts(source), [], []
    read = read_by(learned, source, source.validating[0].samplers[0].split, phase)
    for number, sampler in enumerate(source.validating):
        counted = counted_from(progress, number * episodes)
        accuracies = step_accuracies(read, source, sampler, counts, episodes, counted)
        best = max(each.accuracy for each in accuracies.values())
        chosen = min(count for count, each in accuracies.items() if each.accuracy >= best - ALIKE)
        shots = sampler.samplers[0].shots.most
        by_shots.append((shots, chosen))
        rows = [{"steps": count, **each.as_dict()} for count, each in accuracies.items()]
        tried.append({"shots": shots, "chosen": chosen, "split": "val", "accuracies": rows})
    return StepPlan(max(steps for _, steps in by_shots), tuple(by_shots), tuple(tried))


def step_counts(source: Source) -> range:
    """What a board may take."""
    return range(0 if source.config.head == "prototype" else 1, source.config.steps + 1)


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
