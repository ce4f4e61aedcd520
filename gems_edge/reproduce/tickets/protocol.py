"""What `reproduce tickets` trains: KDD'22's setups (`paper`), small ones for two CPU cores, and a trial (`tiny`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gems_edge.data.shots import ONE_SHOT, Shots
from gems_edge.errors import UserError
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.reproduce.protocol import Preset, Setup

# The variant whose trainings all begin with the weights of this seed: tickets of one network (figures 6, 7, 14, 15).
ONE_START, START_SEED = "one-init", 1


@dataclass(frozen=True, kw_only=True)
class TicketSetup(Setup):
    """`config` is the dense run's."""

    data_name: str  # what --data NAME=SPEC gives
    ticket: TicketConfig  # what all its tickets share
    row: str  # the row of Tables 2 and 3 that it stands for
    looks: Kept  # iterations whose weights its dense runs keep, for figures 9 to 11


@dataclass(frozen=True, kw_only=True)
class TicketPreset(Preset):
    setups: tuple[TicketSetup, ...]
    ratios: tuple[float, ...]  # of the tables
    curve_ratios: tuple[float, ...]  # of the figures over ratios
    tickets: int  # of one network, figures 6, 7, 14, 15
    rewinds: tuple[int, ...]  # figure 5
    rounds: int  # iterative pruning, figure 1
    figures: tuple[int, ...] = ()  # that come beside the tables without being asked for
    controls: bool = False  # whether these do

    @property
    def not_repeated(self) -> tuple[str, ...]:
        return (ONE_START,)

    def of_backbone(self, backbone: str) -> tuple[TicketSetup, ...]:
        return tuple(setup for setup in self.setups if setup.config.backbone == backbone)


# Settings of KDD'22, Table 1, and of its section 3.1: transductive statistics, one head row per class.
_PAPER = TrainConfig(
    image_size=84, channels=3, head="per-class", normalization="transductive", shots=ONE_SHOT, inner_lr=0.01, steps=5,
    lr=0.001, schedule="constant", iterations=80_000, meta_batch=4, queries=15, validate_every=2000,
    validation_episodes=600, checkpoint_every=500,
)  # fmt: skip
_OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "MAML": {},
    "ANIL": {"method": "anil", "iterations": 200_000},
    "BOIL": {"method": "boil", "iterations": 200_000, "inner_lr": 1.0, "steps": 1},
}
_ROWS = (("MAML", "mini", 1), ("ANIL", "mini", 1), ("BOIL", "mini", 1), ("MAML", "tiered", 1), ("MAML", "mini", 5))


def _paper_setup(backbone: str, method: str, data: str, shots: int) -> TicketSetup:
    # Conv-4's checkpoints are small; ResNet-12's are kept often only where its mask moves.
    looks = Kept(every=(500,)) if backbone == "conv4" else Kept(tuple(range(500, 10_001, 500)), (5000,))
    return TicketSetup(
        f"{backbone}-{method.lower()}-{data}-{shots}shot",
        replace(_PAPER, backbone=backbone, shots=Shots.given(shots), **_OF_METHOD[method]),
        data_name=data, ticket=TicketConfig(interval=500), row=f"{method}/{data}/{shots}-shot", looks=looks,
    )  # fmt: skip


PAPER = TicketPreset(
    name="paper", about="The protocol of KDD'22, Table 1, with 84×84 images: for GPUs or a cluster.", data={},
    setups=tuple(_paper_setup(backbone, *row) for backbone in ("conv4", "resnet12") for row in _ROWS),
    ratios=(0.6, 0.8, 0.9), curve_ratios=(0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98), seeds=3, tickets=10,
    rewinds=(0, 500, 2000, 8000), rounds=7, episodes=600,
)  # fmt: skip

# Half as wide, a three-hundredth of the iterations, and a γ that is the same kind of share of them.
_SMALL = TrainConfig(
    widths=(32,), head="per-class", normalization="transductive", shots=ONE_SHOT, steps=2, inner_lr=0.2, lr=0.002,
    iterations=240, meta_batch=4, queries=5, validate_every=60, validation_episodes=60, checkpoint_every=60,
)  # fmt: skip
_SMALL_RESNET = replace(_SMALL, backbone="resnet12", widths=(8,), iterations=120)
_MAML_MINI: dict[str, Any] = {
    "row": "MAML/mini/1-shot", "ticket": TicketConfig(interval=6, queue=5, delta=0.98), "looks": Kept(every=(6,)),
}  # fmt: skip
_MAML_TIERED = _MAML_MINI | {"row": "MAML/tiered/1-shot"}

SMALL = TicketPreset(
    name="small", data={"omniglot": "omniglot"},
    about="Conv-4 of 32 channels (ResNet-12 of 8…64), 28×28 or 32×32 images, 240 iterations: two hours on two cores.",
    setups=(
        TicketSetup("omniglot", replace(_SMALL, rotate_classes=True), data_name="omniglot", **_MAML_MINI),
        TicketSetup("tinyimagenet32", replace(_SMALL, inner_lr=0.1), data_name="tinyimagenet32", **_MAML_TIERED),
        TicketSetup(
            "omniglot-resnet12", replace(_SMALL_RESNET, rotate_classes=True, inner_lr=0.1), data_name="omniglot",
            **_MAML_MINI,
        ),
    ),
    ratios=(0.6, 0.8, 0.9), curve_ratios=(0.4, 0.6, 0.8, 0.9, 0.95), seeds=3, tickets=4, rewinds=(0, 6, 24, 120),
    rounds=3, episodes=300,
)  # fmt: skip

# Meant to be trained to the end; the page says whether validation was flat over the last fifth. γ is as large a share
# of the run as the paper's.
_TRAINED = replace(
    _SMALL, steps=1, inner_lr=0.4, lr=0.003, iterations=1600, validate_every=80, validation_episodes=100,
    checkpoint_every=200,
)  # fmt: skip
_TRAINED_TICKET: dict[str, Any] = {"ticket": TicketConfig(interval=10, queue=5, delta=0.98), "looks": Kept(every=(40,))}

TRAINED = TicketPreset(
    name="trained", data={"omniglot": "omniglot"},
    about="Conv-4 of 32 channels, 28×28 or 32×32 images, 1,600 iterations, as many seeds as decide the claims: at most "
    "20 core hours.",
    setups=(
        TicketSetup(
            "omniglot", replace(_TRAINED, rotate_classes=True), data_name="omniglot", row="MAML/mini/1-shot",
            **_TRAINED_TICKET,
        ),
        TicketSetup(
            "tinyimagenet32", replace(_TRAINED, inner_lr=0.1), data_name="tinyimagenet32", row="MAML/tiered/1-shot",
            **_TRAINED_TICKET,
        ),
    ),
    ratios=(0.8, 0.9), curve_ratios=(0.8, 0.9), seeds=8, tickets=4, rewinds=(0, 800), rounds=3, episodes=600,
    figures=(1, 2, 5, 6, 7, 8, 9), controls=True, looks=(3, 5, 8), hours=20.0,
)  # fmt: skip

# glyphs alone, and little of it: every command of the paper's reproduction in minutes, to see that it works.
_TINY = replace(_SMALL, widths=(16,), iterations=40, validate_every=20, validation_episodes=10, checkpoint_every=20)
_TINY_RESNET = replace(_TINY, backbone="resnet12", widths=(4,))
_TINY_TICKET = _MAML_MINI | {"ticket": TicketConfig(interval=4, queue=5, delta=0.98), "looks": Kept(every=(4,))}
TINY = TicketPreset(
    name="tiny", about="Glyphs, 40 iterations: shows that everything runs; its figures mean nothing.",
    setups=(
        TicketSetup("glyphs", _TINY, data_name="glyphs", **_TINY_TICKET),
        TicketSetup("glyphs-resnet12", _TINY_RESNET, data_name="glyphs", **_TINY_TICKET),
    ),
    ratios=(0.6, 0.8), curve_ratios=(0.6, 0.8), seeds=1, tickets=2, rewinds=(0, 4), rounds=2, episodes=20,
    data={"glyphs": "glyphs"},
)  # fmt: skip

PRESETS = {preset.name: preset for preset in (TRAINED, SMALL, PAPER, TINY)}


def cut(preset: TicketPreset, seeds: int | None = None, ratios: Sequence[float] = ()) -> TicketPreset:
    """`preset` with other numbers of trainings, or other ratios in tables and figures; UserError for no such ratio."""
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise UserError(f"--ratio {ratio:g}: give the share of weights to remove, above 0 and below 1")
    if ratios:
        ratios = tuple(sorted(set(ratios)))
        preset = replace(preset, ratios=ratios, curve_ratios=ratios)
    return replace(preset, seeds=seeds, looks=(), tickets=seeds) if seeds else preset


def with_data(preset: TicketPreset, given: Mapping[str, str]) -> TicketPreset:
    """`preset` on the data that were given (name → specification); setups whose data are missing are left out.

    UserError for a name that the preset does not have, or if nothing is left.
    """
    names = list(dict.fromkeys(setup.data_name for setup in preset.setups))
    data = preset.given_data(given, names)
    setups = tuple(
        replace(setup, config=replace(setup.config, data=(data[setup.data_name],)))
        for setup in preset.setups
        if setup.data_name in data
    )
    if not setups:
        wanted = " or ".join(f"--data {name}=packed:FILE.npz" for name in names)
        raise UserError(f"the preset {preset.name} needs images: add {wanted} (or folder:PATH)")
    return replace(preset, setups=setups, data=data)
