"""What of a bundle or a state is whole, what is not, and what can be saved: looked at, never used or changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gems_edge.device.bundle import read_bundle
from gems_edge.device.bundle_files import (
    MANIFEST_FILE,
    MANIFEST_SUM_FILE,
    file_content,
    listed_files,
    manifest_bytes,
    manifest_fields,
    manifest_sum,
)
from gems_edge.device.manifest import Fields, product_of
from gems_edge.device.onnxfile import initializers
from gems_edge.device.state import SLOTS, read_slots
from gems_edge.device.trust import (
    ANYBODY,
    SIGNATURE_FILE,
    Trust,
    check_maker,
    check_product,
    check_release,
    read_signature,
    signer_of,
)
from gems_edge.errors import UserError
from gems_edge.files import read_plain


@dataclass(frozen=True)
class Part:
    """A file, or something else that can be whole by itself. `about` says what is in it."""

    name: str
    problem: str = ""  # "": it is whole
    about: str = ""


@dataclass(frozen=True)
class Finding:
    kind: str  # "bundle", "state", "run" or "packed file"
    path: Path
    parts: tuple[Part, ...]
    rescue: str = ""  # what can be saved, and how; "" where all is whole
    about: dict[str, Any] = field(default_factory=dict)  # more for --json

    @property
    def damaged(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.problem)


def inspect_bundle(path: Path, trust: Trust = ANYBODY) -> Finding:
    """The bundle at `path`, file by file; with a trust file also whose it is. Nothing is remembered of a release."""
    try:
        content = manifest_bytes(path)
        fields = manifest_fields(path, content)
        listed = listed_files(path, fields)
    except (UserError, OSError) as error:
        part = Part(MANIFEST_FILE, _reason(error))
        return Finding(
            "bundle", path, (part,), "nothing can be checked without a manifest: copy the whole bundle again"
        )
    files = tuple(_bundle_file(path, name, entry) for name, entry in listed.items())
    signature, about = _signature(path, content, fields, trust)
    parts = (Part(MANIFEST_FILE), _sum(path, content), signature, *files)
    finding = Finding("bundle", path, parts, about=about)
    if not finding.damaged:
        parts += (_contents(path),)
    return Finding("bundle", path, parts, _bundle_rescue(parts, files), about)


def _bundle_file(path: Path, name: str, entry: dict[str, Any]) -> Part:
    try:
        content = file_content(path, name, entry)
        if name.endswith(".onnx"):
            initializers(content, str(path / name))
    except (UserError, OSError) as error:
        return Part(name, _reason(error))
    return Part(name, about=f"{len(content)} bytes")


def _sum(path: Path, content: bytes) -> Part:
    try:
        expected = manifest_sum(content)
        same = read_plain(path / MANIFEST_SUM_FILE, len(expected)) == expected
        return Part(
            MANIFEST_SUM_FILE, "" if same else f"it is not the SHA-256 of {MANIFEST_FILE}: one of them was altered"
        )
    except FileNotFoundError:
        return Part(MANIFEST_SUM_FILE, about="none: damage to the manifest may go unnoticed")
    except (UserError, OSError) as error:
        return Part(MANIFEST_SUM_FILE, _reason(error))


def _signature(path: Path, content: bytes, fields: Fields, trust: Trust) -> tuple[Part, dict[str, Any]]:
    """The signature, and for --json whose it is and of what."""
    about: dict[str, Any] = {"signed_by": None, "trusted": None, "product": None, "release": None}
    try:
        signature, product = read_signature(path), product_of(fields)
        if product:
            about |= {"product": product.id, "release": product.release}
        if signature is None and trust.file is None:
            return Part(SIGNATURE_FILE, about="none: not signed"), about
        if signature is not None:
            about["signed_by"] = signer_of(path, content, signature).fingerprint
        if trust.file is None:
            return Part(
                SIGNATURE_FILE, about=f"by {about['signed_by']}; whose that is was not checked (--trust)"
            ), about
        about["trusted"] = False
        check_maker(path, content, signature, trust.file)
        assert signature is not None
        if product is None:
            raise UserError("its manifest names no product and release; export it again")
        check_product(path, content, signature, product, trust.file)
        if not trust.allow_older:
            check_release(path, product, trust.file)
    except (UserError, OSError) as error:
        return Part(SIGNATURE_FILE, _reason(error)), about
    about["trusted"] = True
    return Part(SIGNATURE_FILE, about=f"by {about['signed_by']}: release {product.release} of {product.id}"), about


def _contents(path: Path) -> Part:
    """What the files say, taken together."""
    try:
        bundle = read_bundle(path, ANYBODY)
    except (UserError, OSError) as error:
        return Part("what they say", _reason(error))
    return Part("what they say", about=f"{bundle.ways} ways, images of {bundle.image_size} pixels, {bundle.head} head")


def _bundle_rescue(parts: tuple[Part, ...], files: tuple[Part, ...]) -> str:
    damaged = [part.name for part in parts if part.problem]
    if not damaged:
        return ""
    if damaged == [SIGNATURE_FILE]:
        return "all other files are whole"
    if set(damaged) <= {part.name for part in files}:
        return f"copy {', '.join(damaged)} again; all else is whole"
    return "copy the whole bundle again"


def inspect_state(path: Path) -> Finding:
    """The state at `path`, slot by slot."""
    slots, damaged = read_slots(path)
    parts = []
    for slot in SLOTS:
        if slot in slots:
            state = slots[slot]
            about = f"generation {state.generation}: {len(state.classes)} classes from {state.images} images"
            parts.append(Part(slot, about=f"{about}, bundle {state.bundle[:12]}"))
        elif slot in damaged:
            parts.append(Part(slot, damaged[slot]))
    newest = max((state.generation for state in slots.values()), default=None)
    rescue = ""
    if damaged:
        rescue = "nothing is left: run gems-edge adapt again"
        if newest is not None:
            rescue = f"generation {newest} is whole and is what is read; the next save replaces the damaged slot"
    parts += [Part(file.name, about="left over of a save that was cut off") for file in sorted(path.glob(".*.tmp"))]
    return Finding("state", path, tuple(parts), rescue, {"generation": newest})


def _reason(error: UserError | OSError) -> str:
    return str(error) if isinstance(error, UserError) else f"it cannot be read ({error.strerror or error})"
