"""Settings as frozen dataclasses whose fields carry their help and limits: the CLI, config.toml and --help derive from them."""

import math
from dataclasses import field, fields
from typing import Any

from gems_edge.errors import UserError


def setting(
    default: Any, help: str, choices: tuple[str, ...] | None = None, least: float | None = None, name: str = ""
) -> Any:
    """A field. `name`: that of its command-line option where it differs from the field's (without dashes in front)."""
    return field(default=default, metadata={"help": help, "choices": choices, "least": least, "option": name})


def option_name(item: Any) -> str:
    return "--" + (item.metadata["option"] or item.name.replace("_", "-"))


def settings_of(kind: Any) -> list[Any]:
    """The fields of a dataclass (or of an instance) that are settings; a nested table of settings is not one itself."""
    return [item for item in fields(kind) if "help" in item.metadata]


def check_settings(values: Any) -> None:
    """UserError for a choice that there is not, a number out of its range or not finite."""
    for item in settings_of(values):
        value, least, choices = getattr(values, item.name), item.metadata["least"], item.metadata["choices"]
        option = option_name(item)
        if choices and value not in choices:
            raise UserError(f"{option} is {value!r}; choose one of {', '.join(choices)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{option} is {value}; it must be a finite number")
        if least is not None and not value >= least:
            raise UserError(f"{option} is {value}; it must be {least} or more")


def from_table(kind: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """`values` as arguments for `kind`; UserError for unknown names and wrong types. A whole number may stand for a float."""
    known = {item.name: item for item in settings_of(kind)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown setting {name!r}; known are {', '.join(known)}")
        expected = type(known[name].default)
        if expected is float and type(value) is int:
            values = values | {name: float(value)}
        elif type(value) is not expected:
            raise UserError(f"{where}: {name} is {value!r}; it must be of type {expected.__name__}")
    return values
