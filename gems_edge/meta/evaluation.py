"""`evaluate` for whole runs (torch) and bundles (onnxruntime): the same episodes, the same report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.episodes import EpisodeIndices, EpisodeSampler
from gems_edge.data.imageset import ImageSet
from gems_edge.data.mixture import Mixture, MixtureSampler, load_mixture, mixture_sampler
from gems_edge.data.specs import Specs, distribution_name, own_specs, specs_text, split_specs
from gems_edge.device.learner import Learner
from gems_edge.errors import UserError
from gems_edge.meta.evaluate import check_mode, mean_accuracy, mean_over_distributions, modes_for
from gems_edge.meta.overlap import overlap
from gems_edge.meta.task_threads import TaskThreads

Progress = Callable[[int], None]
# (normalisation mode, inner steps) → right queries of every episode.
Found = dict[tuple[str, int], list[float]]


@dataclass(frozen=True)
class EvaluationProtocol:
    """What to evaluate on; None means as trained. `data` may name several image sets, each of which is evaluated."""

    data: Specs | None = None
    split: str = "test"
    episodes: int = 600  # of each image set
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    steps: int | None = None
    per_step: bool = False
    normalization: str | None = None
    seed: int = 1
    root: Path | None = None
    modes: tuple[str, ...] | None = None  # the normalisation modes to compute; None: all that the run has

    def sampler(self, images: Mixture, ways: int, shots: int, queries: int) -> MixtureSampler:
        return mixture_sampler(
            images, self.split, self.ways or ways, self.shots or shots, self.queries or queries, self.seed
        )

    def step_counts(self, trained: int) -> list[int]:
        steps = trained if self.steps is None else self.steps
        return list(range(steps + 1)) if self.per_step else [steps]


def evaluate_run(
    directory: Path, protocol: EvaluationProtocol, compute: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """The document of `evaluate --json` for a run.

    A multi-maml run answers for a distribution that it was trained on with that one's own model, and for any other with
    each of its models: the accuracy is then their mean.
    """
    from gems_edge.data.tensors import episode_tensors
    from gems_edge.meta.allocator import keep_freed_memory
    from gems_edge.meta.choices import Choices
    from gems_edge.meta.evaluate import evaluate
    from gems_edge.meta.precision import matrix_precision
    from gems_edge.meta.processes import single_process, start_processes
    from gems_edge.meta.rules.registry import rule_of
    from gems_edge.meta.run import Run
    from gems_edge.models.fewshot import layers_of

    single_process("evaluate")

    run = Run(directory)
    config = run.config()
    mode = check_mode(config.normalization, protocol.normalization or config.normalization)
    ways = protocol.ways or config.ways
    _check_ways(config.head, config.ways, ways)
    if not run.complete():
        raise UserError(
            f"{directory} has not trained every distribution yet; go on with gems-edge train --resume -o {directory}"
        )
    subjects = {name: (part.config(), *part.model()) for name, part in (run.distributions() or {"": run}).items()}
    place = start_processes(compute).device
    if place.type == "cpu":
        keep_freed_memory()
    data = own_specs(protocol.data, config.data) if protocol.data else config.data
    images = load_mixture(data, image_size=config.image_size, channels=config.channels, root=protocol.root)
    sampler = protocol.sampler(images, config.ways, config.shots, config.queries)
    tensors, steps = episode_tensors(images, place), protocol.step_counts(config.steps)
    found: list[Found] = []
    choices: list[Choices] = []
    layers: list[str] = []
    for source, name in enumerate(images.names):
        answers = []
        for one, model, weights in [subjects[name]] if name in subjects else subjects.values():
            rule, layers = rule_of(one), list(layers_of(weights))
            choices.append(Choices(rule.decisions(weights), steps[-1], place))
            with matrix_precision("fp32"):
                answers.append(evaluate(
                    TaskThreads(model.to(place), protocol.episodes), weights, tensors, sampler.samplers[source], rule, steps=steps,
                    modes=protocol.modes or modes_for(config.normalization), tasks=range(protocol.episodes), seen=choices[-1].add,
                    progress=progress and (lambda done, source=source: progress(source * protocol.episodes + done)),
                ))  # fmt: skip
        found.append({key: np.mean([answer[key] for answer in answers], axis=0).tolist() for key in answers[0]})
    document = report(found, mode, steps[-1], sampler, data)
    trained = set(map(distribution_name, config.data))
    for name, entry in document["distributions"].items():
        entry["seen"] = name in trained
    means = [one.means() for one in choices]
    if any(means):
        document["layers"] = layers
        for entry, chosen in zip(document["distributions"].values(), means):
            entry["choices"] = chosen
        if "keep" in means[0]:
            document["overlap"] = overlap({name: one["keep"][0] for name, one in zip(images.names, means)})
    return document


def evaluate_bundle(directory: Path, protocol: EvaluationProtocol, progress: Progress | None = None) -> dict[str, Any]:
    """The document of `evaluate --json` for a bundle: every episode is learned and answered by onnxruntime."""
    learner = Learner.load(directory)
    manifest = learner.bundle.manifest
    if protocol.per_step:
        raise UserError("--per-step is for runs; a bundle takes --steps")
    mode = manifest["normalization"]
    if protocol.normalization not in (None, mode):
        raise UserError(
            f"a bundle answers in the mode it was exported for, {mode!r}; --normalization {protocol.normalization} needs the run"
        )
    ways = protocol.ways or manifest["ways"]
    _check_ways(manifest["head"], manifest["ways"], ways)
    data = protocol.data or split_specs(manifest["provenance"]["data"])
    if data != protocol.data and (unlocated := next((spec for spec in data if ":" in spec), "")):
        raise UserError(
            f"a bundle does not know where its images lie; give them with --data {unlocated.partition(':')[0]}:PATH"
        )
    shape = manifest["image"]
    images = load_mixture(data, image_size=shape["size"], channels=shape["channels"], root=protocol.root)
    sampler = protocol.sampler(images, manifest["ways"], manifest["shots"], manifest["queries"])
    steps = protocol.step_counts(manifest["rule"]["steps"])[-1]
    answers: list[list[Answers]] = []
    for source, (one, alone) in enumerate(zip(images.sets, sampler.samplers)):
        answers.append([])
        for task in range(protocol.episodes):
            answers[-1].append(answer_episode(learner, one, alone.draw(0, task).shifted(-alone.start), steps))
            if progress:
                progress(source * protocol.episodes + task + 1)
    document = report([{(mode, steps): [one.right for one in part]} for part in answers], mode, steps, sampler, data)
    if learner.bundle.quantisation is not None:
        int8 = [{(mode, steps): [one.right_int8 for one in part]} for part in answers]
        together = compare_precisions([one for part in answers for one in part])
        document["int8"] = report(int8, mode, steps, sampler, data) | {
            name: together[name] for name in ("difference", "agreement", "probability_difference")
        }
    return document


def learn_episode(learner: Learner, images: ImageSet, indices: EpisodeIndices, steps: int) -> np.ndarray:
    """Teach the board's learner one episode; probabilities [queries, ways] of its query images, class by class."""
    ways, shots = indices.support.shape
    learner.adapt(images.images[indices.support.reshape(-1)], np.repeat(np.arange(ways), shots).tolist(), steps=steps)
    return learner.predict(images.images[indices.query.reshape(-1)])


@dataclass(frozen=True)
class Answers:
    """What a bundle answers to the queries of one episode in float32, and in int8 where it has such a graph."""

    right: float  # share of right answers
    right_int8: float | None = None
    agreement: float = 1.0  # share of queries that both give the same label
    difference: float = 0.0  # mean absolute difference of a probability


def answer_episode(learner: Learner, images: ImageSet, indices: EpisodeIndices, steps: int) -> Answers:
    """Teach the board's learner one episode and ask it in every precision of its bundle."""
    truth = np.repeat(np.arange(indices.query.shape[0]), indices.query.shape[1])
    expected = learn_episode(learner, images, indices, steps)
    right = float((expected.argmax(1) == truth).mean())
    if learner.bundle.quantisation is None:
        return Answers(right)
    found = learner.in_precision("int8").predict(images.images[indices.query.reshape(-1)])
    same = float((found.argmax(1) == expected.argmax(1)).mean())
    return Answers(right, float((found.argmax(1) == truth).mean()), same, float(np.abs(found - expected).mean()))


def compare_precisions(answers: Sequence[Answers]) -> dict[str, Any]:
    """int8 beside fp32 on the same episodes: both accuracies, the mean of the paired differences with its 95 % interval,
    agreement of labels and mean difference of a probability."""
    paired = mean_accuracy([one.right_int8 - one.right for one in answers])
    return {
        "fp32": mean_accuracy([one.right for one in answers]).as_dict(),
        "int8": mean_accuracy([one.right_int8 for one in answers]).as_dict(),
        "difference": {"accuracy": paired.accuracy, "ci95": paired.ci95},
        "agreement": float(np.mean([one.agreement for one in answers])),
        "probability_difference": float(np.mean([one.difference for one in answers])),
    }


def report(found: Sequence[Found], mode: str, steps: int, sampler: MixtureSampler, data: Specs) -> dict[str, Any]:
    """Headline figure (`mode` after `steps`) and the table of all modes and step counts; with several distributions means
    over them, whose interval is that of their episodes. Each distribution's own figures are under its name."""
    tables = [{key: mean_accuracy(values) for key, values in one.items()} for one in found]
    means = {key: mean_over_distributions([one[key] for one in tables]).as_dict() for key in tables[0]}
    first: EpisodeSampler = sampler.samplers[0]
    protocol = {
        "ways": first.ways,
        "shots": first.shots,
        "queries": first.queries,
        "split": first.split,
        "seed": first.seed,
    }
    document = means[mode, steps] | protocol
    document |= {"steps": steps, "normalization": mode, "data": specs_text(data), "table": _rows(means)}
    return document | {
        "distributions": {
            name: one[mode, steps].as_dict() | {"table": _rows({key: a.as_dict() for key, a in one.items()})}
            for name, one in zip(sampler.names, tables)
        }
    }


def _rows(table: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"normalization": mode, "steps": steps, **values} for (mode, steps), values in table.items()]


def _check_ways(head: str, trained: int, ways: int) -> None:
    if head == "per-class" and ways > trained:
        raise UserError(
            f"--ways {ways}: the head has one learned row per class and {trained} of them; train with --head shared for any number"
        )
