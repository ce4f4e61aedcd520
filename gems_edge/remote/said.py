"""What a board says, before any of it is used or shown: it may be another machine than one takes it for."""

import json
from typing import Any

from gems_edge.errors import MachineError


def printable(text: str) -> str:
    """`text` as a terminal may have it: control characters, line breaks among them, become "?"."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def printable_lines(raw: bytes) -> str:
    """What a program wrote, each of its lines printable."""
    return "\n".join(map(printable, raw.decode(errors="replace").splitlines()))


def read_object(line: str | bytes, host: str) -> dict[str, Any]:
    """The JSON object that `host` sent, all text in it printable. MachineError if it is none."""
    try:
        said = _printable(json.loads(line))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise not_understood(host)
    return said


def not_understood(host: str) -> MachineError:
    """For an answer that no program of gems-edge gives."""
    return MachineError(f"{host} answered what gems-edge does not understand; is it the machine that you mean?")


def _printable(said: Any) -> Any:
    if isinstance(said, str):
        return printable(said)
    if isinstance(said, list):
        return [_printable(item) for item in said]
    if isinstance(said, dict):
        return {printable(name): _printable(value) for name, value in said.items()}
    return said
