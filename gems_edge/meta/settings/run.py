"""Everything that defines a training run, as one dataclass: options, config.toml and --help derive from it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from gems_edge.data import limits
from gems_edge.data.shots import Shots
from gems_edge.device.manifest import HEADS, NORMALIZATIONS
from gems_edge.errors import UserError
from gems_edge.meta.augment import AUGMENTATIONS, NONE
from gems_edge.meta.rules.registry import RULES, SHARES, Facts
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.base import check_settings, from_table, setting, to_table
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.stored import read_table, write_table
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.models.backbones.registry import BACKBONES, check_backbone
from gems_edge.models.network_file import COPY, FORM, NO_FILE, NetworkFile, stored_network_file
from gems_edge.models.pretrained import NO_PRETRAINED, RANDOM, Pretrained, check_init
from gems_edge.models.spec import METRICS, ModelSpec

COMPUTE = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "tf32", "bf16")
WHOLE = "all"
SCHEDULES = ("cosine", "constant")
AUTO = "auto"


@dataclass(frozen=True)
class TrainConfig:
    """A run, completely: the same config on the same machine gives the same weights."""

    data: tuple[str, ...] = setting(
        ("glyphs",), "Images: a name (`gems-edge data list`), folder:PATH or packed:FILE.npz; several with commas."
    )
    data_weights: tuple[float, ...] = setting(
        (), "Shares of several image sets in the meta-batches (2,1); none: alike."
    )
    skip_bad: bool = setting(
        False, "Leave out images of folders and packed files that cannot be read, each named, instead of refusing."
    )
    image_size: int = setting(0, "Pixels on a side; 0 takes the data's own.", least=0)
    channels: int = setting(0, "1 grey, 3 colour; 0 takes the data's own.", least=0)
    backbone: str = setting(
        "conv4", f"Network: {', '.join(BACKBONES)}, or a function in a file of yours, {FORM} (docs/networks.md)."
    )
    widths: tuple[int, ...] = setting(
        (),
        "Channels: full, one number for the first layer, or one per group of channels (32,32,48,64).",
        least=1,
        most=16_384,
        empty="full",
    )
    width_multiplier: float = setting(
        1.0, "Of a network's full widths, as its authors scale them (0.35).", least=0, most=16
    )
    init: str = setting(
        RANDOM,
        "Weights to start from: random, pretrained, or a .safetensors or .pth file; other defaults then change "
        "(docs/pretrained.md).",
    )
    method: str = setting("maml", "What the inner loop adapts (see docs/training.md).", tuple(RULES))
    head: str = setting(
        "shared",
        "shared: one learned row for any number of classes; per-class: one per way; prototype: means of its photos.",
        HEADS,
    )
    metric: str = setting("cosine", "prototype: what features are compared by.", METRICS)
    learn_from: str = setting(
        "",
        "Layer or block to learn from (blocks.3), or how many blocks learn; what lies below stays as it is and is "
        f"computed once per image. {WHOLE}: the whole network learns.",
        empty="default",
    )
    normalization: str = setting(
        AUTO, "Statistics for query images (docs/training.md); auto: frozen with --init, else support.",
        (AUTO, *NORMALIZATIONS),
    )  # fmt: skip
    ways: int = setting(5, "Classes per episode.", least=2, most=limits.CLASSES)
    train_ways: int = setting(
        0,
        "Classes per training episode, or as many as there are; 0: as --ways. Validation and test keep --ways.",
        least=0,
        most=1_000_000,
    )
    shots: Shots = setting(Shots(1, 5), "Support images per class: a number, or a range that episodes draw from (1-5).")
    queries: int = setting(15, "Query images per class.", least=1, most=limits.PER_CLASS)
    rotate_classes: bool = setting(
        False, "Turn each training class by a random multiple of 90° (usual for Omniglot: 4 times the classes)."
    )
    augment: str = setting(
        NONE,
        "Change training images, for training alone. light: crops of 80 % and more, slight changes of colour; strong: "
        "crops of half and more, more colour, mirrored images (not for characters and signs).",
        AUGMENTATIONS,
    )
    views: int = setting(
        4,
        "--augment with --learn-from: so many views of each training image are kept as features, the first of which is "
        "the image itself.",
        least=1,
        most=1000,
    )
    steps: int = setting(
        5, "Inner steps; 0 with --head prototype alone: class means as they are.", least=0, most=limits.STEPS
    )
    inner_lr: float = setting(0.05, "Inner learning rate.", least=0)
    head_lr: float = setting(0.0, "Inner learning rate of the head's rows; 0 takes --inner-lr.", least=0)
    first_order: bool = setting(False, "Drop second-order terms of the meta-gradient.")
    iterations: int = setting(2000, "Outer steps.", least=0, most=limits.ITERATIONS)
    meta_batch: int = setting(4, "Episodes per outer step.", least=1, most=10_000)
    lr: float = setting(0.001, "Outer learning rate (Adam).", least=0)
    schedule: str = setting("cosine", "Outer learning rate over the run.", SCHEDULES)
    clip: float = setting(10.0, "Largest norm of the meta-gradient; 0 does not clip.", least=0)
    keep_features: float = setting(
        0.0,
        "Hold what the head reads of an image to what it read at the start of training: so much of the mean squared "
        "distance is added to the loss (2). Other kinds of images are forgotten less. 0 leaves it free.",
        least=0,
    )
    keep_general: float = setting(
        0.0,
        "Draw the trained weights back towards those that training started from, as far as this part of the gain on "
        "validation classes is kept (0.85): they forget less of other kinds of images. 0 leaves them as trained.",
        least=0,
    )
    seed: int = setting(0, "Seed of weights and episodes.", least=0)
    init_seed: int = setting(-1, "Seed of the initial weights alone; -1 takes --seed.", least=-1)
    validate_every: int = setting(250, "Iterations between validations; the best weights are kept.", least=1)
    validation_episodes: int = setting(100, "Episodes per validation.", least=2, most=limits.EPISODES)
    checkpoint_every: int = setting(100, "Iterations between checkpoints for --resume.", least=1)
    keep: Kept = setting(
        Kept(), "Iterations whose weights are kept: numbers and every:N, with commas (500,every:1000)."
    )
    compute: str = setting("auto", "Where torch runs; auto takes a GPU where there is one.", COMPUTE)
    precision: str = setting("fp32", "fp32; tf32 or bf16 (autocast) on GPUs that have them.", PRECISIONS)

    ticket: TicketConfig = field(default=TicketConfig())
    adapter: AdapterConfig = field(default=AdapterConfig())
    backbone_file: NetworkFile = field(default=NO_FILE)
    pretrained: Pretrained = field(default=NO_PRETRAINED)  # of a resolved config

    def __post_init__(self) -> None:
        check_settings(self)
        check_backbone(self.backbone)
        check_init(self.init)
        if not self.data:
            raise UserError("data is empty; name the images to train on, such as glyphs")
        if self.normalization == AUTO:
            object.__setattr__(self, "normalization", normalization_of(self.init))
        if not self.inner_lr > 0 or not self.lr > 0:
            raise UserError("--inner-lr and --lr must be above 0")
        if not self.width_multiplier > 0 or (self.widths and self.width_multiplier != 1):
            raise UserError("--width-multiplier must be above 0, and stands alone: leave --widths out")
        if self.keep_general > 1:
            raise UserError(f"--keep-general is {self.keep_general}; it is a part of the gain, from 0 to 1")
        if self.train_ways == 1 or (self.head == "per-class" and self.train_ways > self.ways):
            raise UserError(
                f"--train-ways {self.train_ways}: an episode has 2 classes or more, and a per-class head --ways rows"
            )
        if self.splits and self.rotate_classes:
            raise UserError(
                f"--learn-from {self.learn_from} with --rotate-classes: features of turned images are not kept; leave "
                "one of the two out"
            )
        if self.augment == NONE and self.views != TrainConfig.views:
            raise UserError(f"--views {self.views} belongs to --augment light or strong; add one, or leave it out")
        if self.augment != NONE and self.splits and self.views == 1:
            raise UserError(
                f"--augment {self.augment} with --views 1: the one view is the image itself; take 2 or more views"
            )
        if not self.dense and not self.rule.takes_tickets:
            raise UserError(f"--ticket with {self.method}: find a ticket of each distribution's own maml run instead")
        if self.data_weights and self.rule.one_model_each:
            raise UserError(
                f"--data-weights with {self.method}: every distribution has a model of its own; leave it out"
            )
        if self.head == "shared" and self.rule.needs_own_rows:
            raise UserError(
                f"{self.method} never moves the head, so a shared row scores every class alike; "
                "add --head per-class or prototype"
            )
        if self.steps == 0 and self.head != "prototype":
            raise UserError(
                f"--steps 0: a {self.head} head knows nothing of a task before its first step; "
                "take 1 or more, or --head prototype"
            )

    @property
    def rule(self) -> Facts:
        """What the method decides and needs."""
        return RULES[self.method]

    @property
    def training_ways(self) -> int:
        """Classes per training episode."""
        return self.train_ways or self.ways

    @property
    def splits(self) -> bool:
        """Whether a part of the network stays as it is."""
        return self.learn_from not in ("", WHOLE)

    @property
    def dense(self) -> bool:
        """Whether the whole network is trained: no ticket is."""
        return self.ticket.method == "none"

    def remark(self) -> str:
        """What the user should know of these settings before training; "" if there is nothing."""
        if self.rule.chooses == SHARES and self.head == "shared" and not self.adapter.sparsity:
            return (
                f"{self.method} chooses at the first step, where only the head of --head shared has a gradient: "
                "it will choose alike for every task; --head per-class or prototype lets it see them"
            )
        return ""

    @property
    def widths_text(self) -> str:
        """The widths as on the command line."""
        return ",".join(map(str, self.widths)) or "full"

    def model_spec(self) -> ModelSpec:
        """The model of a resolved config (image size, channels and widths are known)."""
        return ModelSpec(
            self.backbone, self.widths, self.image_size, self.channels, self.normalization, self.head, self.ways,
            self.backbone_file, metric=self.metric, pixels=self.pretrained.pixels,
            learn_from=self.learn_from if self.splits else "",
        )  # fmt: skip


def normalization_of(init: str) -> str:
    """The mode that `auto` stands for."""
    return "support" if init == RANDOM else "frozen"


def read_config(path: Path | str) -> TrainConfig:
    """A config.toml, with the network's file beside it where there is one.

    UserError for a missing file, bad TOML, unknown keys and wrong types, and a network's file that is another one.
    """
    path = Path(path)
    try:
        values = read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a run directory?") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path} is no file; name the config.toml of a run") from None
    config = from_table(TrainConfig, values, str(path))
    if not (sha256 := config.backbone_file.sha256):
        return config
    return replace(config, backbone_file=stored_network_file(path.parent, sha256))


def write_config(path: Path, config: TrainConfig) -> None:
    """`path` and, of a network in a file, the copy beside it, which is there first."""
    write_table(path, to_table(config), {COPY: config.backbone_file.source} if config.backbone_file.source else {})
