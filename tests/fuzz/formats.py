"""Harm to files that keep their form, so that what lies behind the first check is read: checksums are made to agree."""

import hashlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
from harm import NUMBERS, harm_bytes
from trees import harm_json

from gems_edge.device.bundle_files import MANIFEST_FILE, MANIFEST_SUM_FILE, manifest_sum
from gems_edge.files import sha256_bytes

_VALUES = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-45, 0.0, -1.0)


def seal_bundle(path: Path, manifest: str | None = None) -> None:
    """The manifest and its checksum agree with the files; or the checksum alone, with this manifest."""
    if manifest is None:
        document = json.loads((path / MANIFEST_FILE).read_bytes())
        for name in document["files"]:
            content = (path / name).read_bytes()
            document["files"][name] = {"bytes": len(content), "sha256": sha256_bytes(content)}
        manifest = json.dumps(document)
    content = manifest.encode()
    (path / MANIFEST_FILE).write_bytes(content)
    (path / MANIFEST_SUM_FILE).write_bytes(manifest_sum(content))


def harm_tensors(content: bytes, random: Random) -> tuple[bytes, str]:
    """A safetensors file with an odd header, or odd values."""
    header, data = _split(content)
    kind = random.choice(("header", "header", "values", "length", "bytes"))
    if kind == "header":
        text, what = harm_json(header, random)
        return _joined(text.encode(), data), f"header: {what}"
    if kind == "values" and data:
        values = bytearray(data)
        place = 4 * random.randrange(max(1, len(data) // 4))
        values[place : place + 4] = struct.pack("<f", random.choice(_VALUES))
        return _joined(header, bytes(values)), "values"
    if kind == "length":
        return random.choice(NUMBERS).to_bytes(8, "little") + content[8:], "length of the header"
    data, what = harm_bytes(data, random)
    return _joined(header, data), f"data: {what}"


def harm_state(content: bytes, random: Random) -> tuple[bytes, str]:
    """A slot of a state with odd texts or tensors, and the checksum of these."""
    header, data = _split(content)
    document = json.loads(header)
    if random.random() < 0.7:
        metadata = document.pop("__metadata__")
        del metadata["sha256"]
        name = random.choice(list(metadata))
        text, what = harm_json(json.dumps([_value(metadata[name])]), random)
        odd = text.strip()[1:-1]
        metadata[name] = odd if name in ("classes", "delta") or random.random() < 0.5 else odd.strip('"')
        what = f"{name}: {what}"
    else:
        text, what = harm_tensors(_joined(header, data), random)
        try:
            header, data = _split(text)
            document = json.loads(header)
            metadata = {str(key): str(value) for key, value in document.pop("__metadata__").items() if key != "sha256"}
        except (ValueError, KeyError, AttributeError, RecursionError):
            return text, what
    document["__metadata__"] = metadata | {"sha256": _state_sum(document, data, metadata)}
    return _joined(json.dumps(document).encode(), data), what


def harm_ticket(content: bytes, random: Random) -> tuple[bytes, str]:
    """A ticket whose description is odd."""
    header, data = _split(unsealed(content))
    document = json.loads(header)
    document["__metadata__"]["ticket"], what = harm_json(document["__metadata__"]["ticket"], random)
    return _joined(json.dumps(document).encode(), data), what


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _state_sum(header: dict[str, dict], data: bytes, metadata: dict[str, str]) -> str:
    """As device/state.py makes it, of tensors that need not be any."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    kinds = {"F32": "<f4", "U8": "|u1", "F64": "<f8", "I64": "<i8"}
    for name in sorted(header):
        try:
            entry = header[name]
            low, high = entry["data_offsets"]
            digest.update(json.dumps([name, list(entry["shape"]), kinds.get(entry["dtype"], "")]).encode())
            digest.update(data[low:high])
        except (KeyError, TypeError, ValueError):
            continue
    return digest.hexdigest()


def unsealed(content: bytes) -> bytes:
    """A file of tensors without its checksum, as older versions wrote it: what lies behind that is read then."""
    header, data = _split(content)
    document = json.loads(header)
    document.get("__metadata__", {}).pop("sha256", None)
    return _joined(json.dumps(document).encode(), data)


def _split(content: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size], content[8 + size :]


def _joined(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def harm_onnx(content: bytes, random: Random) -> tuple[bytes, str]:
    """A graph with odd operators, attributes, sizes and values, in protobuf as it should be."""
    model = onnx.load_from_string(content)
    kind = random.choice(list(_ONNX))
    what = _ONNX[kind](model, random)
    return model.SerializeToString(), f"{kind} {what}"


def _operator(model: onnx.ModelProto, random: Random) -> str:
    node = random.choice(model.graph.node)
    node.op_type = random.choice(("Conv", "MatMul", "Gather", "Resize", "Loop", "If", "Scan", "Expand", "Pad", "Slice"))
    return node.op_type


def _attribute(model: onnx.ModelProto, random: Random) -> str:
    attributes = [each for node in model.graph.node for each in node.attribute]
    if not attributes:
        return _operator(model, random)
    attribute = random.choice(attributes)
    if attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice((-1, 0, 1 << 20, 1 << 31, 1 << 62))
    else:
        attribute.i = random.choice((-5, -1, 0, 1, 7, 1 << 31, 1 << 62))
    return attribute.name


def _link(model: onnx.ModelProto, random: Random) -> str:
    node, names = random.choice(model.graph.node), [name for node in model.graph.node for name in node.output]
    if node.input:
        node.input[random.randrange(len(node.input))] = random.choice((*names, "", "absent"))
    return node.op_type


def _lost(model: onnx.ModelProto, random: Random) -> str:
    part = random.choice((model.graph.node, model.graph.initializer, model.graph.input, model.graph.output))
    if part:
        del part[random.randrange(len(part))]
    return ""


def _doubled(model: onnx.ModelProto, random: Random) -> str:
    part = random.choice((model.graph.node, model.graph.initializer, model.graph.input, model.opset_import))
    if part:
        part.append(random.choice(part))
    return ""


def _values(model: onnx.ModelProto, random: Random) -> str:
    """Of a shape, sizes that no memory holds."""
    tensor = random.choice(model.graph.initializer)
    values = bytearray(tensor.raw_data)
    if tensor.data_type == onnx.TensorProto.INT64 and values:
        place = 8 * random.randrange(len(values) // 8)
        values[place : place + 8] = struct.pack("<q", random.choice((-2, 0, 3, 1 << 20, 1 << 31, (1 << 63) - 1)))
    elif len(values) >= 4:
        place = 4 * random.randrange(len(values) // 4)
        values[place : place + 4] = struct.pack("<f", random.choice(_VALUES))
    tensor.raw_data = bytes(values)
    return tensor.name


def _dims(model: onnx.ModelProto, random: Random) -> str:
    tensor = random.choice(model.graph.initializer)
    tensor.dims.extend([1] * (not tensor.dims))
    tensor.dims[random.randrange(len(tensor.dims))] = random.choice((-1, 0, 1, 1 << 31, 1 << 62))
    return tensor.name


def _type(model: onnx.ModelProto, random: Random) -> str:
    tensor = random.choice(model.graph.initializer)
    tensor.data_type = random.choice((0, 1, 2, 6, 7, 8, 9, 10, 11, 16, 22, 100))
    return tensor.name


def _input(model: onnx.ModelProto, random: Random) -> str:
    value = random.choice((*model.graph.input, *model.graph.output))
    for dim in value.type.tensor_type.shape.dim:
        if random.random() < 0.5:
            dim.dim_value = random.choice((-1, 0, 1, 3, 1 << 31, 1 << 62))
    return value.name


_ONNX: dict[str, Callable[[onnx.ModelProto, Random], str]] = {
    "operator": _operator, "attribute": _attribute, "link": _link, "lost": _lost, "doubled": _doubled,
    "values": _values, "dims": _dims, "type": _type, "input": _input,
}  # fmt: skip


def harm_archive(content: bytes, random: Random) -> tuple[bytes, str]:
    """An .npz with an odd member; its checksums agree."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    kind = random.choice(("array", "header", "bytes", "lost", "objects", "bomb", "names", "meta"))
    extra: list[tuple[str, bytes]] = []
    if kind == "array":
        members[name] = _npy(_odd_array(random))
    elif kind == "header":
        members[name] = _odd_header(members[name], random)
    elif kind == "bytes":
        members[name], what = harm_bytes(members[name], random)
        kind += f" {what}"
    elif kind == "lost":
        del members[name]
    elif kind == "objects":
        members[name] = _npy(np.array([{"a": 1}, None], object))
    elif kind == "bomb":
        members[name] = _npy(np.zeros(random.choice((10, 100)) << 20, np.uint8))
    elif kind == "names":
        extra = [(random.choice((name, "../outside.npy", "/tmp/outside.npy", "", "x" * 60_000)), members[name])]
    elif "meta.npy" in members:
        text, what = harm_json(str(np.load(io.BytesIO(members["meta.npy"]))), random)
        members["meta.npy"], name = _npy(np.array(text)), f"meta: {what}"
    buffer = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if kind == "bomb" else method) as archive:
        for member, data in (*members.items(), *extra):
            archive.writestr(zipfile.ZipInfo(member), data, compress_type=archive.compression)
    return buffer.getvalue(), f"{kind} of {name[:40]}"


def _odd_array(random: Random) -> np.ndarray:
    arrays = (
        np.zeros(0), np.zeros((2, 0, 3), np.uint8), np.array(5), np.array("x"), np.full(3, np.nan), np.arange(10**6),
        np.array(["a", "a"]), np.array(["train"] * 9), np.full(12, -1), np.full(12, 2**40),
        np.zeros((1,) * 30, np.uint8),
        np.array(["\ud800", "\x1b[31m"]), np.zeros((12, 1, 1), np.uint8), np.zeros(12, np.float64), np.full(12, True),
        np.array([b"train"]), np.array([1 + 2j]), np.array(["2026-11-28"], "M8[s]"), np.zeros((12, 4000, 1), np.uint8),
    )  # fmt: skip
    return random.choice(arrays)


def _odd_header(member: bytes, random: Random) -> bytes:
    """The text at the start of an .npy file says another shape, type or order."""
    size = int.from_bytes(member[8:10], "little")
    header, data = member[10 : 10 + size].decode("latin-1"), member[10 + size :]
    shapes = (
        "(1000000000000,)",
        "(-1,)",
        "(0,)",
        "(99999999999999999999,)",
        "(2, 3, 4)",
        "()",
        "(1e9,)",
        "x",
        "(" * 90,
    )
    kinds = ("'|O'", "'<f8'", "'|V100000'", "'<U1000000000'", "[('a', '<i4')]", "'|u1'", "'M8[s]'", "'x'")
    kind, sizes = header[header.find(": ") + 2 : header.find(", ")], header[header.find("(") : header.find(")") + 1]
    change = random.choice((
        (sizes, random.choice(shapes)), (kind, random.choice(kinds)), ("False", "True"), ("descr", "des"), ("{", "{{"),
        ("}", "}" + " " * 60_000), (header, ""), (header, "[" * 3000), (header, "__import__('os').getcwd()"),
    ))  # fmt: skip
    header = header.replace(*change)
    return member[:8] + (len(header) & 0xFFFF).to_bytes(2, "little") + header.encode("latin-1") + data


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def harm_png(content: bytes, random: Random) -> tuple[bytes, str]:
    """A PNG with an odd chunk; its checksums agree."""
    chunks = [(kind, data) for kind, data in _chunks(content)]
    number = random.randrange(len(chunks))
    kind, data = chunks[number]
    what = random.choice(("number", "bytes", "lost", "doubled", "text", "bomb"))
    if what == "number" and data:
        place = random.randrange(0, len(data), 4)
        size = random.choice(NUMBERS) & 0xFFFF_FFFF
        chunks[number] = kind, data[:place] + size.to_bytes(4, "big")[: len(data) - place] + data[place + 4 :]
    elif what == "lost":
        del chunks[number]
    elif what == "doubled":
        chunks[number:number] = [chunks[number]] * random.choice((1, 100, 5000))
    elif what in ("text", "bomb"):
        text = b"x\0\0" + zlib.compress(bytes(random.choice((100, 50_000_000))))
        chunks.insert(random.randrange(len(chunks) + 1), (random.choice((b"zTXt", b"iCCP", b"eXIf", b"acTL")), text))
    else:
        chunks[number] = kind, harm_bytes(data, random)[0]
    parts = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return content[:8] + b"".join(parts), f"{what} in {kind!r}"


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    place, chunks = 8, []
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12
    return chunks
