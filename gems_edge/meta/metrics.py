"""metrics.jsonl: what a training logs, a line each, and each with a checksum of its own. No torch here."""

import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError
from gems_edge.files import opened_to_append, parse_json, read_file

_MOST_BYTES = 1 << 30
_CHECKED = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)
_NUMBERS = {"iteration", "accuracy", "ci95", "loss", "lr", "rate", "overlap", "delta", "share", "kept"} | {
    *("seconds", "cpu_seconds", "time"),
}
# What each kind of line has, at the least.
_NEEDED = {
    "train": ("iteration", "loss", "accuracy"),
    "validation": ("iteration", "accuracy", "ci95"),
    "general": ("share", "kept", "validation"),
}


def append_metrics(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line. UserError where `path` is no file."""
    text = json.dumps(record).encode()
    with opened_to_append(path) as file:
        file.write(b'%b, "crc32": "%08x"}\n' % (text[:-1], zlib.crc32(text)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines, none where there is no file; a last one that a kill cut off is left out.

    UserError for a line that is not what was logged, or that no training logs. Lines without a checksum are of an older
    version.
    """
    try:
        lines = read_file(path, _MOST_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    if whole := _CHECKED.match(lines[-1]):  # its line break alone is damaged
        lines[-1] = whole[0]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(_record(line))
        except (UserError, ValueError, TypeError):
            if number == len(lines):
                break
            raise UserError(
                f"{path} line {number} is not what was logged there; the file was altered or is damaged: bring back a "
                "copy, or delete the file (a run goes on without it)"
            ) from None
    return records


def _record(line: bytes) -> dict[str, Any]:
    """The record in a line; ValueError or UserError for any other line."""
    if found := _CHECKED.fullmatch(line):
        line = found[1] + b"}"
        if zlib.crc32(line) != int(found[2], 16):
            raise ValueError("another checksum")
    record = parse_json(line, "a line")
    if not isinstance(record, dict):
        raise ValueError("no object")
    if "crc32" in record:
        raise ValueError("no checksum of eight digits")
    needed = _NEEDED.get(str(record.get("kind")), ())
    for name in {*_NUMBERS & record.keys(), *needed}:
        _check(name, record.get(name))
    of_each = ("loss", "accuracy") if record.get("kind") == "train" else ("accuracy", "ci95")
    for entry in dict(record.get("distributions", {})).values():
        _check_entry(entry, of_each)
    return record


def _check(name: str, value: Any) -> None:
    """ValueError for what `name` cannot be."""
    if name == "validation":
        if not isinstance(value, list):
            raise ValueError(name)
        for entry in value:
            _check_entry(entry, ("accuracy", "ci95"))
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(name)


def _check_entry(entry: Any, names: tuple[str, ...]) -> None:
    if not isinstance(entry, dict):
        raise ValueError("no object")
    for name in names:
        _check(name, entry.get(name))
