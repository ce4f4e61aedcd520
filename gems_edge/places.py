"""Whether results can be written where they are wanted: found out before the work that makes them, by trying."""

import errno
import os
import tempfile
from pathlib import Path

from gems_edge.errors import MachineError, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_file_place(path: Path | str, size: int = 0) -> None:
    """As check_room of the directory of `path`; UserError too if `path` is a directory."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a directory; name a file")
    check_room(Path(path).parent, size)


def check_room(directory: Path | str, size: int = 0) -> None:
    """UserError unless `directory` exists, can be written to and has a name in UTF-8; PermissionError that names it;
    MachineError if it has no room for `size` bytes. What is tried leaves nothing behind, not even when it is killed."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist; create it or choose another place")
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(directory)) from None
    except OSError as error:
        if error.errno == errno.EROFS:
            raise UserError(f"{directory} is on a file system that is read only; choose another place") from None
        if error.errno in _FULL:
            raise MachineError(
                f"{directory} has no room for {size / 1e6:.1f} MB ({error.strerror}); free some space or choose "
                "another place"
            ) from None
        raise


def check_name(path: Path | str) -> None:
    """UserError for a name that is no UTF-8, which no JSON, TOML or page could hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{ascii(str(path))} is no name in UTF-8; rename it") from None
