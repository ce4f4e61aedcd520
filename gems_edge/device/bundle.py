"""Reading a bundle: every byte is checked against the manifest before anything of it runs."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gems_edge.device.int8 import INT8_FILE, TRUNK_INT8_FILE, Quantisation
from gems_edge.device.manifest import (
    HEADS,
    NORMALIZATIONS,
    Fields,
    Trunk,
    check_costs,
    least_steps,
    quantisation_of,
    steps_by_shots,
    trunk_of,
)
from gems_edge.errors import UserError
from gems_edge.files import parse_json, read_plain, sha256_bytes

FORMAT = "gems-edge-bundle"
# Version 2: adapt.onnx hands tensors from step to step (tensors.carried). Version 3: adapt.onnx is fed with what
# trunk.onnx makes of the images (trunk), or normalisation is frozen. Version 4: adapt.onnx makes the head's rows of the
# support set (prototype). A bundle has the least version that says all it needs.
PLAIN_VERSION, CARRYING_VERSION, TRUNK_VERSION, PROTOTYPE_VERSION = 1, 2, 3, 4
FORMAT_VERSION = PROTOTYPE_VERSION
MANIFEST_FILE = "manifest.json"
# The hash by which states know the bundle, as a line that `sha256sum --check` reads. Older bundles have none.
MANIFEST_SUM_FILE = "manifest.sha256"
WEIGHTS_FILE = "weights.safetensors"
FILES = ("predict.onnx", "adapt.onnx", WEIGHTS_FILE)
TRUNK_FILE = "trunk.onnx"
IMAGES, FEATURES = "images", "features"  # what a gradient step is fed: without a trunk, and with one
HEAD = ("head.weight", "head.bias")
FIRST = "first"  # of a prototype head, an input of adapt.onnx: above 0 where it makes the rows, before the first step
_MANIFEST_MOST_BYTES = 4 << 20  # fifty times the largest that an export has written


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
    normalization: str  # of NORMALIZATIONS
    steps: int  # the most that `steps_for` answers
    predict_peak_bytes: int  # activations of one image in predict.onnx
    adapted: tuple[str, ...]
    statistics: tuple[str, ...]
    carried: tuple[str, ...]  # what a step hands to the next beside the weights; forgotten after the last
    stored_head: dict[str, np.ndarray]  # the head's tensors as the file has them
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
        names = tuple(names)
        if not names:
            return {}
        stored = self.all_tensors()
        return {name: stored[name] for name in names}

    def all_tensors(self) -> dict[str, np.ndarray]:
        """As `tensors`, all of them."""
        return safetensors.numpy.load(self.content(WEIGHTS_FILE))

    def content(self, file: str) -> bytes:
        """The bytes of `file`, checked against the manifest once more: what is used is what was checked."""
        return _content(self.path, file, self.manifest["files"][file])

    @property
    def makes_prototypes(self) -> bool:
        """Whether adapt.onnx makes the head's rows of the support set."""
        return self.head == "prototype"

    @property
    def takes_steps(self) -> bool:
        """Whether adapt.onnx has a gradient step; a prototype head may do without."""
        return bool(self.adapted)

    @property
    def learned(self) -> tuple[str, ...]:
        """The tensors that teaching changes, without statistics."""
        return (*self.adapted, *(name for name in HEAD if self.makes_prototypes and name not in self.adapted))

    @property
    def start_outputs(self) -> tuple[str, ...]:
        """What adapt.onnx gives of the weights before a step: the loss, a prototype head's rows, statistics."""
        return ("loss", *(f"start.{name}" for name in HEAD if self.makes_prototypes), *self.statistics)

    @property
    def step_outputs(self) -> tuple[str, ...]:
        """All that adapt.onnx gives: beside `start_outputs` the weights after the step and the next step's carried
        tensors."""
        updated = (f"updated.{name}" for name in self.adapted)
        return (*self.start_outputs, *updated, *(f"next.{name}" for name in self.carried))

    def first_feed(self, first: bool) -> dict[str, np.ndarray]:
        """What tells adapt.onnx whether this is a task's first step, where it wants to know."""
        return {FIRST: np.array(first, np.float32)} if self.makes_prototypes else {}

    def steps_for(self, shots: float) -> int:
        """The steps that the bundle takes for so many photos of each class, on average."""
        return steps_for(self.steps_by_shots, shots, self.steps)

    def check_steps(self, steps: int) -> int:
        """`steps` itself; UserError for what is no number of steps that the bundle can take."""
        least = least_steps(self.head)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < least:
            raise UserError(f"steps must be a whole number of at least {least} (head {self.head}), not {steps!r}")
        if steps and not self.takes_steps:
            raise UserError(f"{self.path} was exported to take 0 steps, not {steps}; export it with --steps {steps}")
        return steps

    def start_weights(self, classes: int, others: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The tensors that a step moves, the head, and those named `others`, at their start values with one head row
        per class, in arrays of their own. Raises UserError as check_classes."""
        head = self.start_head(classes)
        return self.tensors((*(name for name in self.adapted if name not in HEAD), *others)) | head

    def start_head(self, classes: int) -> dict[str, np.ndarray]:
        """The head's tensors at their start values, a row per class. Raises UserError as check_classes."""
        self.check_classes(classes)
        if self.head == "per-class":
            return {name: rows[:classes].copy() for name, rows in self.stored_head.items()}
        return {name: np.repeat(rows, classes, axis=0) for name, rows in self.stored_head.items()}

    def check_classes(self, classes: int) -> None:
        """UserError for more classes than a per-class head has rows, and for fewer than two."""
        if classes < 2:
            raise UserError("one class cannot be told from anything; give at least two classes")
        if self.head == "per-class" and classes > self.ways:
            raise UserError(
                f"{self.path} learns at most {self.ways} classes (per-class head), not {classes}; "
                f"give {self.ways} or fewer, or a bundle with a shared head"
            )


def read_bundle(path: Path | str) -> Bundle:
    """Read and check the bundle at `path`.

    Raises UserError for anything that is missing, altered, of another format or version, or outside the bundle. Warns
    (UserWarning) of a manifest that has no checksum of its own.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a bundle (a directory NAME.gems written by gems-edge export)")
    content, has_sum = _manifest_content(path)
    manifest = parse_json(content, f"{path} is not a readable bundle: {MANIFEST_FILE}")
    fields = Fields(path, manifest)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not a gems-edge bundle: its manifest.json has no format {FORMAT!r}")
    version = fields.integer("format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has bundle format {version} and this gems-edge reads up to {FORMAT_VERSION}; "
            "install a newer gems-edge"
        )
    stored = _checked_files(path, fields)
    check_costs(fields)
    head = fields.text("head", HEADS)
    shots, steps = fields.integer("shots"), fields.integer("rule.steps", least_steps(head))
    bundle = Bundle(
        path=path,
        hash=sha256_bytes(content),
        name=fields.text("name"),
        ways=fields.integer("ways", 2),
        shots=shots,
        least_shots=fields.integer("least_shots", 1, shots) if fields.has("least_shots") else shots,
        head=head,
        image_size=fields.integer("image.size"),
        channels=fields.integer("image.channels", 1, 3),
        inverted=fields.get("image.inverted", bool, "true or false"),
        normalization=fields.text("normalization", NORMALIZATIONS),
        steps=steps,
        predict_peak_bytes=fields.bytes("cost.predict.peak_bytes"),
        adapted=fields.names("tensors.adapted"),
        statistics=fields.names("tensors.statistics"),
        carried=_carried(fields),
        stored_head=_checked_head(path, fields, stored),
        manifest=manifest,
        quantisation=quantisation_of(fields),
        steps_by_shots=steps_by_shots(fields, least_steps(head), steps),
        trunk=trunk_of(fields),
    )
    _check_tensors(bundle, fields, stored)
    if not has_sum:
        warnings.warn(
            f"{path} has no {MANIFEST_SUM_FILE}: it is older, or was not copied whole, and damage to its manifest may "
            "go unnoticed; export or copy it again",
            stacklevel=2,
        )
    return bundle


def manifest_sum(manifest: bytes) -> bytes:
    """What manifest.sha256 holds."""
    return f"{sha256_bytes(manifest)}  {MANIFEST_FILE}\n".encode()


def _manifest_content(path: Path) -> tuple[bytes, bool]:
    """The manifest's bytes, and whether a checksum says that it is whole."""
    try:
        content = read_plain(path / MANIFEST_FILE, _MANIFEST_MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path} is not a readable bundle: {path / MANIFEST_FILE} does not exist") from None
    expected = manifest_sum(content)
    try:
        if read_plain(path / MANIFEST_SUM_FILE, len(expected)) != expected:
            raise UserError(
                f"{path / MANIFEST_FILE} was altered: its SHA-256 is not that of {MANIFEST_SUM_FILE}; copy or export "
                "the bundle again"
            )
    except FileNotFoundError:
        return content, False
    return content, True


def _checked_files(path: Path, fields: Fields) -> dict[str, np.ndarray]:
    """All that the manifest lists is there and is what it says; the tensors of the weights' file."""
    listed = fields.get("files", dict, "an object")
    of_trunk = (TRUNK_FILE, *((TRUNK_INT8_FILE,) if INT8_FILE in listed else ())) if fields.has("trunk") else ()
    for file in (*FILES, *of_trunk):
        if file not in listed:
            raise UserError(f"{path} is incomplete: its manifest does not list {file}; export it again")
    for file in listed:
        if not file or file in (".", "..") or any(sign in file for sign in "/\\\0"):
            raise UserError(f"{path} is not trustworthy: its manifest names a file outside the bundle ({file!r})")
        fields.get(f"files/{file}/sha256", str, "a SHA-256", "/")
        fields.bytes(f"files/{file}/bytes", "/")
    for file in (file for file in listed if file != WEIGHTS_FILE):
        _content(path, file, listed[file])
    return _tensors(path / WEIGHTS_FILE, _content(path, WEIGHTS_FILE, listed[WEIGHTS_FILE]))


def _content(path: Path, file: str, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a file, which are those of its entry in the manifest."""
    try:
        content = read_plain(path / file, entry["bytes"])
    except FileNotFoundError:
        raise UserError(f"{path} is incomplete: {file} is missing; copy the bundle again") from None
    if sha256_bytes(content) != entry["sha256"]:
        raise UserError(
            f"{path / file} was altered: its SHA-256 is not the manifest's; copy or export the bundle again"
        )
    return content


def _tensors(file: Path, content: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} cannot be read as safetensors ({error}); export the bundle again") from None


def _carried(fields: Fields) -> tuple[str, ...]:
    return fields.names("tensors.carried") if fields.has("tensors.carried") else ()


def _checked_head(path: Path, fields: Fields, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The head's tensors; all that the manifest lists are looked at."""
    parts = (fields.names(f"tensors.{part}") for part in ("adapted", "constant", "statistics"))
    for name in (name for part in (*parts, _carried(fields), HEAD) for name in part):
        if name not in stored or not _is_finite(stored[name]):
            raise UserError(
                f"{path / WEIGHTS_FILE} lacks finite float32 values for {name}, which the manifest lists; export the "
                "bundle again"
            )
    return {name: stored[name] for name in HEAD}


def _is_finite(tensor: np.ndarray) -> bool:
    return tensor.dtype == np.float32 and bool(np.isfinite(tensor).all())


def _check_tensors(bundle: Bundle, fields: Fields, stored: Mapping[str, np.ndarray]) -> None:
    if bundle.channels == 2:
        raise fields.error("image.channels", "1 or 3")
    for layer in bundle.quantisation.layers if bundle.quantisation else ():
        shapes = [stored[name].shape for name in layer.tensors if name in stored]
        if len(shapes) < len(layer.tensors) or len(shapes[0]) != 4 or set(shapes[1:]) - {shapes[0][:1]}:
            raise fields.error("int8.layers", "a list of this bundle's own convolutions and normalisations")
    if bundle.quantisation and not stored.keys() >= set(bundle.quantisation.tensors):
        raise fields.error("int8.tensors", "a list of this bundle's own tensors")
    rows = bundle.ways if bundle.head == "per-class" else 1  # of a prototype head zeros, until it is taught
    weight, bias = (bundle.stored_head[name] for name in HEAD)
    if weight.ndim != 2 or weight.shape[0] != rows or bias.shape != (rows,):
        raise UserError(
            f"{bundle.path}: head.weight and head.bias must have {rows} rows as the manifest says; export it again"
        )


def steps_for(by_shots: Iterable[Sequence[int]], shots: float, otherwise: int) -> int:
    """Of pairs (photos of each class, steps) the steps of the number of photos nearest to `shots`, as a factor."""
    nearest = min(by_shots, key=lambda pair: abs(math.log(pair[0] / shots)), default=(0, otherwise))
    return nearest[1]


def bundle_files(bundle: Bundle) -> tuple[str, ...]:
    """The names of all its files."""
    sums = (MANIFEST_SUM_FILE,) if (bundle.path / MANIFEST_SUM_FILE).exists() else ()
    return (MANIFEST_FILE, *sums, *bundle.manifest["files"])


def bundle_bytes(bundle: Bundle) -> dict[str, int]:
    """The size of every file of the bundle."""
    return {file: (bundle.path / file).stat().st_size for file in bundle_files(bundle)}
