"""Episodes with foreign queries: what a network answers to photos of classes that it was taught, and of others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gems_edge.data.episodes import EpisodeIndices, EpisodeSampler, make_sampler
from gems_edge.device.bundle import HEAD
from gems_edge.device.familiar import squared_distances
from gems_edge.device.left_out import LeftOut, left_out
from gems_edge.device.photos import as_kept
from gems_edge.errors import UserError
from gems_edge.export.cut import highest_cut
from gems_edge.export.source import MetaModel, Read, Source, read_by
from gems_edge.export.steps import StepPlan
from gems_edge.meta.evaluation.still import BATCH
from gems_edge.meta.inner import adapt, detached, one_hot, query_features, support_of
from gems_edge.models.fewshot import Weights, body
from gems_edge.models.head import logits_of, prototypes
from gems_edge.models.spec import PER_IMAGE, ModelSpec
from gems_edge.models.tensor_names import TEMPERATURE
from gems_edge.progress import Phase, no_display

PER_CLASS = 100  # images of a class that take part, where they do not come in groups
OF_TRAINING = 16  # images of a training class that its rows are made of
MOST_ROWS = 256
_FOREIGN = 1  # of a task's random numbers, beside those of its classes


@dataclass(frozen=True)
class Task:
    indices: EpisodeIndices
    foreign: np.ndarray  # int64 [m], images of other classes of the same split


@dataclass(frozen=True)
class Asked:
    """Logits of an episode's queries: of taught classes [n, classes] with the places of these, and foreign [m, …]."""

    logits: np.ndarray
    background: np.ndarray  # of training classes, as many rows; no column without any
    distances: np.ndarray  # squared, to the classes' means of what the head reads; no column where features stand still
    own: np.ndarray  # int64 [n]; behind the n known ones come the foreign
    left: LeftOut | None  # the support photos, each left out; None where a board does not ask them


def samplers_for(source: Source, split: str, ways: int, shots: int) -> list[EpisodeSampler]:
    """One for each distribution that has other classes beside `ways`; none where images do not suffice."""
    found, start = [], 0
    for each in source.images.sets:
        try:
            sampler = make_sampler(each, split, ways, shots, source.config.queries, source.sampler.seed)
        except UserError:
            return []
        most = max(PER_CLASS, shots + source.config.queries)
        members = tuple(numbers if sampler.groups else numbers[:most] for numbers in sampler.members)
        found.append(replace(sampler, members=members, start=start))
        start += len(each.images)
    return found if all(len(sampler.classes) > ways for sampler in found) else []


def tasks_of(sampler: EpisodeSampler, count: int) -> list[Task]:
    """`count` tasks, with as many foreign queries as known ones, of all other classes of the split."""
    tasks = []
    for number in range(count):
        indices = sampler.draw(0, number)
        others = [m for c, m in zip(sampler.classes.tolist(), sampler.members) if c not in set(indices.classes)]
        images = np.concatenate(others)
        random = np.random.default_rng([sampler.seed, number, _FOREIGN])
        chosen = random.permutation(images)[: indices.query.size]
        tasks.append(Task(indices, chosen + sampler.start))
    return tasks


class Asking:
    """Asks a network that is to be exported; features that do not depend on the task are computed once."""

    def __init__(self, learned: MetaModel, source: Source, split: str, plan: StepPlan, phase: Phase = no_display):
        self.read: Read = read_by(learned, source, split, phase)
        self.split, self.mode, self.plan = split, source.config.normalization, plan
        self.still = stands_still(learned, plan, self.mode)
        self.temperature = temperature_of(learned) if self.still else None
        self.features: dict[int, torch.Tensor] = {}

    def ask(self, task: Task, rows: Weights) -> Asked:
        """`rows`: the head's, of training classes; {}: none."""
        indices, model = task.indices, self.read.learned.model
        ways, queries = indices.query.shape
        weights, features, taught = self._still(task) if self.still else self._adapted(task)
        with torch.no_grad():
            all_rows = {name: torch.cat([weights[name], rows[name].to(features)]) for name in HEAD} if rows else {}
            logits = logits_of(model.spec, weights | all_rows, features).float().cpu().numpy()
            distances = np.zeros((len(logits), 0))
            if taught is not None:
                read, of_support = (_read(model.spec, weights, each) for each in (features, taught))
                means = np.stack([of_support[indices.labels == place].mean(axis=0) for place in range(ways)])
                distances = squared_distances(read, means)
        left = self._left_out(indices, weights, rows) if self.temperature else None
        return Asked(logits[:, :ways], logits[:, ways:], distances, np.repeat(np.arange(ways), queries), left)

    def _left_out(self, indices: EpisodeIndices, weights: Weights, rows: Weights) -> LeftOut:
        assert self.temperature is not None
        support, head = as_kept(self._features(indices.support).cpu().numpy()), weights[HEAD[0]].float().cpu().numpy()
        training = rows[HEAD[0]].float().numpy() if rows else head[:0]
        return left_out(support, indices.labels, head, training, self.temperature)

    def _adapted(self, task: Task) -> tuple[Weights, torch.Tensor, torch.Tensor]:
        """The weights, and features of the queries and of the support set."""
        learned, indices = self.read.learned, task.indices
        episode, steps = self.read.episodes.episode(indices), self.plan.steps(len(indices.labels) / len(indices.query))
        support = support_of(episode, len(indices.query))
        reached = adapt(learned.model, detached(learned.weights, learned.rule), support, learned.rule, steps)
        foreign = self.read.episodes.taken(task.foreign, torch.float32)
        images = torch.cat([episode.query_images, foreign])
        with torch.no_grad():
            found, taught = (
                query_features(learned.model, reached.adapted, some, support, self.mode, reached.statistics)
                for some in (images, episode.support_images)
            )
        return reached.adapted, found, taught

    def _still(self, task: Task) -> tuple[Weights, torch.Tensor, None]:
        indices, learned = task.indices, self.read.learned
        support = self._features(indices.support)
        targets = one_hot(torch.from_numpy(indices.labels).to(support.device), len(indices.query), support.dtype)
        with torch.no_grad():
            rows = prototypes(learned.model.spec, learned.weights, support, targets)
        return learned.weights | rows, self._features(np.concatenate([indices.query.reshape(-1), task.foreign])), None

    def _features(self, numbers: np.ndarray) -> torch.Tensor:
        missing = np.array([number for number in np.unique(numbers) if number not in self.features], np.int64)
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            self.features |= zip(
                some.tolist(), features_of(self.read.learned, self.read.episodes.taken(some, torch.float32))
            )
        return torch.stack([self.features[number] for number in numbers.tolist()])


def _read(spec: ModelSpec, weights: Weights, features: torch.Tensor) -> np.ndarray:
    """What the head reads of features [N, F]: its logits for unit rows, as a board has them."""
    rows = dict(zip(HEAD, (torch.eye(spec.feature_size).to(features), torch.zeros(spec.feature_size).to(features))))
    return logits_of(spec, weights | rows, features).float().cpu().numpy()


def stands_still(learned: MetaModel, plan: StepPlan, mode: str) -> bool:
    """Whether an image's features are the same in every task."""
    return learned.model.spec.head == "prototype" and not plan.most and mode in PER_IMAGE


def temperature_of(learned: MetaModel) -> float | None:
    """What a cosine head multiplies cosines with, where a board keeps the features that it reads; else None."""
    spec, cut = learned.model.spec, highest_cut(learned)
    if spec.head != "prototype" or spec.metric != "cosine" or cut is None or cut.sides:
        return None
    return float(learned.weights[TEMPERATURE].exp())


def features_of(learned: MetaModel, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return body(learned.model, learned.weights, images).features


def background_rows(learned: MetaModel, source: Source) -> Weights:
    """Head rows of the training classes, MOST_ROWS at most, in float16 as a bundle has them; {} of a head whose rows
    are no prototypes, and where an image's features depend on others."""
    spec, numbers = learned.model.spec, _of_training(source)
    if spec.head != "prototype" or source.config.normalization not in PER_IMAGE or len(numbers) < 2:
        return {}
    learned.model.to(source.device)
    weights = {name: tensor.to(source.device) for name, tensor in learned.weights.items()}
    means = []
    for some in numbers:
        features = features_of(replace(learned, weights=weights), source.tensors.taken(some, torch.float32))
        one = torch.ones(len(features), 1, dtype=features.dtype, device=features.device)
        means.append(prototypes(spec, weights, features, one))
    learned.model.cpu()
    rows = {name: torch.cat([row[name] for row in means]).half().cpu() for name in HEAD}
    return rows if all(bool(row.isfinite().all()) for row in rows.values()) else {}


def _of_training(source: Source) -> Sequence[np.ndarray]:
    found, start = [], 0
    for each in source.images.sets:
        found += [start + np.flatnonzero(each.label == one)[:OF_TRAINING] for one in each.of_split("train")]
        start += len(each.images)
    found = [numbers for numbers in found if len(numbers)]
    chosen = np.linspace(0, len(found) - 1, min(len(found), MOST_ROWS)).round().astype(int)
    return [found[place] for place in chosen]
