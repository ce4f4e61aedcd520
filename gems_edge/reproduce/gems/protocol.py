"""What `reproduce gems` trains: the paper's mixtures (`paper`), ones for two CPU cores (`small`), the same questions on
a pretrained network (`pretrained`), a trial (`tiny`).

Every number that a training depends on stands here. The paper's supplement with its settings is not available; what it
leaves open is our decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gems_edge.data.shots import ONE_SHOT
from gems_edge.data.specs import distribution_name
from gems_edge.errors import UserError
from gems_edge.meta.settings.pretrained import default_config
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.pretrained import PRETRAINED, RANDOM
from gems_edge.reproduce.protocol import Preset, Setup

MULTI = "multi-maml"
PROTOTYPES = "prototypes"  # class means alone: no method moves anything in a task
# The rows of Tables 1 and 2; ANIL, BOIL and BMP with a rate for each layer are ours.
METHODS = ("maml", MULTI, "bmp", "mmsup", "anil", "boil", "bmp-rates")
TABLES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class GemsPreset(Preset):
    config: TrainConfig  # of every cell, but for data, method, seed and what a table varies
    mixtures: tuple[tuple[str, ...], ...]  # distributions that are trained together; Tables 3 to 5 vary the first
    held_out: tuple[str, ...]  # distributions that are only tested
    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # Table 3
    depth_sparsity: float = 0.9  # Table 4: of the one sparse layer
    steps: tuple[int, ...] = (1, 2, 3, 4, 5)  # Table 5
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # → settings that differ from `config`
    rows: tuple[str, ...] = METHODS  # of Tables 1 and 2
    tables: tuple[int, ...] = TABLES  # that it can give
    plain: tuple[int, ...] = (1, 2)  # that it gives where none is asked for
    any_data: bool = False  # the user's sets may have any names

    @property
    def distributions(self) -> tuple[str, ...]:
        """All that are trained or tested, each once."""
        return tuple(dict.fromkeys(name for names in (*self.mixtures, self.held_out) for name in names))

    @property
    def pretrained(self) -> bool:
        """Whether trainings start from a pretrained network: the paper has no such figures, and without any training
        there is an accuracy to beat."""
        return self.config.init != RANDOM

    @property
    def shots(self) -> tuple[int, ...]:
        """Support images a class that every training is tested with."""
        return tuple(end.most for end in self.config.shots.ends)

    def setup(self, sets: tuple[str, ...]) -> Setup:
        """The training on `sets` together."""
        data = tuple(self.data[name] for name in sets)
        return Setup("+".join(sets), replace(self.config, data=data), sets)

    @property
    def setups(self) -> list[Setup]:
        return [self.setup(sets) for sets in self.mixtures]

    def unseen(self, sets: Sequence[str]) -> tuple[str, ...]:
        """What a training on `sets` is tested on besides: what no training has seen, or else the other sets."""
        return self.held_out or tuple(name for name in self.distributions if name not in sets)


_SMALL = TrainConfig(
    image_size=28, channels=3, widths=(32,), head="per-class", normalization="transductive", shots=ONE_SHOT, steps=2,
    inner_lr=0.3, lr=0.004, iterations=200, meta_batch=4, queries=5, validate_every=100, validation_episodes=40,
    checkpoint_every=100,
)  # fmt: skip

SMALL = GemsPreset(
    name="small", config=_SMALL,
    about="Conv-4 of 32 channels, 28×28 colour images, 200 iterations: hours on two CPU cores.",
    mixtures=(("grocery", "omniglot"), ("grocery", "omniglot", "gtsrb", "caltech101")), held_out=("tinyimagenet32",),
    seeds=3, episodes=600, methods={"boil": {"inner_lr": 0.5}}, data={"omniglot": "omniglot"},
)  # fmt: skip

# As many seeds as decide the claims; the page says whether validation was flat over the last fifth.
TRAINED = GemsPreset(
    name="trained",
    config=replace(
        _SMALL, image_size=32, lr=0.003, iterations=1200, validate_every=60, validation_episodes=100,
        checkpoint_every=200,
    ),
    about="Conv-4 of 32 channels, 32×32 colour images, 1,200 iterations, as many seeds as decide the claims: at most "
    "20 core hours.",
    mixtures=(
        ("grocery", "omniglot"), ("grocery", "omniglot", "gtsrb"), ("grocery", "omniglot", "gtsrb", "caltech101"),
    ),
    held_out=("tinyimagenet32",), seeds=8, episodes=600, data={"omniglot": "omniglot"}, looks=(3, 5, 8), hours=20.0,
    rows=("maml", MULTI, "bmp", "mmsup", "anil", "bmp-on", "rates-on"), sparsities=(0.3, 0.9), steps=(1, 2, 5),
    plain=(1, 2, 3, 5),
)  # fmt: skip

# Our decision: 60,000 iterations as MAML's own experiments, else as in KDD'22 (Table 1); BOIL's rate is from its code.
_PAPER = TrainConfig(
    image_size=84, channels=3, head="per-class", normalization="transductive", shots=ONE_SHOT, steps=5, inner_lr=0.01,
    lr=0.001, schedule="constant", iterations=60_000, meta_batch=4, queries=15, validate_every=2000,
    validation_episodes=600, checkpoint_every=500,
)  # fmt: skip

PAPER = GemsPreset(
    name="paper", config=_PAPER,
    about="The paper's sets at 84×84 and Conv-4 of 64 channels, 60,000 iterations: for GPUs or a cluster.",
    mixtures=(
        ("cub200", "vgg102"), ("cub200", "fungi"), ("cub200", "vgg102", "fungi"),
        ("cub200", "vgg102", "fungi", "aircraft"),
    ),
    held_out=(), seeds=3, episodes=600, methods={"boil": {"inner_lr": 0.5, "steps": 1}}, data={},
)  # fmt: skip

_TOGETHER = ("grocery", "gtsrb", "caltech101")

# What `train --init pretrained --method METHOD` takes by itself, but for what two CPU cores have no time for.
_PRETRAINED = replace(
    default_config({"init": PRETRAINED, "backbone": "efficientnet-lite0", "data": _TOGETHER, "method": "maml"}),
    iterations=120, validate_every=60, validation_episodes=30, checkpoint_every=60,
)  # fmt: skip

ON_PRETRAINED = GemsPreset(
    name="pretrained", config=_PRETRAINED,
    about="EfficientNet-Lite0 from ImageNet's weights, 128×128 images, only its upper layers learn: hours on two CPU "
    "cores.",
    mixtures=(_TOGETHER,), held_out=("tinyimagenet32",), seeds=3, episodes=200, data={},
    rows=(PROTOTYPES, "maml", "anil", "bmp", "mmsup"), tables=(1, 2),
)  # fmt: skip

# Little of everything, on whatever sets there are: to see that it runs.
_TINY = replace(
    _SMALL, channels=1, widths=(8,), iterations=12, meta_batch=2, queries=3, validate_every=12, validation_episodes=4,
    checkpoint_every=12,
)  # fmt: skip

TINY = GemsPreset(
    name="tiny", about="Two sets, 12 iterations: shows that everything runs; its figures mean nothing.", config=_TINY,
    mixtures=(), held_out=(), seeds=1, episodes=8, sparsities=(0.5, 0.9), steps=(1, 2), data={"glyphs": "glyphs"},
    any_data=True,
)  # fmt: skip

PRESETS = {preset.name: preset for preset in (TRAINED, SMALL, PAPER, ON_PRETRAINED, TINY)}


def with_data(preset: GemsPreset, given: Mapping[str, str], root: Path | None = None) -> GemsPreset:
    """`preset` on the data that were given (distribution → specification) or lie in `root` (see `in_root`).

    What is not there is left out: mixtures that lack a set, and sets that would only be tested. UserError for a name
    that the preset does not have, or if no mixture is left.
    """
    if root is not None and not root.is_dir():
        raise UserError(f"--data-root {root} is not a directory")
    stored = {name: spec for name in preset.distributions if (spec := in_root(name, root))}
    if preset.any_data:  # the first two train together, the others are unseen
        names = tuple({**preset.data, **given})
        preset = replace(preset, mixtures=(names[:2],), held_out=names[2:])
    data = preset.given_data({**stored, **given}, preset.distributions)
    mixtures = tuple(sets for sets in preset.mixtures if len(sets) > 1 and all(name in data for name in sets))
    if not mixtures:
        missing = [name for name in preset.mixtures[0] if name not in data] or ["NAME"]
        wanted = " ".join(f"--data {name}=packed:FILE.npz" for name in missing)
        raise UserError(f"the preset {preset.name} needs two sets of images or more: add {wanted} (or folder:PATH)")
    trained = {name for sets in mixtures for name in sets}
    held_out = tuple(name for name in preset.distributions if name in data and name not in trained)
    preset = replace(preset, mixtures=mixtures, held_out=held_out)
    return replace(preset, data=_checked({name: data[name] for name in preset.distributions}))


def cut(preset: GemsPreset, seeds: int | None, iterations: int | None, episodes: int | None) -> GemsPreset:
    """`preset` with as many seeds, iterations and test episodes as were asked for."""
    config = replace(preset.config, iterations=iterations or preset.config.iterations)
    looks = () if seeds else preset.looks
    episodes, seeds = episodes or preset.episodes, seeds or preset.seeds
    return replace(preset, config=config, seeds=seeds, looks=looks, episodes=episodes)


def _checked(data: dict[str, str]) -> dict[str, str]:
    """UserError for sets that a run could not tell apart (it knows them by file or folder), for names that are no name
    of a directory, and for commas in paths."""
    seen: dict[str, str] = {}
    for name, spec in data.items():
        if "/" in name or name in (".", ".."):
            raise UserError(f"--data {name}={spec}: {name} cannot name a directory; choose another name")
        if "," in spec:
            raise UserError(f"--data {name}={spec}: a path of several sets must have no comma; rename or link it")
        if (other := seen.setdefault(distribution_name(spec), name)) != name:
            raise UserError(f"--data {other} and {name} are both called {distribution_name(spec)}; rename or link one")
    return data


def in_root(name: str, root: Path | None) -> str:
    """The specification of root/NAME.npz or the folder root/NAME; "" where there is neither."""
    if root is None:
        return ""
    packed, folder = root / f"{name}.npz", root / name
    return f"packed:{packed}" if packed.is_file() else f"folder:{folder}" if folder.is_dir() else ""
