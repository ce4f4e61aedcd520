"""Episodes drawn by index: which images are the support and the query set of a task (numpy only)."""

from dataclasses import dataclass, replace

import numpy as np

from gems_edge.data.imageset import SPLITS, ImageSet
from gems_edge.data.shots import Shots
from gems_edge.errors import UserError

# Random orders of a class's groups that are tried before the stored division is used.
GROUP_TRIES = 20


@dataclass(frozen=True)
class EpisodeIndices:
    """One task; the label of an image is the position of its class. A class may have more support images than another.

    Images of a class stand one after the other, in the order of the classes.
    """

    classes: np.ndarray  # int64 [ways], index into ImageSet.classes
    support: np.ndarray  # int64 [n], index into ImageSet.images
    labels: np.ndarray  # int64 [n], of the support images
    query: np.ndarray  # int64 [ways, queries]
    turns: np.ndarray | None = None  # int64 [ways]: quarter turns of all images of a class; None: as they are

    def shifted(self, by: int) -> "EpisodeIndices":
        """The same task where the images' numbers begin elsewhere."""
        return replace(self, support=self.support + by, query=self.query + by)


@dataclass(frozen=True)
class Groups:
    """The groups of near-duplicates of one class."""

    members: tuple[np.ndarray, ...]  # image indices of each group
    division: frozenset[int]  # groups for the support set that certainly leave enough queries


@dataclass(frozen=True)
class EpisodeSampler:
    """Draws tasks of one split; made by make_sampler."""

    split: str
    ways: int
    shots: Shots
    queries: int
    seed: int
    classes: np.ndarray  # int64: class ids of the split
    members: tuple[np.ndarray, ...]  # per class of the split: its image indices
    groups: tuple[Groups, ...] | None  # per class, where near-duplicates are known
    rotate: bool = False  # each class of an episode is turned by a multiple of 90°
    start: int = 0  # added to the images' numbers: where this set begins among those of a mixture

    def draw(self, iteration: int, task: int) -> EpisodeIndices:
        """The task with this number: a pure function of (seed, split, iteration, task), so that resuming a run or
        dividing tasks over processes needs no state."""
        number = [self.seed, SPLITS.index(self.split), iteration, task]
        random = np.random.default_rng(number)
        chosen = random.choice(len(self.classes), self.ways, replace=False)
        # From a generator of their own, so that a range draws the classes that one number does.
        counts = self.shots.draw(self.ways, (*number, 1))
        drawn = [self._draw_class(position, shots, random) for position, shots in zip(chosen, counts.tolist())]
        support, query = (list(part) for part in zip(*drawn))
        turns = random.integers(0, 4, self.ways) if self.rotate else None
        return EpisodeIndices(
            self.classes[chosen],
            np.concatenate(support),
            np.repeat(np.arange(self.ways), counts),
            np.stack(query),
            turns,
        ).shifted(self.start)

    def _draw_class(self, position: int, shots: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The support and the query images of one class of the split."""
        if self.groups is not None:
            return self._draw_grouped(self.groups[position], shots, random)
        members = self.members[position]
        drawn = members[random.choice(len(members), shots + self.queries, replace=False)]
        return drawn[:shots], drawn[shots:]

    def _draw_grouped(self, groups: Groups, shots: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Support from as many groups as possible up to `shots`, evenly; query from all the others."""
        inside = self._support_groups(groups, shots, random)
        shuffled = [random.permutation(groups.members[i]) for i in inside]
        # The first image of every group, then the second of every group, …
        ranks = np.concatenate([np.arange(len(part)) for part in shuffled])
        support = np.concatenate(shuffled)[np.argsort(ranks, kind="stable")[:shots]]
        taken = set(inside)
        rest = np.concatenate([group for i, group in enumerate(groups.members) if i not in taken])
        return support, rest[random.choice(len(rest), self.queries, replace=False)]

    def _support_groups(self, groups: Groups, shots: int, random: np.random.Generator) -> list[int]:
        sizes = [len(group) for group in groups.members]
        spare = sum(sizes) - self.queries
        for _ in range(GROUP_TRIES):
            inside: list[int] = []
            images = 0
            for i in random.permutation(len(sizes)).tolist():
                if images + sizes[i] <= spare:
                    inside.append(i)
                    images += sizes[i]
                    if len(inside) == shots:
                        break
            if images >= shots:
                return inside
        return [int(i) for i in random.permutation(sorted(groups.division))]


def make_sampler(
    image_set: ImageSet, split: str, ways: int, shots: Shots | int, queries: int, seed: int
) -> EpisodeSampler:
    """A sampler over the classes of `split`.

    Raises UserError for an unknown split, numbers out of range, too few classes in the split, and a class with too few
    images (or, where images come in groups, whose groups cannot be divided into support and query) for the most shots.
    """
    shots = shots if isinstance(shots, Shots) else Shots.given(shots)
    _check_numbers(split, ways, shots, queries, seed)
    classes = image_set.of_split(split)
    if len(classes) < ways:
        raise UserError(
            f"{image_set.name}: split {split} has {len(classes)} classes, too few for {ways}-way episodes; "
            f"add classes{f' or use --ways {len(classes)}' if len(classes) >= 2 else ''}"
        )
    order = np.argsort(image_set.label, kind="stable")
    starts = np.concatenate([[0], np.cumsum(image_set.class_sizes())])
    members = tuple(order[starts[c] : starts[c + 1]] for c in classes)
    for class_id, images in zip(classes, members):
        if len(images) < shots.most + queries:
            spare = len(images) - shots.most
            raise UserError(
                f"{image_set.name}: class {image_set.classes[class_id]!r} ({split}) has {len(images)} images, but "
                f"{shots.most} shots and {queries} queries need {shots.most + queries}; add images or use "
                f"{f'--queries {spare}' if spare >= 1 else 'fewer --shots'}"
            )
    groups = (
        None
        if image_set.group is None
        else tuple(
            _groups(image_set, image_set.group, class_id, images, shots.most, queries)
            for class_id, images in zip(classes.tolist(), members)
        )
    )
    return EpisodeSampler(split, ways, shots, queries, seed, classes, members, groups)


def _check_numbers(split: str, ways: int, shots: Shots, queries: int, seed: int) -> None:
    """UserError for an unknown split, and for numbers that are out of range or do not fit together."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; use train, val or test")
    for value, option, least in ((ways, "ways", 2), (queries, "queries", 1), (seed, "seed", 0)):
        if value < least:
            raise UserError(f"--{option} is {value}; it must be {least} or more")
    if shots.of_class and len(shots.of_class) != ways:
        raise UserError(f"--shots {shots} are {len(shots.of_class)} numbers for {ways} ways; give one, or one for each")


def _groups(
    image_set: ImageSet, group: np.ndarray, class_id: int, images: np.ndarray, shots: int, queries: int
) -> Groups:
    """The groups of one class, whose `images` these are; UserError if they cannot be divided."""
    numbers = group[images]
    members = tuple(images[numbers == number] for number in np.unique(numbers))
    division = divide_groups([len(each) for each in members], shots, queries)
    if division is None:
        raise UserError(
            f"{image_set.name}: class {image_set.classes[class_id]!r} ({image_set.split[class_id]}) has {len(members)} "
            f"groups of near-duplicates, which cannot give {shots} shots and {queries} queries without sharing one; "
            "use fewer --queries"
        )
    return Groups(members, division)


def divide_groups(sizes: list[int], shots: int, queries: int) -> frozenset[int] | None:
    """Groups for the support set with at least `shots` images inside and `queries` outside; None if impossible."""
    most = sum(sizes) - queries
    reached: dict[int, frozenset[int]] = {0: frozenset()}
    for i, size in enumerate(sizes):
        for total, inside in list(reached.items()):
            if shots <= total <= most:
                return inside
            if total + size <= most:
                reached.setdefault(total + size, inside | {i})
    return next((inside for total, inside in reached.items() if shots <= total <= most), None)
