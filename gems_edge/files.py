"""Writing files so that a crash or a power cut leaves the old content or the new one, never a mixture."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError


def write_atomic(path: Path | str, content: bytes | str | Iterable[bytes | memoryview]) -> None:
    """Write `content`, perhaps in parts, to `path`: temporary file in the same directory, fsync, rename, fsync of the
    directory.

    Raises OSError (disk full, no permission) that names `path`, which is then what it was before.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    parts = (data,) if isinstance(data, bytes) else data
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path | str) -> None:
    """Make a rename inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path | str, what: str) -> Any:
    """The JSON document at `path`; UserError naming `what` if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {path} is not valid JSON ({error})") from None


def readable_text(path: Path | str) -> str:
    """What a file of the system says, e.g. in /proc; "" where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cache_directory() -> Path:
    """The one place outside runs, bundles and states that is written to: $GEMS_EDGE_CACHE or ~/.cache/gems-edge."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GEMS_EDGE_CACHE") or Path(base) / "gems-edge")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
