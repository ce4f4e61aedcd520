"""What a bundle's manifest says, typed: a wrong or missing entry is named."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gems_edge.device.int8 import INT8_FILE, PRECISIONS, Layer, Quantisation
from gems_edge.errors import UserError

HEADS = ("per-class", "shared", "prototype")
NORMALIZATIONS = ("transductive", "support", "group", "frozen")
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
TRUNK_COSTS = ("trunk.macs", "trunk.constant_bytes", "memory.feature_bytes", "memory.trunk.nodes")
# Beyond every graph that a board runs; what is larger is no figure of one.
_MOST_BYTES, _MOST_AMOUNT = 1 << 40, 1e18
MOST_RELEASE = 1 << 53  # what a JSON number holds exactly everywhere
PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Trunk:
    """The layers that no step moves, as a graph of their own: trunk.onnx, images [N, C, S, S] → features."""

    cut: str  # the path of the lowest layer, or block, above it
    features: tuple[int, ...]  # the shape of one image's: [c, h, w] of maps, [F] of the whole body
    peak_bytes: int  # activations of one image


@dataclass(frozen=True)
class Product:
    """What a bundle is for, and which of its releases it is: a board that checks signatures takes no lower one."""

    id: str
    release: int


class Fields:
    """Typed access to the manifest of the bundle at `path`. Keys name nested entries: "image.size"."""

    def __init__(self, path: Path, manifest: Any):
        self.path, self.manifest = path, manifest

    def error(self, key: str, expected: str) -> UserError:
        return UserError(f"{self.path / 'manifest.json'}: {key!r} must be {expected}; export the bundle again")

    def has(self, key: str) -> bool:
        """Whether there is such an entry, other than null."""
        return self._found(key) is not None

    def has_file(self, file: str) -> bool:
        """Whether the bundle has that file."""
        return file in self.get("files", dict, "an object")

    def get(self, key: str, kind: Any, expected: str, separator: str = ".") -> Any:
        value = self._found(key, separator)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.error(key, expected)
        return value

    def integer(self, key: str, least: int = 1, most: int = 10_000, separator: str = ".") -> int:
        expected = f"a whole number from {least} to {most}"
        value: int = self.get(key, int, expected, separator)
        if not least <= value <= most:
            raise self.error(key, expected)
        return value

    def bytes(self, key: str, separator: str = ".") -> int:
        return self.integer(key, 0, _MOST_BYTES, separator)

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        expected = f"one of {', '.join(choices)}" if choices else "a text"
        value: str = self.get(key, str, expected)
        if choices and value not in choices:
            raise self.error(key, expected)
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self.get(key, list, "a list of tensor names")
        if not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
            raise self.error(key, "a list of different tensor names")
        return tuple(value)

    def _found(self, key: str, separator: str = ".") -> Any:
        value = self.manifest
        for part in key.split(separator):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def check_costs(fields: Fields) -> None:
    """UserError for figures from which memory and latency cannot be predicted."""
    has_trunk = fields.has("trunk")
    for key in (*COSTS, *(TRUNK_COSTS if has_trunk else ())):
        expected = "a number that is not negative, and not beyond every graph's"
        if not _is_amount(fields.get(f"cost.{key}", int | float, expected)):
            raise fields.error(f"cost.{key}", expected)
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
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_AMOUNT


def least_steps(head: str) -> int:
    """A prototype head knows its classes without a step."""
    return 0 if head == "prototype" else 1


def steps_by_shots(fields: Fields, least: int, most: int) -> tuple[tuple[int, int], ...]:
    """Photos of each class → steps, from `least` to `most`; () where the manifest has no such table."""
    key = "rule.steps_by_shots"
    if not fields.has(key):
        return ()
    expected = f"a list of pairs of numbers: photos of a class, and steps from {least} to rule.steps"
    pairs = fields.get(key, list, expected)
    for pair in pairs:
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not numbers or not 1 <= pair[0] <= _MOST_BYTES or not least <= pair[1] <= most:
            raise fields.error(key, expected)
    return tuple((shots, steps) for shots, steps in pairs)


def product_of(fields: Fields) -> Product | None:
    if not fields.has("product"):
        return None
    name = fields.text("product.id")
    if not PRODUCT_ID.fullmatch(name):
        raise fields.error("product.id", "up to 64 letters of ASCII, digits, '.', '_' and '-'")
    return Product(name, fields.integer("product.release", 1, MOST_RELEASE))


def trunk_of(fields: Fields) -> Trunk | None:
    if not fields.has("trunk"):
        return None
    expected = "the shape of one image's features, [c, h, w] or [F]"
    shape = fields.get("trunk.features", list, expected)
    if len(shape) not in (1, 3) or not all(type(size) is int and 1 <= size <= 100_000 for size in shape):
        raise fields.error("trunk.features", expected)
    return Trunk(fields.text("trunk.cut"), tuple(shape), fields.bytes("cost.trunk.peak_bytes"))


def precision_of(fields: Fields) -> str:
    if not fields.has("precision"):
        return PRECISIONS[0]
    return fields.text("precision", PRECISIONS if fields.has_file(INT8_FILE) else PRECISIONS[:1])


def quantisation_of(fields: Fields) -> Quantisation | None:
    if not fields.has_file(INT8_FILE):
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
