"""Device profiles: what is known of a board, every fact with its source. One TOML each in device_profiles/."""

import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError


@dataclass(frozen=True)
class Fact:
    value: str | int | float
    unit: str
    source: str


@dataclass(frozen=True)
class DeviceProfile:
    """A board. Rates are of fp32 and of the clock given; see the facts' sources."""

    id: str
    name: str
    updated: str  # ISO date of the last look at the facts
    facts: dict[str, Fact]

    def __getitem__(self, fact: str) -> Any:
        return self.facts[fact].value

    def conv_gflops(self, threads: int) -> float:
        """Effective rate of a dense convolution, GFLOP/s: the facts at one thread and at all, a power law between."""
        one, all_cores, cores = self["conv_rate_1"], self["conv_rate_all"], self["cores"]
        if threads == 1 or cores == 1:
            return one
        return one * threads ** math.log(all_cores / one, cores)


@dataclass(frozen=True)
class _Rule:
    unit: str = ""
    low: float | None = None  # None: the value is text
    high: float | None = None
    required: bool = True
    whole: bool = False


RULES = {
    "soc": _Rule(),
    "core": _Rule(),
    "cores": _Rule(low=1, high=256, whole=True),
    "clock": _Rule("GHz", 0.05, 6),
    "simd": _Rule(),
    "l1_data": _Rule("KiB", 4, 1024, required=False),
    "l2": _Rule("KiB", 32, 65536, required=False),
    "l3": _Rule("KiB", 256, 1 << 20, required=False),
    "ram": _Rule("MiB", 64, 1 << 20),
    "ram_usable": _Rule("MiB", 16, 1 << 20),
    "bandwidth": _Rule("GB/s", 0.05, 1000),
    "fp32_peak_core": _Rule("GFLOP/s", 0.05, 1000),
    "conv_rate_1": _Rule("GFLOP/s", 0.05, 1000),
    "conv_rate_all": _Rule("GFLOP/s", 0.05, 100000),
    "op_overhead": _Rule("us", 0, 10000),
    "call_overhead": _Rule("us", 0, 100000),
    "power_idle": _Rule("W", 0.01, 1000, required=False),
    "power_load": _Rule("W", 0.01, 1000, required=False),
}


def list_profiles() -> tuple[str, ...]:
    """The ids of the profiles that come with gems-edge, sorted."""
    folder = resources.files("gems_edge.device_profiles")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_profile(device: str) -> DeviceProfile:
    """The profile of a device id. UserError that lists the known ids, or names the fact that is wrong."""
    if device not in list_profiles():
        raise UserError(f"unknown device {device!r}; known: {', '.join(list_profiles())}")
    text = (resources.files("gems_edge.device_profiles") / f"{device}.toml").read_text(encoding="utf-8")
    return _checked(f"{device}.toml", text, device)


def read_profile(path: Path | str) -> DeviceProfile:
    """The profile in a TOML file of the user's. UserError naming what is wrong with it."""
    path = Path(path)
    try:
        return _checked(str(path), path.read_text(encoding="utf-8"), path.stem)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name one profile file (.toml)") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; a profile is a TOML file") from None


def _checked(where: str, text: str, device: str) -> DeviceProfile:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None
    for key in ("id", "name", "updated"):
        if not isinstance(document.get(key), str) or not document[key].strip():
            raise UserError(f"{where}: `{key}` must be text")
    if document["id"] != device:
        raise UserError(f"{where}: its id is {document['id']!r}; name the file {document['id']}.toml or change the id")
    if surplus := set(document) - {"id", "name", "updated", "facts"}:
        raise UserError(f"{where}: unknown key `{sorted(surplus)[0]}`; facts go below [facts.NAME]")
    tables = document.get("facts")
    if not isinstance(tables, dict):
        raise UserError(f"{where}: no facts; each is a table [facts.NAME] with value, unit and source")
    if unknown := set(tables) - set(RULES):
        raise UserError(f"{where}: unknown fact `{sorted(unknown)[0]}`; known: {', '.join(RULES)}")
    facts = {
        name: _fact(where, name, rule, tables.get(name))
        for name, rule in RULES.items()
        if rule.required or name in tables
    }
    profile = DeviceProfile(document["id"], document["name"], document["updated"], facts)
    for low, high in (("ram_usable", "ram"), ("power_idle", "power_load"), ("conv_rate_1", "conv_rate_all")):
        if low in facts and high in facts and profile[low] > profile[high]:
            raise UserError(f"{where}: {low} ({profile[low]}) is above {high} ({profile[high]})")
    if profile["conv_rate_1"] > profile["fp32_peak_core"]:
        raise UserError(
            f"{where}: conv_rate_1 ({profile['conv_rate_1']}) is above fp32_peak_core ({profile['fp32_peak_core']})"
        )
    return profile


def _fact(where: str, name: str, rule: _Rule, table: Any) -> Fact:
    if not isinstance(table, dict):
        raise UserError(f"{where}: the fact `{name}` is missing; add [facts.{name}] with value, unit and source")
    if surplus := set(table) - {"value", "unit", "source"}:
        raise UserError(
            f"{where}: {name} has the unknown key `{sorted(surplus)[0]}`; a fact has value, unit and source"
        )
    value, unit, source = table.get("value"), table.get("unit", ""), table.get("source")
    if not isinstance(source, str) or not source.strip():
        raise UserError(f"{where}: {name} has no source; say where its value comes from")
    if unit != rule.unit:
        raise UserError(f"{where}: {name} must be in {rule.unit or 'no unit'}, not {unit!r}")
    if rule.low is None:
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{where}: {name} must be text, not {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int if rule.whole else int | float):
        raise UserError(f"{where}: {name} must be a {'whole ' if rule.whole else ''}number, not {value!r}")
    elif not rule.low <= value <= rule.high:
        raise UserError(f"{where}: {name} = {value} is outside {rule.low:g} to {rule.high:g} {rule.unit}".rstrip())
    return Fact(value, unit, source.strip())
