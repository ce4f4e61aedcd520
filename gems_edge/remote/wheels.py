"""The wheels that a board needs: of the gems-edge that is running, and of what it depends on."""

import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import gems_edge
from gems_edge.errors import MachineError, UserError
from gems_edge.files import cache_directory
from gems_edge.remote.board import Board

# The oldest platform that a needed wheel names, manylinux_2_17 (safetensors); the others' name OLDEST_GLIBC.
_OLDEST_TAG = 17
_DATE = (1980, 1, 1, 0, 0, 0)  # the same files give the same wheel


def build_own_wheel(directory: Path) -> Path:
    """A wheel of the installed gems-edge, from its files as they are now, whether installed or a source checkout.

    Raises MachineError where its metadata is not to be found.
    """
    try:
        installed = distribution("gems-edge")
    except PackageNotFoundError:
        raise MachineError("gems-edge is on the path but not installed; install it: pip install .") from None
    metadata = f"gems_edge-{installed.version}.dist-info"
    contents = _modules() | {f"{metadata}/{name}": text for name, text in _metadata(installed).items()}
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, content in sorted(contents.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(content)])
    rows.writerow([f"{metadata}/RECORD", "", ""])
    contents[f"{metadata}/RECORD"] = record.getvalue().encode()
    path = directory / f"gems_edge-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return path


def _modules() -> dict[str, bytes]:
    """The files of the package by their names in a wheel; in a checkout some of its folders are links."""
    package = Path(gems_edge.__file__).parent
    contents = {}
    for directory, folders, names in os.walk(package, followlinks=True):
        folders[:] = [folder for folder in folders if folder != "__pycache__"]
        for file in (Path(directory, name) for name in names):
            if file.is_file():  # an editor's dangling link is none
                contents[file.relative_to(package.parent).as_posix()] = file.read_bytes()
    return contents


def _metadata(installed: Distribution) -> dict[str, bytes]:
    texts = {
        "METADATA": installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "",
        "entry_points.txt": installed.read_text("entry_points.txt") or "",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: gems-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def gather(own_wheel: Path, board: Board, host: str, source: Path | None, directory: Path) -> list[Path] | None:
    """What `own_wheel` and pip need on `board`, as wheel files in `directory`, resolved by this machine's pip.

    They come from `source`, a directory of wheels, and nowhere else; without it, from the package index that pip is set
    up for, and what was fetched is kept in the cache. None if that fails: then the board must find them itself.
    Raises UserError for a `source` that is no directory, or lacks a wheel for the board (named), or without pip.
    """
    if source is not None:
        return _gather_from(source, own_wheel, board, host, directory)
    if find_spec("pip") is None:
        return None
    cache = cache_directory() / "wheels"
    cache.mkdir(parents=True, exist_ok=True)
    for index in (["--retries", "1"], ["--no-index"]):
        if _resolve(own_wheel, board, directory, [*index, "--find-links", str(cache)]) is None:
            for wheel in directory.glob("*.whl"):
                if wheel.name != own_wheel.name and not (cache / wheel.name).exists():
                    shutil.copy(wheel, cache / f".{wheel.name}")
                    (cache / f".{wheel.name}").rename(cache / wheel.name)
            return sorted(directory.glob("*.whl"))
    return None


def _gather_from(source: Path, own_wheel: Path, board: Board, host: str, directory: Path) -> list[Path]:
    if not source.is_dir():
        raise UserError(f"--wheels {source} is not a directory; give one that holds wheel files")
    if find_spec("pip") is None:
        raise UserError("this Python has no pip, which chooses from --wheels; install it, or leave --wheels out")
    options = ["--no-index", "--find-links", str(source)]
    missing = _resolve(own_wheel, board, directory, options)
    if missing == "pip" and board.ensurepip:
        missing = _resolve(own_wheel, board, directory, options, tool=())
    if missing:
        raise UserError(
            f"{source} holds no wheel for {missing} that fits {host} (Python {board.version[0]}.{board.version[1]}, "
            f"{board.machine}, glibc {board.libc[1]}); add it, or leave --wheels out"
        )
    return sorted(directory.glob("*.whl"))


def _resolve(
    own_wheel: Path, board: Board, directory: Path, options: list[str], tool: tuple[str, ...] = ("pip",)
) -> str | None:
    """None if `directory` now holds all that is needed; else the requirement that could not be met.

    `tool`: pip comes along, and runs from its wheel, so the board's Python need not have ensurepip.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "{}.{}".format(*board.version)]
    for platform in _platforms(board):
        command += ["--platform", platform]
    done = subprocess.run(
        [*command, *options, "-d", str(directory), str(own_wheel), *tool], capture_output=True, text=True
    )
    if done.returncode == 0:
        return None
    missing = [line for line in done.stderr.splitlines() if "No matching distribution found for" in line]
    if missing:
        return missing[-1].rpartition(" for ")[2].strip()
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["ERROR: no message"]
    return f"everything (pip: {lines[0].removeprefix('ERROR: ')[:120]})"


def _platforms(board: Board) -> list[str]:
    """The platform tags of wheels that the board's glibc can load (PEP 600)."""
    tags = [f"manylinux_2_{minor}" for minor in range(board.glibc[1], _OLDEST_TAG - 1, -1)]
    return [f"{tag}_{board.machine}" for tag in (*tags, "manylinux2014")]


def unpacked_bytes(wheels: Iterable[Path]) -> int:
    """The bytes that the wheels' contents take on a disk."""
    return sum(entry.file_size for wheel in wheels for entry in zipfile.ZipFile(wheel).infolist())
