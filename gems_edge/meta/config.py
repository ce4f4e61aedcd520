"""Everything that defines a training run, as one dataclass: the CLI's options, config.toml and --help derive from it."""

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError
from gems_edge.files import write_atomic
from gems_edge.models.spec import BACKBONES, HEADS, NORMALIZATIONS, ModelSpec

METHODS = ("maml", "anil", "boil")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "tf32", "bf16")
SCHEDULES = ("cosine", "constant")


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None, least: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "least": least})


@dataclass(frozen=True)
class TrainConfig:
    """A run, completely: the same config on the same machine gives the same weights."""

    data: str = _option("glyphs", "Images: a name (`gems-edge data list`), folder:PATH or packed:FILE.npz.")
    image_size: int = _option(0, "Pixels on a side; 0 takes the data's own.", least=0)
    channels: int = _option(0, "1 grey, 3 colour; 0 takes the data's own.", least=0)
    backbone: str = _option("conv4", "Network.", BACKBONES)
    widths: str = _option("full", "Channels: full, one number for the first layer, or one a convolution (32,32,48,64).")
    method: str = _option("maml", "What the inner loop adapts: everything, the head, the body.", METHODS)
    head: str = _option("shared", "shared: one learned row for any number of classes; per-class: one a way.", HEADS)
    normalization: str = _option("support", "Statistics for query images (see README).", NORMALIZATIONS)
    ways: int = _option(5, "Classes per episode.", least=2)
    shots: int = _option(1, "Support images per class.", least=1)
    queries: int = _option(15, "Query images per class.", least=1)
    rotate_classes: bool = _option(
        False, "Turn each training class by a random multiple of 90° (usual for Omniglot: 4 times the classes)."
    )
    steps: int = _option(5, "Inner steps.", least=1)
    inner_lr: float = _option(0.05, "Inner learning rate.", least=0)
    first_order: bool = _option(False, "Drop second-order terms of the meta-gradient.")
    iterations: int = _option(2000, "Outer steps.", least=0)
    meta_batch: int = _option(4, "Episodes per outer step.", least=1)
    lr: float = _option(0.001, "Outer learning rate (Adam).", least=0)
    schedule: str = _option("cosine", "Outer learning rate over the run.", SCHEDULES)
    clip: float = _option(10.0, "Largest norm of the meta-gradient; 0 does not clip.", least=0)
    seed: int = _option(0, "Seed of weights and episodes.", least=0)
    validate_every: int = _option(250, "Iterations between validations; the best weights are kept.", least=1)
    validation_episodes: int = _option(100, "Episodes per validation.", least=2)
    checkpoint_every: int = _option(100, "Iterations between checkpoints for --resume.", least=1)
    device: str = _option("auto", "Where to train.", DEVICES)
    precision: str = _option("fp32", "fp32; tf32 or bf16 (autocast) on GPUs that have them.", PRECISIONS)

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least, choices = getattr(self, item.name), item.metadata["least"], item.metadata["choices"]
            option = "--" + item.name.replace("_", "-")
            if choices and value not in choices:
                raise UserError(f"{option} is {value!r}; choose one of {', '.join(choices)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{option} is {value}; it must be a finite number")
            if least is not None and not value >= least:
                raise UserError(f"{option} is {value}; it must be {least} or more")
        if not self.inner_lr > 0 or not self.lr > 0:
            raise UserError("--inner-lr and --lr must be above 0")
        if self.method == "boil" and self.head == "shared":
            raise UserError("boil never moves the head, so a shared row scores every class alike; add --head per-class")

    def model_spec(self) -> ModelSpec:
        """The model of a resolved config (image size, channels and widths are known)."""
        widths = tuple(int(width) for width in self.widths.split(","))
        return ModelSpec(
            self.backbone, widths, self.image_size, self.channels, self.normalization, self.head, self.ways
        )


def read_config(path: Path | str) -> TrainConfig:
    """A config.toml; UserError for a missing file, bad TOML, unknown keys and wrong types."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a run directory?") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    return from_values(values, str(path))


def from_values(values: dict[str, Any], where: str) -> TrainConfig:
    known = {item.name: item for item in fields(TrainConfig)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown setting {name!r}; known are {', '.join(known)}")
        expected = type(known[name].default)
        if expected is float and type(value) is int:
            values = values | {name: float(value)}
        elif type(value) is not expected:
            raise UserError(f"{where}: {name} is {value!r}; it must be of type {expected.__name__}")
    return TrainConfig(**values)


def write_config(path: Path, config: TrainConfig) -> None:
    import tomli_w

    write_atomic(path, tomli_w.dumps(asdict(config)))
