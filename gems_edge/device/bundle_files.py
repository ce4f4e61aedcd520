"""A bundle's files: each is read once, whole, and is what the manifest says, or it is not used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gems_edge.device.int8 import INT8_FILE, TRUNK_INT8_FILE
from gems_edge.device.manifest import Fields
from gems_edge.errors import UserError
from gems_edge.files import parse_json, plain_sha256, plain_size, read_plain, sha256_bytes

T = TypeVar("T")

FORMAT = "gems-edge-bundle"
# Version 2: adapt.onnx hands tensors from step to step (tensors.carried). Version 3: adapt.onnx is fed with what
# trunk.onnx makes of the images (trunk), or normalisation is frozen. Version 4: adapt.onnx makes the head's rows of the
# support set (prototype). A bundle has the least version that says all it needs.
PLAIN_VERSION, CARRYING_VERSION, TRUNK_VERSION, PROTOTYPE_VERSION = 1, 2, 3, 4
FORMAT_VERSION = PROTOTYPE_VERSION
MANIFEST_FILE = "manifest.json"
# The hash by which states know the bundle, as a line that `sha256sum --check` reads. Older bundles have none.
MANIFEST_SUM_FILE = "manifest.sha256"
WEIGHTS_FILE = "weights.safetensors"
FILES = ("predict.onnx", "adapt.onnx", WEIGHTS_FILE)
TRUNK_FILE = "trunk.onnx"
SELFTEST_FILE = "selftest.safetensors"  # what the bundle answered where it was exported: device/selftest.py
_MANIFEST_MOST_BYTES = 4 << 20  # fifty times the largest that an export has written


def manifest_sum(manifest: bytes) -> bytes:
    """What manifest.sha256 holds."""
    return f"{sha256_bytes(manifest)}  {MANIFEST_FILE}\n".encode()


def manifest_content(path: Path) -> tuple[bytes, bool]:
    """The manifest's bytes, and whether a checksum says that it is whole."""
    content = manifest_bytes(path)
    expected = manifest_sum(content)
    try:
        if read_plain(path / MANIFEST_SUM_FILE, len(expected)) != expected:
            raise UserError(
                f"{path / MANIFEST_FILE} was altered: its SHA-256 is not that of {MANIFEST_SUM_FILE}; copy or export "
                "the bundle again"
            )
    except FileNotFoundError:
        return content, False
    return content, True


def manifest_bytes(path: Path) -> bytes:
    """The manifest as it lies there, whole or not."""
    try:
        return read_plain(path / MANIFEST_FILE, _MANIFEST_MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path} is not a readable bundle: {path / MANIFEST_FILE} does not exist") from None


def manifest_fields(path: Path, content: bytes) -> Fields:
    """What the bytes of a manifest say. UserError for what is none, and for one that is newer than this program."""
    manifest = parse_json(content, f"{path} is not a readable bundle: {MANIFEST_FILE}")
    fields = Fields(path, manifest)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not a gems-edge bundle: its manifest.json has no format {FORMAT!r}")
    version = fields.integer("format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has bundle format {version} and this gems-edge reads up to {FORMAT_VERSION}; "
            "install a newer gems-edge"
        )
    return fields


def listed_files(path: Path, fields: Fields) -> dict[str, Any]:
    """The files of the bundle, as its manifest lists them: name → {"bytes", "sha256"}."""
    listed: dict[str, Any] = fields.get("files", dict, "an object")
    of_trunk = (TRUNK_FILE, *((TRUNK_INT8_FILE,) if INT8_FILE in listed else ())) if fields.has("trunk") else ()
    for file in (*FILES, *of_trunk):
        if file not in listed:
            raise UserError(f"{path} is incomplete: its manifest does not list {file}; export it again")
    for file in listed:
        if file in ("", ".", "..") or "/" in file or "\\" in file or not file.isprintable():
            raise UserError(f"{path} is not trustworthy: its manifest names a file outside the bundle ({file!r})")
        fields.get(f"files/{file}/sha256", str, "a SHA-256", "/")
        fields.bytes(f"files/{file}/bytes", "/")
    return listed


def file_content(path: Path, file: str, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a file, which are those of its entry in the manifest."""
    content = _found(path, file, read_plain, entry["bytes"])
    _check_sum(path, file, sha256_bytes(content), entry)
    return content


def check_content(path: Path, file: str, entry: Mapping[str, Any]) -> None:
    """As file_content, of a file whose bytes are not wanted yet."""
    _check_sum(path, file, _found(path, file, plain_sha256, entry["bytes"]), entry)


def check_presence(path: Path, file: str, entry: Mapping[str, Any]) -> None:
    """It is a plain file of the size that the manifest says."""
    size = _found(path, file, plain_size)
    if size != entry["bytes"]:
        raise UserError(
            f"{path / file} was altered: it has {size:,} bytes, not the manifest's {entry['bytes']:,}; copy or export "
            "the bundle again"
        )


def _check_sum(path: Path, file: str, found: str, entry: Mapping[str, Any]) -> None:
    if found != entry["sha256"]:
        raise UserError(
            f"{path / file} was altered: its SHA-256 is not the manifest's; copy or export the bundle again"
        )


def _found(path: Path, file: str, look: Callable[..., T], *most: int) -> T:
    """What `look` gives of the bundle's file, which must be there."""
    try:
        return look(path / file, *most)
    except FileNotFoundError:
        raise UserError(f"{path} is incomplete: {file} is missing; copy the bundle again") from None
