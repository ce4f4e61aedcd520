"""Which iterations' weights a run keeps: the table [keep] of config.toml."""

from dataclasses import dataclass, replace

from gems_edge.errors import UserError


@dataclass(frozen=True)
class Kept:
    """`iteration in kept`: the iterations `at` and, from 0 on, `every` so many."""

    at: tuple[int, ...] = ()
    every: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.at, default=0) < 0 or min(self.every, default=1) < 1:
            raise UserError(f"keep: at {list(self.at)} must be 0 or more, every {list(self.every)} 1 or more")

    def __contains__(self, iteration: int) -> bool:
        return iteration in self.at or any(iteration % step == 0 for step in self.every)

    def also(self, iteration: int) -> "Kept":
        return replace(self, at=(*self.at, iteration))
