"""Files: written so that a crash or a power cut leaves the old content or the new one, never a mixture.

They are read through one door, which waits for no pipe, reads no device, and takes no more than a file of its kind may
hold.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from gems_edge.errors import MachineError, UserError

_JSON_MOST_BYTES, _TOML_MOST_BYTES = 16 << 20, 1 << 20
# Of documents in JSON and TOML: how deep they may be, and what a whole number may be.
_DEEPEST, _LARGEST = 50, 2**63
# A name of more parts than that (a.b.c…): tomllib takes minutes for thousands.
_DOTTED = re.compile(rf"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*\.[ \t]*){{{_DEEPEST}}}")
# What file systems answer that have no rights, and that sync no directories.
_NOT_HERE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EBADF)
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def write_atomic(path: Path | str, content: bytes | str | Iterable[bytes | memoryview], rights: int = 0o666) -> None:
    """Write `content`, perhaps in parts, to `path`: temporary file in the same directory, fsync, rename, fsync of the
    directory. `rights`: who may read and write it, less the umask.

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
        try:
            os.chmod(temporary, rights & ~_umask())
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
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
        if error.errno not in _NOT_HERE:
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


def opened(path: Path | str) -> IO[bytes]:
    """A file that a user named, perhaps by a link, open for reading.

    Raises UserError for a FIFO, a socket or a device; OSError for a directory, and what is not there or cannot be read.
    """
    return _opened(path, os.stat(path).st_mode, 0)


def opened_to_append(path: Path | str) -> IO[bytes]:
    """As `opened`, to write behind what it holds; it is made where it is not there."""
    mode = os.stat(path).st_mode if os.path.lexists(path) else stat.S_IFREG
    return _opened(path, mode, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _opened(path: Path | str, mode: int, flags: int) -> IO[bytes]:
    """`mode`: of the path before it is opened, for opening a device may do something."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _check_plain(path, mode, "name a file")
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _check_plain(path, os.fstat(descriptor).st_mode)
    except UserError:
        os.close(descriptor)
        raise
    return open(descriptor, "ab" if flags & os.O_APPEND else "rb")


def read_file(path: Path | str, most: int) -> bytes:
    """The bytes of a file that a user named. Raises as `opened`, and UserError for more than `most` bytes."""
    with opened(path) as file:
        return _all_of(file, path, most)


def read_plain(path: Path | str, most: int) -> bytes:
    """The bytes of a file that others wrote: of a link, a FIFO, a device or a directory nothing is read or waited for.

    Raises UserError for these, and for more than `most` bytes; OSError if it is not there or cannot be read.
    """
    with _opened_plain(path) as file:
        return _all_of(file, path, most)


def plain_sha256(path: Path | str, most: int) -> str:
    """The SHA-256 of what `read_plain` reads, without memory for all of it. Raises as `read_plain`."""
    digest, part, length = hashlib.sha256(), bytearray(1 << 18), 0
    with _opened_plain(path) as file:
        while count := file.readinto(part):  # type: ignore[attr-defined]
            if (length := length + count) > most:
                raise _too_long(path, most)
            digest.update(memoryview(part)[:count])
    return digest.hexdigest()


def plain_size(path: Path | str) -> int:
    """The bytes of a file that others wrote. Raises as `read_plain`."""
    status = os.lstat(path)
    _check_plain(path, status.st_mode)
    return status.st_size


def _opened_plain(path: Path | str) -> IO[bytes]:
    mode = os.lstat(path).st_mode
    _check_plain(path, mode)
    return _opened(path, mode, os.O_NOFOLLOW)


def _all_of(file: IO[bytes], path: Path | str, most: int) -> bytes:
    size = os.fstat(file.fileno()).st_size  # read() takes memory for all that it is asked for; /proc says 0
    content = file.read(min(most, max(size, 1 << 20)) + 1)
    if len(content) > most:
        raise _too_long(path, most)
    return content


def _too_long(path: Path | str, most: int) -> UserError:
    return UserError(f"{path} is larger than the {most:,} bytes that it may have; copy it again")


def _check_plain(path: Path | str, mode: int, advice: str = "copy it again") -> None:
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a plain file, but {_KINDS.get(stat.S_IFMT(mode), 'a device')}; {advice}")


def parse_json(content: bytes, what: str) -> Any:
    """The JSON document in `content`; UserError naming `what` if it is none, nested too deep, or has a number that JSON
    has not (NaN, Infinity) or that is out of range."""
    try:
        document = json.loads(content, parse_constant=_no_number, parse_float=_number)
        _check_document(document)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON ({_reason(error)})") from None
    return document


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def parse_toml(content: bytes, what: str) -> dict[str, Any]:
    """The TOML document in `content`; UserError naming `what` if it is none, nested too deep, or has a whole number
    that is out of range."""
    try:
        text = content.decode()
        if _DOTTED.search(text):
            raise RecursionError
        document = tomllib.loads(text)
        _check_document(document)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid TOML: {_reason(error)}") from None
    return document


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _check_document(document: Any) -> None:
    """ValueError, or RecursionError, for what no program of ours writes and those that go on with it would fail at."""
    level = [document]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                value.encode()  # half a surrogate pair is no text
            elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
                raise ValueError("it has a whole number that is out of range")
        level = inner
    if level:
        raise RecursionError


def read_json(path: Path | str, what: str) -> Any:
    """The JSON document at `path`; UserError naming `what` if it is missing, no plain file or not JSON."""
    try:
        return parse_json(read_plain(path, _JSON_MOST_BYTES), f"{what}: {path}")
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist") from None


def read_toml(path: Path | str) -> dict[str, Any]:
    """The TOML document at `path`. Raises as `read_file` and `parse_toml`."""
    return parse_toml(read_file(path, _TOML_MOST_BYTES), str(path))


def readable_text(path: Path | str) -> str:
    """What a file of the system says, e.g. in /proc; "" where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cache_directory() -> Path:
    """The one place outside runs, bundles and states that is written to: $GEMS_EDGE_CACHE or ~/.cache/gems-edge.

    UserError where there is neither, nor a place of one's own below /tmp.
    """
    if given := os.environ.get("GEMS_EDGE_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "gems-edge"
    try:
        return Path.home() / ".cache" / "gems-edge"
    except RuntimeError:  # a user whom the system does not know, as in containers
        return _own_temporary()


def _own_temporary() -> Path:
    """A directory below /tmp that nobody else can write to."""
    path = Path(tempfile.gettempdir()) / f"gems-edge-{os.getuid()}"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return path
    except OSError:
        pass
    raise UserError("there is no home directory to keep caches in; name a directory with GEMS_EDGE_CACHE")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
