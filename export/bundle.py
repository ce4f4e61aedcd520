"""Writing a bundle: a directory that appears whole or not at all."""

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gems_edge.device.bundle_files import (
    CARRYING_VERSION,
    FILES,
    FORMAT,
    MANIFEST_FILE,
    MANIFEST_SUM_FILE,
    PLAIN_VERSION,
    PROTOTYPE_VERSION,
    SELFTEST_FILE,
    TRUNK_FILE,
    TRUNK_VERSION,
    manifest_sum,
)
from gems_edge.device.familiar import UNKNOWN_FILE
from gems_edge.device.int8 import INT8_FILE, TRUNK_INT8_FILE
from gems_edge.device.trust import SIGNATURE_FILE
from gems_edge.errors import UserError
from gems_edge.export.staging import staging
from gems_edge.files import read_json, sha256_bytes, sync_directory, write_atomic
from gems_edge.places import check_name, check_room

_ALL_FILES = {
    MANIFEST_FILE, MANIFEST_SUM_FILE, SIGNATURE_FILE, *FILES, TRUNK_FILE, INT8_FILE, TRUNK_INT8_FILE, UNKNOWN_FILE,
    SELFTEST_FILE,
}  # fmt: skip


def check_target(path: Path) -> None:
    """UserError if `path` is something that an export must not replace; raises as check_room beside it."""
    check_name(path)
    if path.exists() and not (path.is_dir() and (_is_bundle(path) or not any(path.iterdir()))):
        raise UserError(f"{path} exists and is not a bundle; choose another name with -o")
    check_room(path.parent)


def _is_bundle(path: Path) -> bool:
    """Whether everything in `path` was written by an export."""
    try:
        manifest = read_json(path / MANIFEST_FILE, "")
    except (UserError, OSError):
        return False
    names = {entry.name for entry in path.iterdir()}
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT and names <= _ALL_FILES


def write_bundle(
    path: Path,
    contents: Mapping[str, bytes],
    manifest: dict[str, Any],
    check: Callable[[Path], dict[str, Any]],
    answered: Callable[[Path], Mapping[str, bytes]] = lambda directory: {},
    sign: Callable[[bytes], bytes] | None = None,
) -> dict[str, Any]:
    """Write the files (name → bytes) beside `path`, let `check` run on them, and only then put them in its place.

    `check` returns entries to add to the manifest, `answered` files that are made with the bundle as it is then, and
    `sign` the signature of the manifest's bytes; what they raise leaves `path` as it was.
    """
    check_target(path)
    manifest = {"format": FORMAT, "format_version": _version(manifest), **manifest, "files": {}}
    with staging(path, _ALL_FILES) as directory:
        _write_files(directory, contents, manifest)
        _write_manifest(directory, manifest)
        manifest |= check(directory)
        _write_manifest(directory, manifest)
        _write_files(directory, answered(directory), manifest)
        content = _write_manifest(directory, manifest)
        if sign:
            write_atomic(directory / SIGNATURE_FILE, sign(content))
        _replace(directory, path)
    return manifest


def _version(manifest: Mapping[str, Any]) -> int:
    """The least version that tells a board all it needs to know."""
    if manifest["head"] == "prototype":
        return PROTOTYPE_VERSION
    if manifest.get("trunk") or manifest["normalization"] == "frozen":
        return TRUNK_VERSION
    return CARRYING_VERSION if manifest["tensors"]["carried"] else PLAIN_VERSION


def _write_files(directory: Path, contents: Mapping[str, bytes], manifest: dict[str, Any]) -> None:
    """Write them, and list them in the manifest."""
    for name, content in contents.items():
        write_atomic(directory / name, content)
        manifest["files"][name] = {"bytes": len(content), "sha256": sha256_bytes(content)}


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> bytes:
    content = (json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_atomic(directory / MANIFEST_FILE, content)
    write_atomic(directory / MANIFEST_SUM_FILE, manifest_sum(content))
    return content


def _replace(written: Path, path: Path) -> None:
    """Put `written` in the place of `path`, whose old bundle it then is where there was one."""
    if path.exists() and not _exchange(written, path):  # for a moment there is no bundle under this name
        shutil.rmtree(path)
    if not path.exists():
        written.rename(path)
    sync_directory(path.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step (Linux's renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    status: int = renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange)
    return status == 0
