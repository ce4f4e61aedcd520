"""Writing files so that a crash or a power cut leaves the old content or the new one, never a mixture."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gems_edge.errors import MachineError, UserError

_JSON_MOST_BYTES = 64 << 20
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


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
    """Make a rename inside `directory` durable, where its file system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a file system that syncs no directories
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path, patience: float = 10.0) -> Iterator[None]:
    """Meanwhile whoever else locks `directory`, in this process or another, waits, and after `patience` seconds raises
    MachineError.

    Where the file system has no locks, nobody waits. A lock ends with its process.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + patience
    try:
        while not _locks(descriptor):
            if time.monotonic() > deadline:
                raise MachineError(f"{directory} is being written by another process; try again when that has ended")
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    """Whether it is this one's now, or nobody can have it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read_plain(path: Path | str, most: int) -> bytes:
    """The bytes of a file that others wrote: of a link, a FIFO, a device or a directory nothing is read or waited for.

    Raises UserError for these, and for more than `most` bytes; OSError if it is not there or cannot be read.
    """
    _check_plain(path, os.lstat(path).st_mode)  # before it is opened: opening a device may do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _check_plain(path, os.fstat(descriptor).st_mode)
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} is larger than the {most:,} bytes that it may have; copy it again")
    return content


def _check_plain(path: Path | str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a plain file, but {_KINDS.get(stat.S_IFMT(mode), 'a device')}; copy it again")


def parse_json(content: bytes, what: str) -> Any:
    """The JSON document in `content`; UserError naming `what` if it is none, nested too deep, or has a number that JSON
    has not (NaN, Infinity)."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{what} is not valid JSON ({reason})") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def read_json(path: Path | str, what: str) -> Any:
    """The JSON document at `path`; UserError naming `what` if it is missing, no plain file or not JSON."""
    try:
        return parse_json(read_plain(path, _JSON_MOST_BYTES), f"{what}: {path}")
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist") from None


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
