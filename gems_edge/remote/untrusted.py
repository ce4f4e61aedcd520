"""What a board says, checked before any of it is used or shown: it may not be the machine that the user means."""

import json
from typing import Any

from gems_edge.errors import MachineError
from gems_edge.wording import printable

# Signs of a board's line that are shown, and of a text in its JSON; lists in lists of that.
MOST_SHOWN, _MOST_TEXT, _DEEPEST = 300, 4000, 20


def printable_lines(raw: bytes) -> str:
    """What a program wrote, each of its lines printable."""
    return "\n".join(map(printable, raw.decode(errors="replace").splitlines()))


def read_object(line: str | bytes, host: str) -> dict[str, Any]:
    """The JSON object that `host` sent: all text in it printable, every number finite and below 1e18.

    MachineError if it sent anything else, or what is deeper or holds longer texts than gems-edge writes.
    """
    try:
        document = _plain(json.loads(line), 0)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise not_understood(host)
    return document


def not_understood(host: str) -> MachineError:
    """The error for an answer that no program of gems-edge gives."""
    return MachineError(f"{host} answered what gems-edge does not understand; is it the machine that you mean?")


def _plain(value: Any, depth: int) -> Any:
    """`value` with printable texts; ValueError for what gems-edge never writes."""
    if depth > _DEEPEST or isinstance(value, str) and len(value) > _MOST_TEXT:
        raise ValueError
    if isinstance(value, (int, float)) and not abs(value) < 1e18:
        raise ValueError
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_plain(name, depth): _plain(item, depth + 1) for name, item in value.items()}
    return value
