"""config.toml as a file: a table of settings, and its SHA-256 beside it. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError
from gems_edge.files import parse_toml, read_file, sha256_bytes, write_atomic

CONFIG_FILE = "config.toml"
# Beside a run's config.toml, a line that `sha256sum --check` reads. Older runs have none.
CONFIG_SUM_FILE = "config.sha256"
_MOST_BYTES = 1 << 20


def read_table(path: Path) -> dict[str, Any]:
    """The settings in a config.toml, which is the one of the checksum beside it, where there is one.

    UserError for a file that was altered or is no TOML; OSError for one that cannot be read.
    """
    content = read_file(path, _MOST_BYTES)
    try:
        same = path.name != CONFIG_FILE or read_file(path.with_name(CONFIG_SUM_FILE), 1000) == _sum(content)
    except FileNotFoundError:
        same = True
    if not same:
        raise UserError(
            f"{path} was altered: its SHA-256 is not that of {CONFIG_SUM_FILE}; put it back as it was, or train anew "
            "with --config and a changed copy of it"
        )
    return parse_toml(content, str(path))


def write_table(path: Path, table: dict[str, Any], beside: Mapping[str, str]) -> None:
    """Write a config.toml, its checksum and the files `beside` it (name → text) first: where it is, they are too."""
    import tomli_w

    content = tomli_w.dumps(table).encode()
    if path.name == CONFIG_FILE:
        write_atomic(path.with_name(CONFIG_SUM_FILE), _sum(content))
    for name, text in beside.items():
        write_atomic(path.with_name(name), text)
    write_atomic(path, content)


def _sum(content: bytes) -> bytes:
    return f"{sha256_bytes(content)}  {CONFIG_FILE}\n".encode()
