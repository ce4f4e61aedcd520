"""How many support images each class of an episode has (numpy only)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gems_edge.data.limits import PER_CLASS
from gems_edge.errors import UserError

# The share of the episodes with a range of shots in which every class has a number of its own.
# Tried: 0, 0.5 and 1 (grocery, 2 seeds, 200 iterations); they differ by less than two seeds do. Half is a compromise.
UNEQUAL = 0.5


@dataclass(frozen=True)
class Shots:
    """From `least` to `most` images of each class, drawn anew for every episode: for all classes the same number or, in
    a share UNEQUAL of the episodes, one for each. With `of_class`, which holds a number for each class, just these."""

    least: int = 1
    most: int = 1
    of_class: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= PER_CLASS:
            raise UserError(f"--shots {self}: give numbers from 1 to {PER_CLASS}, the smaller one first")

    @classmethod
    def given(cls, *counts: int) -> "Shots":
        """One number for all classes, or one for each."""
        return cls(min(counts), max(counts), counts if len(set(counts)) > 1 else ())

    @classmethod
    def parse(cls, text: str) -> "Shots":
        """ "5", or a range "1-5". UserError for anything else."""
        least, dash, most = text.strip().partition("-")
        if not (_is_number(least) and (_is_number(most) or not dash)):
            raise UserError(f"--shots {text}: give a number of support images per class, or a range (1-5)")
        return cls(int(least), int(most or least))

    @classmethod
    def parse_given(cls, text: str) -> "Shots":
        """ "5", or a number for each class: "5,1,1,1,1". UserError for anything else."""
        counts = text.split(",")
        if not all(map(_is_number, counts)):
            raise UserError(f"--shots {text}: give a number of support images per class, or one for each (5,1,1,1,1)")
        return cls.given(*map(int, counts))

    @classmethod
    def from_value(cls, value: object, where: str) -> "Shots":
        """The inverse of `value`, of one number for all classes or a range. UserError for anything else."""
        if isinstance(value, int | str) and not isinstance(value, bool):
            return cls.parse(str(value))
        raise UserError(f'{where}: shots is {value!r}; it must be a number or a range such as "1-5"')

    @property
    def value(self) -> int | list[int] | str:
        """As in documents and config.toml: a number, a list with one for each class, or a range "1-5"."""
        return list(self.of_class) or (self.least if self.least == self.most else str(self))

    def __str__(self) -> str:
        """As on the command line: "5", "1-5" or "5,1,1"."""
        if self.of_class:
            return ",".join(map(str, self.of_class))
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"

    @property
    def mean(self) -> float:
        """Support images of a class, of all episodes on average."""
        return sum(self.of_class) / len(self.of_class) if self.of_class else (self.least + self.most) / 2

    @property
    def ends(self) -> tuple["Shots", ...]:
        """What a range is tested at: its least number and its most. What is no range, as it is."""
        if self.of_class or self.least == self.most:
            return (self,)
        return Shots(self.least, self.least), Shots(self.most, self.most)

    def images(self, ways: int) -> int:
        """Support images of the largest episode."""
        return sum(self.of_class) if self.of_class else self.most * ways

    def draw(self, ways: int, seed: Sequence[int]) -> np.ndarray:
        """The numbers of images of the classes of one episode, int64 [ways]: a function of the `seed`."""
        if self.of_class or self.least == self.most:
            return np.array(self.of_class or (self.most,) * ways, np.int64)
        random = np.random.default_rng(list(seed))
        size = ways if random.random() < UNEQUAL else 1
        return np.broadcast_to(random.integers(self.least, self.most, size, endpoint=True), ways)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


ONE_SHOT = Shots.given(1)
