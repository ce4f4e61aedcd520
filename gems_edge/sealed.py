"""Files of tensors (safetensors) with a checksum of their own: what is read is what was written, to the last bit."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gems_edge.errors import UserError
from gems_edge.files import parse_json, read_file, write_atomic

T = TypeVar("T")

_SUM, _METADATA = "sha256", "__metadata__"
# What safetensors allows a header, and more than any network's file has.
_MOST_HEADER_BYTES, _MOST_BYTES = 100_000_000, 1 << 36


def write_sealed(path: Path | str, content: bytes) -> None:
    """Write what safetensors' `save` gave, atomically, with the SHA-256 of all of it in its metadata."""
    header, data = _parts(content, str(path))
    metadata = header.setdefault(_METADATA, {})
    metadata[_SUM] = _checksum(header, data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomic(path, [len(text).to_bytes(8, "little") + text, data])


def read_sealed(path: Path | str) -> tuple[bytes, dict[str, str]]:
    """The file's bytes, for safetensors' `load`, and its metadata.

    A file without a checksum, of an older version or of another program, is taken as it is. Raises UserError, which
    says what is wrong with the file, not what to do, for one that is not what its checksum says or no such file;
    OSError if it cannot be read.
    """
    content = read_file(path, _MOST_BYTES)
    header, data = _parts(content, str(path))
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "its header is none of safetensors")
    if _SUM in metadata and metadata[_SUM] != _checksum(header, data):
        raise _damaged(path, "its SHA-256 is not the one that it was written with")
    return content, metadata


def by_name(tensors: Mapping[str, T]) -> dict[str, T]:
    """In the order of their names, as safetensors' `load_file` gives them; its `load` gives them in any."""
    return dict(sorted(tensors.items()))


def _parts(content: bytes, where: str) -> tuple[dict[str, Any], memoryview]:
    """The header and the tensors' bytes."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _MOST_HEADER_BYTES):
        raise _damaged(where, "it is cut short, or no safetensors file")
    header = parse_json(content[8 : 8 + length], f"{where} is damaged: its header")
    if not isinstance(header, dict):
        raise _damaged(where, "its header is none of safetensors")
    return header, memoryview(content)[8 + length :]


def _checksum(header: Mapping[str, Any], data: memoryview) -> str:
    metadata = {name: text for name, text in header.get(_METADATA, {}).items() if name != _SUM}
    digest = hashlib.sha256(json.dumps({**header, _METADATA: metadata}, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


def _damaged(where: Path | str, reason: str) -> UserError:
    return UserError(f"{where} is damaged: {reason}")
