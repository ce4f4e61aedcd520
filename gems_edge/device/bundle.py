"""Reading a bundle: every byte is checked against the manifest before anything of it runs."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.device.bundle_files import (
    MANIFEST_FILE,
    MANIFEST_SUM_FILE,
    WEIGHTS_FILE,
    check_content,
    check_presence,
    file_content,
    listed_files,
    manifest_content,
    manifest_fields,
)
from gems_edge.device.familiar import MOST_READ, UNKNOWN_FILE, Familiar, familiar_of
from gems_edge.device.int8 import Quantisation
from gems_edge.device.manifest import (
    HEADS,
    NORMALIZATIONS,
    Fields,
    Product,
    Trunk,
    check_costs,
    least_steps,
    precision_of,
    product_of,
    quantisation_of,
    steps_by_shots,
    trunk_of,
)
from gems_edge.device.tensors import tensor_views
from gems_edge.device.trust import (
    SIGNATURE_FILE,
    Trust,
    check_maker,
    check_product,
    check_release,
    read_signature,
    remember_release,
)
from gems_edge.errors import UserError
from gems_edge.files import sha256_bytes

IMAGES, FEATURES = "images", "features"  # what a gradient step is fed: without a trunk, and with one
HEAD = ("head.weight", "head.bias")
MayRead = Callable[[Mapping[str, Any]], None]  # raises where a bundle of that cost must not be read
FIRST = "first"  # of a prototype head, an input of adapt.onnx: above 0 where it makes the rows, before the first step


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
    precision: str = "fp32"  # of PRECISIONS; what it answers in where nothing else is asked for
    trunk: Trunk | None = None  # None: a step runs the whole network
    steps_by_shots: tuple[tuple[int, int], ...] = ()  # photos of each class → steps; (): `steps` for any number
    product: Product | None = None
    familiar: Familiar | None = None  # how what is foreign is known; None: it was not measured

    @property
    def step_input(self) -> str:
        """What a gradient step is fed of the support set: "images", or "features" where there is a trunk."""
        return IMAGES if self.trunk is None else FEATURES

    def tensors(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """These tensors, float32, in arrays of their own; the file is checked against the manifest once more."""
        return {name: tensor.copy() for name, tensor in self.views(names).items()}

    def views(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """As `tensors`, to be read alone: each of them keeps the whole file in memory."""
        names = tuple(names)
        stored = self._stored(WEIGHTS_FILE) if names else {}
        return {name: stored[name] for name in names}

    def all_tensors(self) -> dict[str, np.ndarray]:
        """As `tensors`, all of them."""
        return {name: tensor.copy() for name, tensor in self._stored(WEIGHTS_FILE).items()}

    def _stored(self, file: str) -> dict[str, np.ndarray]:
        return tensor_views(self.content(file), str(self.path / file))

    def background(self) -> dict[str, np.ndarray]:
        """Further rows of the head that scores are made of, weight [K, F] and bias [K], float32: those of training
        classes, or the unit ones, whose logits are what the head reads; K is 0 where scores do without.

        Raises UserError for a file that does not hold them.
        """
        width = self.stored_head[HEAD[0]].shape[1]
        kind = self.familiar.score.kind if self.familiar else ""
        if kind == "distance" and width > MOST_READ:
            raise UserError(f"{self.path} compares more than {MOST_READ} features by distance; export the bundle again")
        if kind == "distance":
            return dict(zip(HEAD, (np.eye(width, dtype=np.float32), np.zeros(width, np.float32))))
        if kind != "background":
            return dict(zip(HEAD, (np.zeros((0, width), np.float32), np.zeros(0, np.float32))))
        stored = self._stored(UNKNOWN_FILE)
        rows = {name: stored[name].astype(np.float32) for name in HEAD if name in stored}
        weight, bias = (rows.get(name, np.zeros(0)) for name in HEAD)
        fits = weight.ndim == 2 and weight.shape[1] == width and bias.shape == (len(weight),) and len(weight)
        if not fits or not all(np.isfinite(each).all() for each in rows.values()):
            raise UserError(f"{self.path / UNKNOWN_FILE} holds no rows of this bundle's head; export the bundle again")
        return rows

    def content(self, file: str) -> bytes:
        """The bytes of `file`, checked against the manifest once more: what is used is what was checked."""
        return file_content(self.path, file, self.manifest["files"][file])

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


def read_bundle(
    path: Path | str, trust: Trust | None = None, may_read: MayRead | None = None, check_all: bool = True
) -> Bundle:
    """Read and check the bundle at `path`. `trust`: whose bundles are opened; None is what the environment says.
    `may_read` is handed the manifest's cost before the other files are read, and may raise. Without `check_all` the
    graphs are there and of the right size, and each is checked as a whole when it is used, before anything of it runs.

    Raises UserError for anything that is missing, altered, of another format or version, or outside the bundle, and for
    what is not to be trusted. Warns (UserWarning) of a manifest that has no checksum of its own.
    """
    path, trust = Path(path), trust or Trust.from_environment()
    if not path.is_dir():
        raise UserError(f"{path} is not a bundle (a directory NAME.gems written by gems-edge export)")
    content, has_sum = manifest_content(path)
    signature = read_signature(path) if trust.file else None
    if trust.file:
        check_maker(path, content, signature, trust.file)  # before anything looks at what it says
    bundle = _described(path, content, may_read, check_all)
    if trust.file:
        _check_release(bundle, content, signature, trust)
    if not has_sum:
        warnings.warn(
            f"{path} has no {MANIFEST_SUM_FILE}: it is older, or was not copied whole, and damage to its manifest may "
            "go unnoticed; export or copy it again",
            stacklevel=2,
        )
    return bundle


def _described(path: Path, content: bytes, may_read: MayRead | None, check_all: bool) -> Bundle:
    """The bundle whose manifest is `content`, checked with all its files."""
    fields = manifest_fields(path, content)
    check_costs(fields)
    if may_read:
        may_read(fields.manifest["cost"])
    stored = _checked_files(path, fields, check_content if check_all else check_presence)
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
        manifest=fields.manifest,
        quantisation=quantisation_of(fields),
        precision=precision_of(fields),
        steps_by_shots=steps_by_shots(fields, least_steps(head), steps),
        trunk=trunk_of(fields),
        product=product_of(fields),
        familiar=familiar_of(fields),
    )
    _check_tensors(bundle, fields, stored)
    return bundle


def _check_release(bundle: Bundle, manifest: bytes, signature: bytes | None, trust: Trust) -> None:
    """UserError for a product that is not the board's, and for an older release; a newer one is remembered before
    anything of it is used, unless it may yet be turned away."""
    assert trust.file is not None
    check_product(bundle.path, manifest, signature, bundle.product, trust.file)
    assert bundle.product is not None
    if not trust.allow_older:
        check_release(bundle.path, bundle.product, trust.file)
    if trust.remember:
        remember_release(bundle.product, trust.file)


def _checked_files(path: Path, fields: Fields, check: Callable[..., None]) -> dict[str, np.ndarray]:
    """All that the manifest lists is there and passes `check`; the tensors of the weights' file, which is read."""
    listed = listed_files(path, fields)
    for file in (file for file in listed if file != WEIGHTS_FILE):
        check(path, file, listed[file])
    return tensor_views(file_content(path, WEIGHTS_FILE, listed[WEIGHTS_FILE]), str(path / WEIGHTS_FILE))


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
    return {name: stored[name].copy() for name in HEAD}


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
    beside = (file for file in (MANIFEST_SUM_FILE, SIGNATURE_FILE) if (bundle.path / file).exists())
    return (MANIFEST_FILE, *beside, *bundle.manifest["files"])


def bundle_bytes(bundle: Bundle) -> dict[str, int]:
    """The size of every file of the bundle."""
    return {file: (bundle.path / file).stat().st_size for file in bundle_files(bundle)}
