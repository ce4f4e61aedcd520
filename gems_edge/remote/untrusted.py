"""What a board says, checked before any of it is used or shown: it may not be the machine that the user means."""

import json
from typing import Any

from gems_edge.errors import MachineError


def printable(text: str) -> str:
    """`text` fit for a terminal: control characters, line breaks among them, become "?"."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def printable_lines(raw: bytes) -> str:
    """What a program wrote, each of its lines printable."""
    return "\n".join(map(printable, raw.decode(errors="replace").splitlines()))


def read_object(line: str | bytes, host: str) -> dict[str, Any]:
    """The JSON object that `host` sent, all text in it printable. MachineError if it sent anything else."""
    try:
        document = _printable(json.loads(line))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise not_understood(host)
    return document


def not_understood(host: str) -> MachineError:
    """The error for an answer that no program of gems-edge gives."""
    return MachineError(f"{host} answered what gems-edge does not understand; is it the machine that you mean?")


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    return value
