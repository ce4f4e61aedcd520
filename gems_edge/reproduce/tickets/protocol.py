"""What `reproduce tickets` trains: the KDD'22 setups in full (`paper`), and small ones that two CPU cores do in two hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gems_edge.data.specs import absolute
from gems_edge.errors import UserError
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.settings.ticket import TicketConfig

# Tickets of one network from several seeds (figures 6, 7, 14, 15) share the initial weights of this seed.
SHARED_INIT = 1


@dataclass(frozen=True)
class Setup:
    """One training recipe of a table's row: `config` is the dense run's, `ticket` what all its tickets share."""

    name: str
    data: str  # key of the data: what --data NAME=SPEC gives
    config: TrainConfig
    ticket: TicketConfig
    row: str = ""  # the row of Tables 2 and 3 that it stands for
    looks: Kept = Kept()  # iterations whose weights its dense runs keep, for figures 9 to 11


@dataclass(frozen=True)
class Preset:
    name: str
    setups: tuple[Setup, ...]
    ratios: tuple[float, ...]  # of the tables
    curve_ratios: tuple[float, ...]  # of the figures over ratios
    seeds: int
    tickets: int  # of one network, figures 6, 7, 14, 15
    rewinds: tuple[int, ...]  # figure 5
    rounds: int  # iterative pruning, figure 1
    episodes: int  # test episodes a cell
    data: Mapping[str, str] = field(default_factory=dict)  # key → specification where the user gives none
    about: str = ""

    def of_backbone(self, backbone: str) -> tuple[Setup, ...]:
        return tuple(setup for setup in self.setups if setup.config.backbone == backbone)


# Settings of KDD'22, Table 1, and of its section 3.1: transductive statistics, one head row per class.
_PAPER = TrainConfig(
    image_size=84, channels=3, head="per-class", normalization="transductive", inner_lr=0.01, steps=5, lr=0.001,
    schedule="constant", iterations=80_000, meta_batch=4, queries=15, validate_every=2000, validation_episodes=600,
    checkpoint_every=500,
)  # fmt: skip
_METHODS = {
    "MAML": {},
    "ANIL": {"method": "anil", "iterations": 200_000},
    "BOIL": {"method": "boil", "iterations": 200_000, "inner_lr": 1.0, "steps": 1},
}
_ROWS = (("MAML", "mini", 1), ("ANIL", "mini", 1), ("BOIL", "mini", 1), ("MAML", "tiered", 1), ("MAML", "mini", 5))


def _paper_setups() -> tuple[Setup, ...]:
    setups = []
    for backbone in ("conv4", "resnet12"):
        for method, data, shots in _ROWS:
            config = replace(_PAPER, backbone=backbone, shots=shots, **_METHODS[method])
            # Conv-4's checkpoints are small; ResNet-12's are kept often only where its mask moves.
            looks = Kept(every=(500,)) if backbone == "conv4" else Kept(tuple(range(500, 10_001, 500)), (5000,))
            name = f"{backbone}-{method.lower()}-{data}-{shots}shot"
            setups.append(Setup(name, data, config, TicketConfig(interval=500), f"{method}/{data}/{shots}-shot", looks))
    return tuple(setups)


PAPER = Preset(
    "paper", _paper_setups(), (0.6, 0.8, 0.9), (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98), seeds=3, tickets=10,
    rewinds=(0, 500, 2000, 8000), rounds=7, episodes=600,
    about="The protocol of KDD'22, Table 1, with 84×84 images: for GPUs or a cluster.",
)  # fmt: skip

# Half as wide, a three-hundredth of the iterations, and a γ that is the same kind of share of them.
_SMALL = TrainConfig(
    widths=(32,), head="per-class", normalization="transductive", steps=2, inner_lr=0.2, lr=0.002, iterations=240,
    meta_batch=4, queries=5, validate_every=60, validation_episodes=60, checkpoint_every=60,
)  # fmt: skip
_SMALL_TICKET = TicketConfig(interval=6, queue=5, delta=0.98)
_SMALL_RESNET = replace(
    _SMALL, backbone="resnet12", widths=(8,), iterations=120, validate_every=60, checkpoint_every=60
)

SMALL = Preset(
    "small",
    (
        Setup("omniglot", "omniglot", replace(_SMALL, rotate_classes=True), _SMALL_TICKET, "MAML/mini/1-shot", Kept(every=(6,))),
        Setup("tinyimagenet32", "tinyimagenet32", replace(_SMALL, inner_lr=0.1), _SMALL_TICKET, "MAML/tiered/1-shot", Kept(every=(6,))),
        Setup(
            "omniglot-resnet12", "omniglot", replace(_SMALL_RESNET, rotate_classes=True, inner_lr=0.1), _SMALL_TICKET,
            "MAML/mini/1-shot", Kept(every=(6,)),
        ),
    ),
    (0.6, 0.8, 0.9), (0.4, 0.6, 0.8, 0.9, 0.95), seeds=3, tickets=4, rewinds=(0, 6, 24, 120), rounds=3, episodes=300,
    data={"omniglot": "omniglot"},
    about="Conv-4 of 32 channels (ResNet-12 of 8…64), 28×28 or 32×32 images, 240 iterations: two hours on two CPU cores.",
)  # fmt: skip

# glyphs alone, and little of it: every command of the paper's reproduction in minutes, to see that it works.
_TINY = replace(_SMALL, widths=(16,), iterations=40, validate_every=20, validation_episodes=10, checkpoint_every=20)
TINY = Preset(
    "tiny",
    (
        Setup("glyphs", "glyphs", _TINY, replace(_SMALL_TICKET, interval=4), "MAML/mini/1-shot", Kept(every=(4,))),
        Setup(
            "glyphs-resnet12", "glyphs", replace(_TINY, backbone="resnet12", widths=(4,)), replace(_SMALL_TICKET, interval=4),
            "MAML/mini/1-shot", Kept(every=(4,)),
        ),
    ),
    (0.6, 0.8), (0.6, 0.8), seeds=1, tickets=2, rewinds=(0, 4), rounds=2, episodes=20, data={"glyphs": "glyphs"},
    about="Glyphs, 40 iterations: shows that everything runs; its figures mean nothing.",
)  # fmt: skip

PRESETS = {preset.name: preset for preset in (SMALL, PAPER, TINY)}


def cut(preset: Preset, seeds: int | None = None, ratios: Sequence[float] = ()) -> Preset:
    """`preset` with other numbers of trainings, or other ratios of its tables and figures; UserError for a ratio that is none."""
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise UserError(f"--ratio {ratio:g}: give the share of weights to remove, above 0 and below 1")
    if ratios:
        ratios = tuple(sorted(set(ratios)))
        preset = replace(preset, ratios=ratios, curve_ratios=ratios)
    return replace(preset, seeds=seeds, tickets=seeds) if seeds else preset


def with_data(preset: Preset, given: Mapping[str, str]) -> Preset:
    """`preset` on the data that were given (key → specification); setups whose data are missing are left out.

    UserError for a key that the preset does not have, or if nothing is left.
    """
    keys = list(dict.fromkeys(setup.data for setup in preset.setups))
    for key in given:
        if key not in keys:
            raise UserError(f"--data {key}=…: the preset {preset.name} has {', '.join(keys)}")
    data = {key: absolute(spec) for key, spec in {**preset.data, **given}.items()}
    setups = tuple(
        replace(setup, config=replace(setup.config, data=(data[setup.data],)))
        for setup in preset.setups
        if setup.data in data
    )
    if not setups:
        wanted = " or ".join(f"--data {key}=packed:FILE.npz" for key in keys)
        raise UserError(f"the preset {preset.name} needs images: add {wanted} (or folder:PATH)")
    return replace(preset, setups=setups)
