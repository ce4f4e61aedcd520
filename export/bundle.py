"""Writing a bundle: a directory that appears whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gems_edge.device.bundle import FILES, FORMAT, FORMAT_VERSION
from gems_edge.errors import UserError
from gems_edge.files import sha256_bytes, sync_directory, write_atomic


def check_target(path: Path) -> None:
    """UserError if `path` is something that an export must not replace."""
    if path.exists() and not (path / "manifest.json").is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists and is not a bundle; choose another name with -o")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} does not exist; create it or choose another place with -o")


def write_bundle(
    path: Path, predict: bytes, adapt: bytes, weights: dict[str, np.ndarray], manifest: dict[str, Any],
    check: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Write the files beside `path`, let `check` run on them, and only then put them in the place of `path`.

    `check` returns entries to add to the manifest; what it raises leaves `path` as it was.
    """
    check_target(path)
    contents = dict(zip(FILES, (predict, adapt, save(weights))))
    files = {name: {"bytes": len(content), "sha256": sha256_bytes(content)} for name, content in contents.items()}
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "files": files}
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        staging.chmod(0o755)
        for name, content in contents.items():
            write_atomic(staging / name, content)
        _write_manifest(staging, manifest)
        manifest |= check(staging)
        _write_manifest(staging, manifest)
        _replace(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    write_atomic(directory / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _replace(staging: Path, path: Path) -> None:
    """Directories cannot be exchanged in one call everywhere: the old one steps aside and comes back if the new one fails."""
    if not path.exists():
        staging.rename(path)
    else:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent)) / path.name
        path.rename(aside)
        try:
            staging.rename(path)
        except BaseException:
            with suppress(OSError):
                aside.rename(path)
            raise
        shutil.rmtree(aside.parent, ignore_errors=True)
    sync_directory(path.parent)
