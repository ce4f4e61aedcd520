"""Where a bundle is written before it takes its place: a hidden directory beside it."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from gems_edge.files import locked


@contextlib.contextmanager
def staging(path: Path, files: Collection[str]) -> Iterator[Path]:
    """A new directory beside `path`, removed at the end unless it was renamed; `files` are the names that it may hold.

    What exports to `path` left that were killed is removed first. One that runs has its directory locked, and where a
    file system has no locks nothing is removed.
    """
    with locked(path.parent):  # nobody looks between a directory's beginning and its lock
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if _is_staging(left, files):
                _remove_abandoned(left)
        directory = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        lock = _opened(directory)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        with contextlib.suppress(OSError):  # of a file system without rights
            directory.chmod(0o755)
        yield directory
    finally:
        os.close(lock)
        shutil.rmtree(directory, ignore_errors=True)


def _is_staging(directory: Path, files: Collection[str]) -> bool:
    """Whether it holds nothing but what an export writes, whole or not."""
    if directory.is_symlink() or not directory.is_dir():
        return False
    return all(
        entry.name in files or any(entry.match(f".{file}.*.tmp") for file in files) for entry in directory.iterdir()
    )


def _remove_abandoned(directory: Path) -> None:
    lock = _opened(directory)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its export runs, or there are no locks
        return
    finally:
        os.close(lock)
    shutil.rmtree(directory, ignore_errors=True)


def _opened(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
