"""What a reproduction trains: setups and presets, and the trials that a paper's tables and figures ask for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gems_edge.data.specs import absolute
from gems_edge.errors import UserError
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.reproduce.pooling import ALPHA, Noise

# Seed of the test episodes, the same for every network.
TEST_SEED = 1
# The run's directory in that of its cell.
RUN = "run"
# What a row is known by: setup, method, ratio, variant.
Key = tuple[str, str, float, str]


@dataclass(frozen=True)
class Setup:
    """One training recipe, which the methods of a table have in common."""

    name: str  # also the directory of its cells
    config: TrainConfig  # of its plain trainings, apart from the seed
    sets: tuple[str, ...] = ("",)  # the distributions that it is trained on; one alone needs no name

    @property
    def label(self) -> str:
        return " + ".join(self.sets) or self.name

    @property
    def mode(self) -> str:
        """The normalisation mode that it is trained in; headline accuracies are of this mode."""
        return self.config.normalization


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much of a paper is trained, and on what; each paper adds its own."""

    name: str
    about: str
    seeds: int  # trainings of each row
    episodes: int  # test episodes of a training
    data: Mapping[str, str]  # name → specification; at first only of those that need no --data
    looks: tuple[int, ...] = ()  # numbers of seeds after which verdicts are read, the last as `seeds`; (): only then
    margin: float = 0.02  # how far from its bound a difference is to be decided (a share)
    noise: Noise = Noise(0.015, 0.05)  # of differences, assumed before the first trainings are done
    hours: float = 0.0  # core hours that it may take; 0: all that it needs

    @property
    def readings(self) -> tuple[int, ...]:
        return self.looks or (self.seeds,)

    @property
    def alpha(self) -> float:
        """Of a single reading's intervals: all readings of a claim together are wrong at most as often as ALPHA."""
        return ALPHA / len(self.readings)

    @property
    def not_repeated(self) -> tuple[str, ...]:
        """Variants whose seeds are no repetitions, so that all are trained at once."""
        return ()

    def given_data(self, given: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
        """The preset's data and those given by the user; UserError for a name that is not among `names`."""
        for name in given:
            if name not in names:
                raise UserError(f"--data {name}=…: the preset {self.name} has {', '.join(names)}")
        return {name: absolute(spec) for name, spec in {**self.data, **given}.items()}


S = TypeVar("S", bound=Setup)


@dataclass(frozen=True)
class Trial(Generic[S]):
    """A row of a table or figure with one seed; but for Multi-MAML's it is a cell of the grid."""

    setup: S
    method: str
    seed: int
    ratio: float = 0.0  # share of the weights that its ticket removes
    variant: str = ""  # tells settings apart that the method does not
    settings: tuple[tuple[str, Any], ...] = ()  # apart from the setup's

    @property
    def key(self) -> Key:
        """Of the row that it belongs to."""
        return self.setup.name, self.method, self.ratio, self.variant

    @property
    def name(self) -> str:
        """The name of its cell: "omniglot/mwt-0.8-s1"."""
        parts = (self.method, f"{self.ratio:g}" if self.ratio else "", self.variant, f"s{self.seed}")
        return f"{self.setup.name}/{'-'.join(filter(None, parts))}"
