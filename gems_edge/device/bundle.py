"""Reading a bundle: every byte is checked against the manifest before anything of it runs."""

import dataclasses
import hashlib
import math
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from gems_edge.device.int8 import INT8_FILE, Layer, Quantisation
from gems_edge.errors import UserError
from gems_edge.files import read_json, sha256_bytes

FORMAT = "gems-edge-bundle"
# Version 2: adapt.onnx hands tensors from step to step (tensors.carried). Version 3: adapt.onnx is fed with what
# trunk.onnx makes of the images (trunk). Version 4: adapt.onnx makes the head's rows of the support set (prototype).
# A bundle has the least version that says all it needs.
PLAIN_VERSION, CARRYING_VERSION, SPLIT_VERSION, PROTOTYPE_VERSION = 1, 2, 3, 4
FORMAT_VERSION = PROTOTYPE_VERSION
WEIGHTS_FILE = "weights.safetensors"
FILES = ("predict.onnx", "adapt.onnx", WEIGHTS_FILE)
TRUNK_FILE = "trunk.onnx"
IMAGES, FEATURES = "images", "features"  # what a gradient step is fed: without a trunk, and with one
# What memory is predicted from, beside cost.memory.
COSTS = (
    "predict.macs",
    "predict.constant_bytes",
    "adapt_step.macs",
    "adapt_step.constant_bytes",
    "adapt_step.dims.images",
    "memory.image_bytes",
    "memory.predict.nodes",
    "memory.adapt.nodes",
)
# And where there is a trunk.
TRUNK_COSTS = ("trunk.macs", "trunk.constant_bytes", "trunk.peak_bytes", "memory.feature_bytes", "memory.trunk.nodes")
HEAD = ("head.weight", "head.bias")
HEADS = ("per-class", "shared", "prototype")
FIRST = "first"  # of a prototype head, an input of adapt.onnx: above 0 where it makes the rows, before the first step


@dataclass(frozen=True)
class Trunk:
    """The layers that no step moves, as a graph of their own: trunk.onnx, images [N, C, S, S] → features."""

    cut: str  # the path of the lowest layer, or block, above it
    features: tuple[int, ...]  # the shape of one image's: [c, h, w] of maps, [F] of the whole body
    peak_bytes: int  # activations of one image


@dataclass(frozen=True)
class Bundle:
    """What the board needs to know of a bundle. Its tensors, the meta-learned start values, stay in their file until
    they are asked for: a board has no memory to hold them beside those that it teaches."""

    path: Path
    hash: str  # SHA-256 of manifest.json, which holds the hashes of the other files
    name: str
    ways: int
    shots: int  # the most photos of a class that it was trained with: what its memory and times are given for …
    least_shots: int  # … and the least
    head: str  # of HEADS
    image_size: int
    channels: int
    inverted: bool  # photos must be inverted on reading: the data was light on dark
    normalization: str  # transductive | support | group | frozen
    steps: int  # the most that `steps_for` answers
    predict_peak_bytes: int  # activations of one image in predict.onnx
    adapted: tuple[str, ...]
    statistics: tuple[str, ...]
    carried: tuple[str, ...]  # what a step hands to the next beside the weights; forgotten after the last
    head_start: dict[str, np.ndarray]  # the head's tensors
    manifest: dict[str, Any]
    quantisation: Quantisation | None = None  # of predict.int8.onnx; None: there is none
    trunk: Trunk | None = None  # None: a step runs the whole network
    steps_by_shots: tuple[tuple[int, int], ...] = ()  # photos of each class → steps; (): `steps` for any number

    @property
    def step_input(self) -> str:
        """What a gradient step is fed of the support set: "images", or "features" where there is a trunk."""
        return IMAGES if self.trunk is None else FEATURES

    def tensors(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """These tensors, float32, in arrays of their own; the file is checked against the manifest once more."""
        with open(self.path / WEIGHTS_FILE, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != self.manifest["files"][WEIGHTS_FILE]["sha256"]:
                raise UserError(_altered(self.path, WEIGHTS_FILE))
        with safetensors.safe_open(self.path / WEIGHTS_FILE, "numpy") as stored:
            return {name: np.require(stored.get_tensor(name), requirements="W") for name in names}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All tensors."""
        with safetensors.safe_open(self.path / WEIGHTS_FILE, "numpy") as stored:
            return self.tensors(stored.keys())

    def model(self, file: str) -> bytes:
        """The bytes of `file`, checked against the manifest once more."""
        content = (self.path / file).read_bytes()
        if sha256_bytes(content) != self.manifest["files"][file]["sha256"]:
            raise UserError(_altered(self.path, file))
        return content

    @property
    def makes_rows(self) -> bool:
        """Whether adapt.onnx makes the head's rows of the support set."""
        return self.head == "prototype"

    @property
    def takes_steps(self) -> bool:
        """Whether adapt.onnx has a gradient step; a prototype head may do without."""
        return bool(self.adapted)

    @property
    def learned(self) -> tuple[str, ...]:
        """The tensors that teaching changes, without statistics."""
        return (*self.adapted, *(name for name in HEAD if self.makes_rows and name not in self.adapted))

    @property
    def start_outputs(self) -> tuple[str, ...]:
        """What adapt.onnx gives of the weights before a step: the loss, a prototype head's rows, statistics."""
        return ("loss", *(f"start.{name}" for name in HEAD if self.makes_rows), *self.statistics)

    @property
    def step_outputs(self) -> tuple[str, ...]:
        """All that adapt.onnx gives: beside `start_outputs` the weights after the step and the next step's carried
        tensors."""
        updated = (f"updated.{name}" for name in self.adapted)
        return (*self.start_outputs, *updated, *(f"next.{name}" for name in self.carried))

    def first_step(self, first: bool) -> dict[str, np.ndarray]:
        """What tells adapt.onnx whether this is a task's first step, where it wants to know."""
        return {FIRST: np.array(first, np.float32)} if self.makes_rows else {}

    def start_carried(self) -> dict[str, np.ndarray]:
        """The carried tensors as the first step is fed them."""
        return self.tensors(self.carried) if self.carried else {}

    def steps_for(self, shots: float) -> int:
        """The steps that the bundle takes for so many photos of each class, on average."""
        return steps_for(self.steps_by_shots, shots, self.steps)

    def check_steps(self, steps: int) -> int:
        """`steps` itself; UserError for what is no number of steps that the bundle can take."""
        least = 0 if self.makes_rows else 1
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < least:
            raise UserError(f"steps must be a whole number of at least {least} (head {self.head}), not {steps!r}")
        if steps and not self.takes_steps:
            raise UserError(f"{self.path} was exported to take 0 steps, not {steps}; export it with --steps {steps}")
        return steps

    def start_weights(self, classes: int) -> dict[str, np.ndarray]:
        """The tensors that a step moves, and the head, at their start values with one head row per class, in arrays of
        their own. Raises UserError as start_head."""
        head = self.start_head(classes)
        return self.tensors(name for name in self.adapted if name not in HEAD) | head

    def start_head(self, classes: int) -> dict[str, np.ndarray]:
        """The head's tensors at their start values, a row per class.

        Raises UserError for more classes than a per-class head has rows, and for fewer than two.
        """
        if classes < 2:
            raise UserError("one class cannot be told from anything; give at least two classes")
        if self.head == "per-class" and classes > self.ways:
            raise UserError(
                f"{self.path} learns at most {self.ways} classes (per-class head), not {classes}; "
                f"give {self.ways} or fewer, or a bundle with a shared head"
            )
        if self.head == "per-class":
            return {name: rows[:classes].copy() for name, rows in self.head_start.items()}
        return {name: np.repeat(rows, classes, axis=0) for name, rows in self.head_start.items()}


def read_bundle(path: Path | str) -> Bundle:
    """Read and check the bundle at `path`.

    Raises UserError for anything that is missing, altered, of another format or version, or outside the bundle.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a bundle (a directory NAME.gems written by gems-edge export)")
    manifest_path = path / "manifest.json"
    manifest = read_json(manifest_path, f"{path} is not a readable bundle")
    fields = _Fields(path, manifest)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not a gems-edge bundle: its manifest.json has no format {FORMAT!r}")
    version = fields.integer("format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has bundle format {version} and this gems-edge reads up to {FORMAT_VERSION}; "
            "install a newer gems-edge"
        )
    _check_files(path, fields)
    bundle = Bundle(
        path=path,
        hash=sha256_bytes(manifest_path.read_bytes()),
        name=fields.text("name"),
        ways=fields.integer("ways", 2),
        shots=fields.integer("shots"),
        least_shots=fields.integer("least_shots" if "least_shots" in manifest else "shots"),
        head=(head := fields.text("head", HEADS)),
        image_size=fields.integer("image.size"),
        channels=fields.integer("image.channels"),
        inverted=fields.get("image.inverted", bool, "true or false"),
        normalization=fields.text("normalization", ("transductive", "support", "group", "frozen")),
        steps=fields.integer("rule.steps", 0 if head == "prototype" else 1),
        predict_peak_bytes=fields.integer("cost.predict.peak_bytes", 0, 1 << 40),
        adapted=fields.names("tensors.adapted"),
        statistics=fields.names("tensors.statistics"),
        carried=fields.names("tensors.carried", optional=True),
        head_start=_head_start(path, fields),
        manifest=manifest,
        quantisation=_quantisation(fields),
        steps_by_shots=_steps_by_shots(fields),
        trunk=_trunk(fields),
    )
    _check_tensors(bundle, fields)
    return bundle


def _check_files(path: Path, fields: "_Fields") -> None:
    listed = fields.get("files", dict, "an object")
    has_trunk = fields.manifest.get("trunk") is not None
    for file in (*FILES, *((TRUNK_FILE,) if has_trunk else ())):
        if file not in listed:
            raise UserError(f"{path} is incomplete: its manifest does not list {file}; export it again")
    for file in listed:
        if not file or file in (".", "..") or any(sign in file for sign in "/\\\0"):
            raise UserError(f"{path} is not trustworthy: its manifest names a file outside the bundle ({file!r})")
        expected = fields.get(f"files/{file}/sha256", str, "a SHA-256", "/")
        try:
            if not stat.S_ISREG((path / file).lstat().st_mode):
                raise UserError(
                    f"{path / file} is not a plain file, as a bundle's files must be; copy the bundle again"
                )
            with open(path / file, "rb") as content:
                actual = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:
            raise UserError(f"{path} is incomplete: {file} is missing; copy the bundle again") from None
        if actual != expected:
            raise UserError(_altered(path, file))


def _altered(path: Path, file: str) -> str:
    return f"{path / file} was altered: its SHA-256 is not the manifest's; copy or export the bundle again"


def _head_start(path: Path, fields: "_Fields") -> dict[str, np.ndarray]:
    """The head's tensors; all that the manifest lists are looked at, one at a time."""
    file = path / WEIGHTS_FILE
    names = [*fields.names("tensors.adapted"), *fields.names("tensors.constant"), *fields.names("tensors.statistics")]
    names += fields.names("tensors.carried", optional=True)
    try:
        with safetensors.safe_open(file, "numpy") as stored:
            held = set(stored.keys())
            for name in [*names, *HEAD]:
                if name not in held or not _is_finite(stored.get_tensor(name)):
                    raise UserError(
                        f"{file} lacks finite float32 values for {name}, which the manifest lists; export the bundle "
                        "again"
                    )
            return {name: stored.get_tensor(name) for name in HEAD}
    except (safetensors.SafetensorError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} cannot be read as safetensors ({error}); export the bundle again") from None


def _is_finite(tensor: np.ndarray) -> bool:
    return tensor.dtype == np.float32 and bool(np.isfinite(tensor).all())


def _check_tensors(bundle: Bundle, fields: "_Fields") -> None:
    if bundle.channels not in (1, 3):
        raise fields.error("image.channels", "1 or 3")
    _check_costs(fields)
    with safetensors.safe_open(bundle.path / WEIGHTS_FILE, "numpy") as stored:
        shape_of = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}
    for layer in bundle.quantisation.layers if bundle.quantisation else ():
        shapes = [shape_of[name] for name in layer.tensors if name in shape_of]
        if len(shapes) < len(layer.tensors) or len(shapes[0]) != 4 or set(shapes[1:]) - {shapes[0][:1]}:
            raise fields.error("int8.layers", "a list of this bundle's own convolutions and normalisations")
    if bundle.quantisation and not shape_of.keys() >= set(bundle.quantisation.tensors):
        raise fields.error("int8.tensors", "a list of this bundle's own tensors")
    rows = bundle.ways if bundle.head == "per-class" else 1  # of a prototype head zeros, until it is taught
    weight, bias = (bundle.head_start[name] for name in HEAD)
    if weight.ndim != 2 or weight.shape[0] != rows or bias.shape != (rows,):
        raise UserError(
            f"{bundle.path}: head.weight and head.bias must have {rows} rows as the manifest says; export it again"
        )


def _check_costs(fields: "_Fields") -> None:
    """What memory and latency are predicted from."""
    has_trunk = fields.manifest.get("trunk") is not None
    for key in (*COSTS, *(TRUNK_COSTS if has_trunk else ())):
        if fields.get(f"cost.{key}", int | float, "a number") < 0:
            raise fields.error(f"cost.{key}", "a number that is not negative")
    for graph in ("predict", "adapt_step", *(("trunk",) if has_trunk else ())):
        amounts = fields.get(f"cost.{graph}.work", dict, "amounts of work by term").values()
        if not all(_is_amount(amount) for amount in amounts):
            raise fields.error(f"cost.{graph}.work", "amounts of work by term")
    for what in ("predict", "adapt", *(("trunk",) if has_trunk else ())):
        key, expected = f"cost.memory.{what}", "sizes of the arena for ascending numbers of images"
        images, sizes = (fields.get(f"{key}.{part}", list, expected) for part in ("images", "arena_bytes"))
        countable = all(_is_amount(number) and isinstance(number, int) for number in (*images, *sizes))
        if not countable or not images or len(images) != len(sizes) or images != sorted({*images} - {0}):
            raise fields.error(key, expected)


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _steps_by_shots(fields: "_Fields") -> tuple[tuple[int, int], ...]:
    if "steps_by_shots" not in fields.get("rule", dict, "an object"):
        return ()
    expected = "a list of pairs of numbers: photos of a class, and steps up to rule.steps"
    most = fields.integer("rule.steps", 0)
    pairs = fields.get("rule.steps_by_shots", list, expected)
    for pair in pairs:
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not numbers or pair[0] < 1 or not 0 <= pair[1] <= most:
            raise fields.error("rule.steps_by_shots", expected)
    return tuple((shots, steps) for shots, steps in pairs)


def steps_for(by_shots: Sequence[tuple[int, int]], shots: float, otherwise: int) -> int:
    """Of pairs (photos of each class, steps) the steps of the number of photos nearest to `shots`, as a factor."""
    nearest = min(by_shots, key=lambda pair: abs(math.log(pair[0] / shots)), default=(0, otherwise))
    return nearest[1]


def _trunk(fields: "_Fields") -> Trunk | None:
    if fields.manifest.get("trunk") is None:
        return None
    expected = "the shape of one image's features, [c, h, w] or [F]"
    shape = fields.get("trunk.features", list, expected)
    if len(shape) not in (1, 3) or not all(type(size) is int and 1 <= size <= 100_000 for size in shape):
        raise fields.error("trunk.features", expected)
    peak = fields.integer("cost.trunk.peak_bytes", 0, 1 << 40)
    return Trunk(fields.text("trunk.cut"), tuple(shape), peak)


def _quantisation(fields: "_Fields") -> Quantisation | None:
    if INT8_FILE not in fields.get("files", dict, "an object"):
        return None
    expected = "a list of objects with weight, bias, norm, epsilon and reads"
    entries = fields.get("int8.layers", list, expected)
    if not all(map(_is_layer, entries)):
        raise fields.error("int8.layers", expected)
    return Quantisation(tuple(Layer(**entry) for entry in entries), fields.names("int8.tensors"))


def _is_layer(entry: Any) -> bool:
    """Whether an entry of int8.layers has the fields of Layer; older ones are silent about `frozen`."""
    fields = {field.name for field in dataclasses.fields(Layer)}
    if not isinstance(entry, dict) or entry.keys() | {"frozen"} != fields:
        return False
    names = (value is None or isinstance(value, str) for n, value in entry.items() if n not in ("epsilon", "frozen"))
    epsilon, norm = entry["epsilon"], entry["norm"]
    fits = epsilon is None if norm is None else isinstance(epsilon, float) and 0 < epsilon < 1
    return isinstance(entry["weight"], str) and all(names) and fits and isinstance(entry.get("frozen", False), bool)


class _Fields:
    """Typed access to the manifest: a wrong or missing entry is named."""

    def __init__(self, path: Path, manifest: Any):
        self.path, self.manifest = path, manifest

    def error(self, key: str, expected: str) -> UserError:
        return UserError(f"{self.path / 'manifest.json'}: {key!r} must be {expected}; export the bundle again")

    def get(self, key: str, kind: Any, expected: str, separator: str = ".") -> Any:
        value = self.manifest
        for part in key.split(separator):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.error(key, expected)
        return value

    def integer(self, key: str, least: int = 1, most: int = 10_000) -> int:
        expected = f"a whole number from {least} to {most}"
        value: int = self.get(key, int, expected)
        if not least <= value <= most:
            raise self.error(key, expected)
        return value

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        expected = f"one of {', '.join(choices)}" if choices else "a text"
        value: str = self.get(key, str, expected)
        if choices and value not in choices:
            raise self.error(key, expected)
        return value

    def names(self, key: str, optional: bool = False) -> tuple[str, ...]:
        value = self.get(key, list | None if optional else list, "a list of tensor names") or []
        if not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
            raise self.error(key, "a list of different tensor names")
        return tuple(value)


def bundle_bytes(bundle: Bundle) -> dict[str, int]:
    """The size of every file of the bundle, the manifest included."""
    files = ["manifest.json", *bundle.manifest["files"]]
    return {file: (bundle.path / file).stat().st_size for file in files}
