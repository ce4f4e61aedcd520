"""Several image sets as the distributions that the tasks of one training come from (numpy only)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gems_edge.data.episodes import EpisodeIndices, EpisodeSampler, make_sampler
from gems_edge.data.imageset import ImageSet, resized
from gems_edge.data.shots import Shots
from gems_edge.data.sources import check_format, load_images
from gems_edge.data.specs import Specs, distribution_name, located
from gems_edge.errors import UserError
from gems_edge.progress import Say, silent


@dataclass(frozen=True)
class Mixture:
    """Image sets of one size and number of channels; their images count one after the other."""

    names: tuple[str, ...]
    sets: tuple[ImageSet, ...]
    images: np.ndarray = field(init=False)  # uint8 [N, H, W, C] of all sets, which are parts of it: in memory once

    def __post_init__(self) -> None:
        if len(self.sets) == 1:
            object.__setattr__(self, "images", self.sets[0].images)
            return
        images = np.concatenate([each.images for each in self.sets])
        parts = np.split(images, np.cumsum([len(each.images) for each in self.sets])[:-1])
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "sets", tuple(replace(each, images=part) for each, part in zip(self.sets, parts)))

    @property
    def inverted(self) -> bool:
        """Whether every set's images were inverted on reading; photos for a board are, if so."""
        return all(each.inverted for each in self.sets)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels on a side, and channels."""
        return self.sets[0].images.shape[1], self.sets[0].images.shape[3]

    def numbers(self, split: str) -> np.ndarray:
        """Those of all images of the split's classes, int64 [n]."""
        inside = [np.isin(each.label, each.of_split(split)) for each in self.sets]
        return np.flatnonzero(np.concatenate(inside))

    def alone(self, number: int) -> "Mixture":
        return Mixture((self.names[number],), (self.sets[number],))


@dataclass(frozen=True)
class MixtureSampler:
    """Tasks of several distributions. `draw` is a pure function, as that of the samplers it is made of."""

    names: tuple[str, ...]
    samplers: tuple[EpisodeSampler, ...]
    shares: tuple[float, ...]  # of the tasks; they sum to 1
    seed: int

    @property
    def ways(self) -> int:
        return self.samplers[0].ways

    def source(self, iteration: int, task: int, meta_batch: int) -> int:
        """The distribution of one task of a meta-batch, by systematic sampling: of B tasks each distribution gets its
        share to within one, over many iterations exactly; with equal shares and B a multiple of their number each gets
        as many."""
        if len(self.samplers) == 1:
            return 0
        start = np.random.default_rng([self.seed, iteration]).random()
        point = (start + task) / meta_batch
        return min(int(np.searchsorted(np.cumsum(self.shares), point, side="right")), len(self.samplers) - 1)

    def draw(self, iteration: int, task: int, meta_batch: int) -> tuple[int, EpisodeIndices]:
        """One task of a meta-batch, and the number of its distribution; images' numbers are those in Mixture.images."""
        source = self.source(iteration, task, meta_batch)
        return source, self.samplers[source].draw(iteration, task)


def load_mixture(
    specs: Specs,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    root: Path | None = None,
    skip_bad: bool = False,
    say: Say = silent,
) -> Mixture:
    """Load the image sets of `specs`, all in one size and number of channels.

    By default the size is the smallest of theirs (no pixel is made up), and images are in colour if those of any set
    are; `say` is told when sets differ. `skip_bad` and what is raised: as load_images; UserError for the
    same set twice, too.
    """
    specs = located(specs, root)
    names = tuple(distribution_name(spec) for spec in specs)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--data names {twice} twice; every distribution needs a name of its own")
    check_format(image_size, channels)
    # Grey images become coloured here, not in the readers: line art among photos stays inverted, as it is alone.
    grey = 1 if channels == 1 else None
    sets = [load_images(spec, image_size=image_size, channels=grey, root=root, skip_bad=skip_bad) for spec in specs]
    shapes = [each.images.shape[1:] for each in sets]
    size, depth = min(shape[0] for shape in shapes), channels or max(shape[2] for shape in shapes)
    if any(shape[0] != size for shape in shapes):  # read again: resized once, as any later reading will
        sets = [load_images(spec, image_size=size, channels=grey, root=root, skip_bad=skip_bad) for spec in specs]
    if len(set(shapes)) > 1:
        differing = ", ".join(f"{name} {shape[0]}×{shape[1]}×{shape[2]}" for name, shape in zip(names, shapes))
        say(f"image sets differ ({differing}): all are read as {size}×{size}×{depth} (--image-size, --channels)")
    return Mixture(names, tuple(resized(each, None, depth) for each in sets))


def mixture_sampler(
    mixture: Mixture,
    split: str,
    ways: int,
    shots: Shots | int,
    queries: int,
    seed: int,
    *,
    weights: Sequence[float] = (),
    rotate: bool = False,
) -> MixtureSampler:
    """A sampler over the classes of `split` of every set; `weights`: their shares of the tasks (none: alike).

    UserError as make_sampler, and for weights that do not fit.
    """
    starts = np.cumsum([0, *(len(each.images) for each in mixture.sets[:-1])])
    samplers = tuple(
        replace(make_sampler(each, split, ways, shots, queries, seed), rotate=rotate, start=int(start))
        for each, start in zip(mixture.sets, starts)
    )
    return MixtureSampler(mixture.names, samplers, _shares(weights, mixture.names), seed)


def _shares(weights: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
    if not weights:
        return (1 / len(names),) * len(names)
    if len(weights) != len(names) or not all(0 < weight < np.inf for weight in weights):
        listed = ",".join(f"{weight:g}" for weight in weights)
        raise UserError(
            f"--data-weights {listed}: give a number above 0 for each of the image sets, with commas "
            f"({', '.join(names)})"
        )
    return tuple(weight / sum(weights) for weight in weights)
