"""The check before a bundle is handed over: onnxruntime computes on the board what torch computed in training."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.mixture import Mixture, MixtureSampler
from gems_edge.data.tensors import Episode, episode_tensors
from gems_edge.device.learner import Learner
from gems_edge.device.photos import as_kept
from gems_edge.device.trust import ANYBODY
from gems_edge.errors import MachineError
from gems_edge.export.source import MetaModel
from gems_edge.export.twin import Difference, Kind, Sample, Twin
from gems_edge.meta.evaluation.bundle import answer_episode, compare_precisions, learn_episode
from gems_edge.meta.inner import Support, support_of
from gems_edge.meta.meta_model import halves
from gems_edge.models.split import split

# The first step of a shared head moves nothing but the head: it says nothing of the backbone's gradient.
LEAST_STEPS = 3
_WORDS: dict[Kind, str] = {
    "update": "in most episodes the step of {at} is off by {error:.1e} of its length",
    "forward": "{at} is off by {error:.1e}",
    "decision": "what is carried to the next step as {at} is off by {error:.1e}",
    "answer": "a probability is off by {error:.1e} although the weights are the same",
}


@dataclass(frozen=True)
class Verification:
    """Of each kind the difference that comes closest to what is allowed, or exceeds it.

    Of an update it is the median over the episodes: where rounding takes a kink of an activation or a tie of a pool to
    its other side, the gradient is another and equally right. That is seldom; a wrong gradient is wrong in most
    episodes.
    """

    episodes: int
    steps: int
    update: Difference | None  # None: no step is taken
    forward: Difference  # features, loss and statistics of the support set, a prototype head's rows
    decision: Difference | None  # None: the rule carries nothing
    answer: Difference  # probabilities of the queries after all steps
    other_sides: int  # steps, of all episodes, in which an update was beyond what is allowed

    @property
    def differences(self) -> dict[Kind, Difference]:
        kinds: dict[Kind, Difference | None] = {
            "update": self.update, "forward": self.forward, "answer": self.answer, "decision": self.decision
        }  # fmt: skip
        return {kind: difference for kind, difference in kinds.items() if difference is not None}

    @property
    def passed(self) -> bool:
        return all(difference.passed for difference in self.differences.values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify_bundle(
    directory: Path, learned: MetaModel, steps: int, images: Mixture, episodes: Iterable[EpisodeIndices]
) -> Verification:
    """Let the bundle in `directory` learn and answer real `episodes` as on the board, and follow it with torch.

    Raises MachineError if the two differ by more than rounding explains.
    """
    learner, tensors = Learner.load(directory, precision="fp32", trust=ANYBODY), episode_tensors(images)
    counts = [max(steps, LEAST_STEPS)] if learner.bundle.takes_steps else []
    counts += [0] if learner.bundle.makes_prototypes else []
    followed: list[list[Sample]] = []
    for indices in episodes:
        episode = tensors.episode(indices)
        each = (_followed(learner, learned, images, indices, episode, count) for count in counts)
        followed.append(list(itertools.chain.from_iterable(each)))
    verification = verdict(followed)
    if not verification.passed:
        raise MachineError(_refusal(verification))
    return verification


def _followed(
    learner: Learner, learned: MetaModel, images: Mixture, indices: EpisodeIndices, episode: Episode, steps: int
) -> list[Sample]:
    """One episode on the board, compared with torch: where the bundle has a trunk, the features that it gives first,
    and then the steps, which torch takes on these as the board keeps them."""
    support, queries, trunk = support_of(episode, len(indices.classes)), episode.query_images, learner.bundle.trunk
    twin = Twin(learned, support)
    if trunk is not None:
        cut = learned.model.spec.topology.cut(trunk.cut)
        parts = split(learned.model, cut)
        below = parts.below(learned.weights)
        with torch.no_grad():
            queries = parts.trunk(below, queries)
        board = learner.features(images.images[indices.support])
        taught = torch.from_numpy(as_kept(board)).to(queries)
        twin = Twin(halves(learned, cut).learned, Support(taught, support.targets))
        twin.features(board, parts.trunk, below, support.images)
    twin.answer(queries, learn_episode(learner, images, indices, steps, twin.follow))
    return twin.samples


def verdict(episodes: Sequence[Sequence[Sample]]) -> Verification:
    """What several episodes say together."""
    worst = worst_differences(episodes)
    updates = [(number, s) for number, samples in enumerate(episodes) for s in samples if s.kind == "update"]
    return Verification(
        episodes=len(episodes),
        steps=max((1 + sample.step for _, sample in updates), default=0),
        update=worst.get("update"),
        forward=worst["forward"],
        decision=worst.get("decision"),
        answer=worst["answer"],
        other_sides=len({(number, sample.step) for number, sample in updates if not sample.difference.passed}),
    )


def worst_differences(episodes: Sequence[Sequence[Sample]]) -> dict[Kind, Difference]:
    """Of each kind the worst: of updates of the medians over the episodes, of all others over all samples."""
    differences: defaultdict[Kind, list[Difference]] = defaultdict(list)
    updates: defaultdict[tuple[str, int, bool], list[Difference]] = defaultdict(list)
    for sample in itertools.chain.from_iterable(episodes):
        if sample.kind == "update":
            # Apart where a rule holds a tensor in some episodes: a mask that is ignored shows in those alone.
            updates[sample.difference.at, sample.step, sample.still].append(sample.difference)
        else:
            differences[sample.kind].append(sample.difference)
    if updates:
        differences["update"] = [sorted(each, key=_excess)[(len(each) - 1) // 2] for each in updates.values()]
    return {kind: max(each, key=_excess) for kind, each in differences.items()}


def _excess(difference: Difference) -> float:
    return difference.excess


def _refusal(verification: Verification) -> str:
    wrong = [
        f"{_WORDS[kind].format(**asdict(difference))} (allowed {difference.allowed:.0e})"
        for kind, difference in verification.differences.items()
        if not difference.passed
    ]
    return (
        f"onnxruntime does not reproduce torch: {'; '.join(wrong)}; no bundle was written; please report this with the "
        "versions of torch and onnxruntime"
    )


def int8_accuracy(
    directory: Path,
    images: Mixture,
    sampler: MixtureSampler,
    episodes: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """int8 beside fp32 over the same `episodes`, evenly of the distributions, learned and answered as on the board.

    See meta.evaluation.bundle.compare_precisions.
    """
    learner, answers = Learner.load(directory, precision="fp32", trust=ANYBODY), []
    each = max(2, -(-episodes // len(sampler.samplers)))
    for tasks in sampler.samplers:
        for task in range(each):
            answers.append(answer_episode(learner, images, tasks.draw(0, task)))
            if progress:
                progress(len(answers))
    return compare_precisions(answers)
