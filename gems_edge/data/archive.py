"""The arrays of an .npz file, each looked at before it is unpacked: a small file may say that it holds anything."""

import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from gems_edge.errors import UserError
from gems_edge.files import opened
from gems_edge.process_memory import available_mb

# What reading a damaged archive, or one of foreign objects, raises.
DAMAGED = (
    *(
        ValueError,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,
        SyntaxError,
        tokenize.TokenError,
    ),
    *(zipfile.BadZipFile, zlib.error, OverflowError, RuntimeError, MemoryError),
)
# A member of numpy's own savez_compressed is unpacked to ten times its size; of zeros alone to a thousand times.
_MOST_UNPACKED, _ALWAYS_UNPACKED = 100, 256_000_000
_MEMORY_SHARE = 0.8  # of the memory that is free


def read_arrays(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of these names, as far as there are any; others are not looked at.

    UserError for a file that is not there, damaged, encrypted, of Python objects, or larger than it may be.
    """
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about headers of old versions
            members = {key: _member(archive, key) for key in keys if f"{key}.npy" in archive.namelist()}
            check_memory(sum(member.file_size for member in members.values()), path, "unpacked")
            return {key: _array(archive, member) for key, member in members.items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give an existing packed file (.npz)") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; use folder:{path} or pack it with gems-edge data pack") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None
    except DAMAGED as error:
        detail = f" ({error})" if str(error) else ""
        raise UserError(
            f"{path} is no packed data file or is damaged{detail}; write it anew with gems-edge data pack"
        ) from None


def check_memory(size: int, path: Path, what: str) -> None:
    """UserError if `size` bytes are more than this machine has."""
    available = available_mb()
    if available is not None and size > _MEMORY_SHARE * 1e6 * available:
        raise UserError(
            f"{path} takes {size / 1e6:,.0f} MB {what}, and {available:,.0f} MB of memory are free; pack fewer or "
            "smaller images (gems-edge data pack --image-size)"
        )


def _member(archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    """ValueError for one that must not be unpacked."""
    members = [member for member in archive.infolist() if member.filename == f"{key}.npy"]
    member = members[0]
    if len(members) > 1:
        raise ValueError(f"it holds {key} {len(members)} times")
    if member.flag_bits & 1:
        raise ValueError(f"{key} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed in a way that numpy does not use")
    if member.file_size > max(_ALWAYS_UNPACKED, _MOST_UNPACKED * member.compress_size):
        raise ValueError(
            f"{key} is packed {member.file_size // max(1, member.compress_size):,} times, beyond any image"
        )
    return member


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """The array in a member, whose header says no more than the member holds."""
    with archive.open(member) as file:
        shape, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} does not hold {list(shape)} values of {dtype}")
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(version[0])
    if read is None:
        raise ValueError(f"an array of format {version[0]}.{version[1]}")
    shape, _, dtype = read(file)
    return shape, dtype
