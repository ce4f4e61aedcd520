"""Device profiles: what is known of a board, every fact with its source. One TOML each in device_profiles/."""

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

from gems_edge.errors import UserError
from gems_edge.files import parse_toml, read_toml
from gems_edge.predict.rates import FILE, Measured, measured_of


@dataclass(frozen=True)
class Fact:
    value: str | int | float
    unit: str
    source: str


@dataclass(frozen=True)
class DeviceProfile:
    """A board. Rates are of fp32 and of the clock given; see the facts' sources.

    On chips of big and little cores, `core`, `cores` and `clock` are the big ones', which threads are taken to run on.
    """

    id: str
    name: str
    updated: str  # ISO date of the last look at the facts
    facts: dict[str, Fact]
    memory_only: str = ""  # why onnxruntime does not run there; such a profile answers for memory alone
    measured: Measured | None = None  # by `devices calibrate`

    def __getitem__(self, fact: str) -> Any:
        return self.facts[fact].value


@dataclass(frozen=True)
class _Rule:
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    required: bool = True
    integer: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the value is a number; else it is text."""
        return self.low > -math.inf


RULES = {
    "soc": _Rule(),
    "core": _Rule(),
    "cores": _Rule(low=1, high=256, integer=True),
    "other_cores": _Rule(required=False),
    "clock": _Rule("GHz", 0.05, 6),
    "simd": _Rule(),
    "l1_data": _Rule("KiB", 4, 1024, required=False),
    "l2": _Rule("KiB", 32, 1 << 20, required=False),
    "l3": _Rule("KiB", 256, 1 << 20, required=False),
    "ram": _Rule("MiB", 64, 1 << 22),
    "ram_usable": _Rule("MiB", 16, 1 << 22),
    "bandwidth": _Rule("GB/s", 0.05, 1000),
    "bandwidth_fill": _Rule("GB/s", 0.05, 1000, required=False),
    "fp32_peak_core": _Rule("GFLOP/s", 0.05, 1000),
    "int8_peak_core": _Rule("GOP/s", 0.05, 10000, required=False),
    "call_overhead": _Rule("us", 0, 100000),
    "power_idle": _Rule("W", 0.01, 1000, required=False),
    "power_load": _Rule("W", 0.01, 1000, required=False),
}
# A microcontroller's: kilobytes of memory, and nothing that only a time would need.
MEMORY_ONLY_RULES = {name: RULES[name] for name in ("soc", "core", "cores", "clock", "simd")} | {
    "ram": _Rule("MiB", 0.01, 64),
    "ram_usable": _Rule("MiB", 0.01, 64),
    "flash": _Rule("MiB", 0.01, 1024, required=False),
}
# Pairs of facts of which the first cannot be the larger one.
ORDERED = (("ram_usable", "ram"), ("power_idle", "power_load"), ("fp32_peak_core", "int8_peak_core"))


def list_profiles() -> tuple[str, ...]:
    """The ids of the profiles that come with gems-edge, sorted."""
    folder = resources.files("gems_edge.device_profiles")
    files = (entry.name for entry in folder.iterdir() if entry.name.endswith(".toml") and entry.name != FILE)
    return tuple(sorted(name.removesuffix(".toml") for name in files))


def find_profile(device: str) -> DeviceProfile:
    """The profile of an id that comes with gems-edge, or of a file of the user's (a path that ends in .toml)."""
    return read_profile(device) if device.endswith(".toml") else load_profile(device)


def find_profiles(devices: str) -> dict[str, DeviceProfile]:
    """The profiles of ids and files with commas between, by their names as given."""
    names = (name.strip() for name in devices.split(","))
    return {name: find_profile(name) for name in names if name}


def load_profile(device: str) -> DeviceProfile:
    """The profile of a device id. UserError that lists the known ids, or names the fact that is wrong."""
    if device not in list_profiles():
        raise UserError(f"unknown device {device!r}; known: {', '.join(list_profiles())}, or a file.toml")
    content = (resources.files("gems_edge.device_profiles") / f"{device}.toml").read_bytes()
    return _checked(f"{device}.toml", parse_toml(content, f"{device}.toml"), device)


def read_profile(path: Path | str) -> DeviceProfile:
    """The profile in a TOML file of the user's. UserError naming what is wrong with it."""
    path = Path(path)
    try:
        return _checked(str(path), read_toml(path), path.stem)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name one profile file (.toml)") from None


def _checked(where: str, document: dict[str, Any], device: str) -> DeviceProfile:
    for key in ("id", "name", "updated"):
        if not _is_text(document.get(key)):
            raise UserError(f"{where}: `{key}` must be text")
    if document["id"] != device:
        raise UserError(f"{where}: its id is {document['id']!r}; name the file {document['id']}.toml or change the id")
    if surplus := set(document) - {"id", "name", "updated", "facts", "memory_only", "measured"}:
        raise UserError(f"{where}: unknown key `{sorted(surplus)[0]}`; facts go below [facts.NAME]")
    tables = document.get("facts")
    if not isinstance(tables, dict):
        raise UserError(f"{where}: no facts; each is a table [facts.NAME] with value, unit and source")
    memory_only = document.get("memory_only", "")
    if memory_only != "" and not _is_text(memory_only):
        raise UserError(f"{where}: `memory_only` must be text: why there is no onnxruntime")
    rules = MEMORY_ONLY_RULES if memory_only else RULES
    if unknown := set(tables) - set(rules):
        raise UserError(f"{where}: unknown fact `{sorted(unknown)[0]}`; known: {', '.join(rules)}")
    facts = {
        name: _fact(where, name, rule, tables.get(name))
        for name, rule in rules.items()
        if rule.required or name in tables
    }
    measured = measured_of(where, document["measured"]) if "measured" in document else None
    profile = DeviceProfile(document["id"], document["name"], document["updated"], facts, memory_only, measured)
    for low, high in ORDERED:
        if low in facts and high in facts and profile[low] > profile[high]:
            raise UserError(f"{where}: {low} ({profile[low]}) is above {high} ({profile[high]})")
    return profile


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a line that can be shown."""
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


def _fact(where: str, name: str, rule: _Rule, table: Any) -> Fact:
    if not isinstance(table, dict):
        raise UserError(f"{where}: the fact `{name}` is missing; add [facts.{name}] with value, unit and source")
    if surplus := set(table) - {"value", "unit", "source"}:
        raise UserError(
            f"{where}: {name} has the unknown key `{sorted(surplus)[0]}`; a fact has value, unit and source"
        )
    value: Any = table.get("value")
    unit, source = table.get("unit", ""), table.get("source")
    if not _is_text(source):
        raise UserError(f"{where}: {name} has no source; say where its value comes from")
    if unit != rule.unit:
        raise UserError(f"{where}: {name} must be in {rule.unit or 'no unit'}, not {unit!r}")
    if not rule.numeric:
        if not _is_text(value):
            raise UserError(f"{where}: {name} must be text, not {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int if rule.integer else int | float):
        raise UserError(f"{where}: {name} must be a {'whole ' if rule.integer else ''}number, not {value!r}")
    elif not rule.low <= value <= rule.high:
        raise UserError(f"{where}: {name} = {value} is outside {rule.low:g} to {rule.high:g} {rule.unit}".rstrip())
    return Fact(value, unit, source.strip())
