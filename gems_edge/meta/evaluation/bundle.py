"""`evaluate` for a bundle: every episode is learned and answered by onnxruntime, as on the board. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.imageset import ImageSet
from gems_edge.data.mixture import Mixture, MixtureSampler, load_mixture
from gems_edge.data.shots import Shots
from gems_edge.data.specs import Specs, split_specs
from gems_edge.device.bundle import MayRead
from gems_edge.device.learner import Learner
from gems_edge.device.steps import Watch
from gems_edge.errors import UserError
from gems_edge.meta.evaluation.accuracy import Accuracy, mean_accuracy
from gems_edge.meta.evaluation.document import EvaluationProtocol, bar_entry, document, with_other_shots
from gems_edge.progress import Count, counted_from


@dataclass(frozen=True)
class Answers:
    """What a bundle answers to the queries of one episode in float32, and in int8 where it has such a graph."""

    right: float  # share of right answers
    int8: "Int8Answers | None" = None


@dataclass(frozen=True)
class Int8Answers:
    right: float
    agreement: float  # share of queries that get the same label as in float32
    difference: float  # mean absolute difference of a probability


def evaluate_bundle(
    directory: Path, protocol: EvaluationProtocol, progress: Count | None = None, may_read: MayRead | None = None
) -> dict[str, Any]:
    """The document of `evaluate --json` for a bundle. `may_read`: as read_bundle has it."""
    learner = Learner.load(directory, precision="fp32", may_read=may_read)  # int8 beside it
    manifest = learner.bundle.manifest
    mode = _check(manifest, protocol)
    data = _image_sets(manifest, protocol)
    shape = manifest["image"]
    images = load_mixture(data, image_size=shape["size"], channels=shape["channels"], root=protocol.root)
    shots = Shots(learner.bundle.least_shots, learner.bundle.shots)
    samplers = protocol.samplers(images, manifest["ways"], shots, manifest["queries"])
    documents, of_all = [], protocol.episodes * len(images.sets)
    for number, sampler in enumerate(samplers):
        counted = counted_from(progress, number * of_all)
        steps = protocol.step_counts(learner.bundle.steps_for(sampler.samplers[0].shots.mean))[-1]
        answers = _answers(learner, images, sampler, protocol.episodes, steps, counted)
        documents.append(_document(answers, mode, steps, sampler, data) | _bar(manifest, protocol, sampler))
    return with_other_shots(documents)


def _bar(manifest: dict[str, Any], protocol: EvaluationProtocol, sampler: MixtureSampler) -> dict[str, Any]:
    """The bar as the export measured it, on test episodes of its own, where the same is asked; else nothing: a bundle
    does not hold the weights that training started from."""
    entry = manifest.get("untrained", {}).get(manifest["normalization"], {})
    drawn = sampler.samplers[0]
    if protocol.data or drawn.split != "test":
        return {}
    for tested in entry.get("by_shots", [entry]):
        if (tested.get("ways"), tested.get("shots")) == (drawn.ways, drawn.shots.value):
            return bar_entry(Accuracy(tested["accuracy"], tested["ci95"], tested["episodes"]))
    return {}


def _answers(
    learner: Learner, images: Mixture, sampler: MixtureSampler, episodes: int, steps: int, progress: Count | None
) -> list[list[Answers]]:
    """Of each distribution what the learner answers in its episodes."""
    answers: list[list[Answers]] = []
    for image_set, tasks in zip(images.sets, sampler.samplers):
        answers.append([])
        for task in range(episodes):
            indices = tasks.draw(0, task).shifted(-tasks.start)
            answers[-1].append(answer_episode(learner, image_set, indices, steps))
            if progress:
                progress(sum(map(len, answers)))
    return answers


def _document(
    answers: Sequence[Sequence[Answers]], mode: str, steps: int, sampler: MixtureSampler, data: Specs
) -> dict[str, Any]:
    """With the entry "int8" where the bundle has such a graph."""
    result = document([{(mode, steps): [each.right for each in part]} for part in answers], mode, steps, sampler, data)
    if answers[0][0].int8 is None:
        return result
    int8 = [{(mode, steps): [each.right for each in _int8(part)]} for part in answers]
    compared = compare_precisions([each for part in answers for each in part])
    differences = {name: compared[name] for name in ("difference", "agreement", "probability_difference")}
    return result | {"int8": document(int8, mode, steps, sampler, data) | differences}


def _check(manifest: dict[str, Any], protocol: EvaluationProtocol) -> str:
    """The bundle's normalisation mode; UserError for options that a bundle does not support."""
    if protocol.per_step:
        raise UserError("--per-step is for runs; a bundle takes --steps")
    mode: str = manifest["normalization"]
    if protocol.normalization not in (None, mode):
        raise UserError(
            f"a bundle answers in the mode it was exported for, {mode!r}; "
            f"--normalization {protocol.normalization} needs the run"
        )
    protocol.check_ways(manifest["head"], manifest["ways"])
    return mode


def _image_sets(manifest: dict[str, Any], protocol: EvaluationProtocol) -> Specs:
    """The image sets that were asked for, else those of the exported run; UserError if their paths are unknown here."""
    if protocol.data:
        return protocol.data
    data = split_specs(manifest["provenance"]["data"])
    if unlocated := next((spec for spec in data if ":" in spec), None):
        raise UserError(
            f"a bundle does not know where its images lie; give them with --data {unlocated.partition(':')[0]}:PATH"
        )
    return data


def learn_episode(
    learner: Learner,
    images: ImageSet | Mixture,
    indices: EpisodeIndices,
    steps: int | None = None,
    watch: Watch | None = None,
) -> np.ndarray:
    """Teach the board's learner one episode; probabilities [queries, ways] of its query images, class by class.

    `steps`: as of Learner.adapt.
    """
    learner.adapt(images.images[indices.support], indices.labels.tolist(), steps, watch=watch)
    return learner.predict(images.images[indices.query.reshape(-1)])


def answer_episode(
    learner: Learner, images: ImageSet | Mixture, indices: EpisodeIndices, steps: int | None = None
) -> Answers:
    """Teach the board's learner one episode and ask it in every precision of its bundle. `steps`: as of
    Learner.adapt."""
    truth = np.repeat(np.arange(indices.query.shape[0]), indices.query.shape[1])
    expected = learn_episode(learner, images, indices, steps)
    right = float((expected.argmax(1) == truth).mean())
    if learner.bundle.quantisation is None:
        return Answers(right)
    in_int8 = learner.in_precision("int8")
    if learner.bundle.trunk is not None:  # taught as it answers
        quantised = learn_episode(in_int8, images, indices, steps)
    else:
        quantised = in_int8.predict(images.images[indices.query.reshape(-1)])
    labels = quantised.argmax(1)
    agreement = float((labels == expected.argmax(1)).mean())
    return Answers(
        right, Int8Answers(float((labels == truth).mean()), agreement, float(np.abs(quantised - expected).mean()))
    )


def _int8(answers: Sequence[Answers]) -> list[Int8Answers]:
    return [each.int8 for each in answers if each.int8 is not None]


def compare_precisions(answers: Sequence[Answers]) -> dict[str, Any]:
    """int8 beside fp32 on the same episodes: both accuracies, the mean of the paired differences with its 95 %
    interval, agreement of labels and mean difference of a probability."""
    int8 = _int8(answers)
    paired = mean_accuracy([each.right - float32.right for each, float32 in zip(int8, answers, strict=True)])
    return {
        "fp32": mean_accuracy([each.right for each in answers]).as_dict(),
        "int8": mean_accuracy([each.right for each in int8]).as_dict(),
        "difference": {"accuracy": paired.accuracy, "ci95": paired.ci95},
        "agreement": float(np.mean([each.agreement for each in int8])),
        "probability_difference": float(np.mean([each.difference for each in int8])),
    }
