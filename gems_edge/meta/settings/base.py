"""Settings as frozen dataclasses whose fields carry help and limits: options, config.toml and --help come from them."""

import math
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gems_edge.errors import UserError

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    most: float | None = None,
    name: str = "",
    empty: str = "none",
) -> Any:
    """A field. `least`, `most`: of its number, or of each of its numbers; `name`: that of its command-line option where
    it differs from the field's (without dashes in front); `empty`: what the command line calls an empty value."""
    metadata = {"help": help, "choices": choices, "least": least, "most": most, "option": name, "empty": empty}
    return field(default=default, metadata=metadata)


def option_name(item: Field[Any]) -> str:
    return "--" + (item.metadata["option"] or item.name.replace("_", "-"))


def settings_of(kind: Any) -> list[Field[Any]]:
    """The fields of a dataclass (or of an instance) that are settings; a nested table of settings is not one itself."""
    return [item for item in fields(kind) if "help" in item.metadata]


def check_settings(values: Any) -> None:
    """UserError for an unknown choice, and for a number that is out of range or not finite."""
    for item in settings_of(values):
        value, option, choices = getattr(values, item.name), option_name(item), item.metadata["choices"]
        least, most = item.metadata["least"], item.metadata["most"]
        if choices and value not in choices:
            raise UserError(f"{option} is {value!r}; choose one of {', '.join(choices)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{option} is {number}; it must be a finite number")
            if isinstance(number, int) and not -(2**63) <= number < 2**63:
                raise UserError(f"{option} is {number}; it must be below 2^63")
            if (least is not None and number < least) or (most is not None and number > most):
                allowed = f"{least} or more" if most is None else f"from {least or 0} to {most}"
                raise UserError(f"{option} is {number}; it must be {allowed}")


def _stored(kind: Any) -> list[Field[Any]]:
    """The fields that a table holds: all but those that say otherwise."""
    return [item for item in fields(kind) if item.metadata.get("stored", True)]


def from_table(kind: type[T], values: dict[str, Any], where: str) -> T:
    """The dataclass `kind` from a table of TOML or JSON, tables inside it included; what is not named has its default.

    A whole number may stand for a float. UserError for unknown names and wrong types.
    """
    types = {item.name: get_type_hints(kind)[item.name] for item in _stored(kind)}
    for name in values:
        if name not in types:
            raise UserError(f"{where}: unknown setting {name!r}; known are {', '.join(types)}")
    return kind(**{name: _typed(value, types[name], name, where) for name, value in values.items()})


def _typed(value: Any, expected: Any, name: str, where: str) -> Any:
    if hasattr(expected, "from_value"):  # a setting that is written as a number or a text
        return expected.from_value(value, where)
    if isinstance(expected, type) and is_dataclass(expected):
        if not isinstance(value, dict):
            raise UserError(f"{where}: {name} is {value!r}; it must be a table of settings")
        return from_table(expected, value, f"{where}, [{name}]")
    if get_origin(expected) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {name} is {value!r}; it must be an array")
        return tuple(_typed(entry, get_args(expected)[0], name, where) for entry in value)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise UserError(f"{where}: {name} is {value!r}; it must be of type {expected.__name__}")
    return value


def to_table(settings: Any) -> dict[str, Any]:
    """The inverse of `from_table`, in the types of TOML and JSON; a nested table that is all defaults is left out."""
    table: dict[str, Any] = {}
    for item in _stored(settings):
        value = getattr(settings, item.name)
        value = value.value if hasattr(value, "from_value") else value
        if not is_dataclass(value):
            table[item.name] = list(value) if isinstance(value, tuple) else value
        elif item.default is MISSING or value != item.default:
            table[item.name] = to_table(value)
    return table
