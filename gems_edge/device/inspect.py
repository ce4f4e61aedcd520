"""What of a bundle or a state is whole, what is not, and what can be saved: looked at, never used or changed."""

import os
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
from gems_edge.device.finding import Finding, Part, reason_of
from gems_edge.device.history import files_of
from gems_edge.device.manifest import Fields, product_of
from gems_edge.device.onnxfile import initializers
from gems_edge.device.photos import DIRECTORY, LostPhoto, read_photo, unnamed_photos
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
from gems_edge.wording import count_text


def inspect_bundle(path: Path, trust: Trust = ANYBODY) -> Finding:
    """The bundle at `path`, file by file; with a trust file also whose it is, and of one that is not to be trusted
    nothing else is looked at. Nothing is remembered of a release."""
    about: dict[str, Any] = {"signed_by": None, "trusted": None, "product": None, "release": None}
    try:
        content = manifest_bytes(path)
        signature = _signature(path, content, trust, about)
        if signature.problem and trust.file:
            return Finding("bundle", path, (_sum(path, content), signature), "nothing else was looked at", about)
        fields = manifest_fields(path, content)
        listed = listed_files(path, fields)
    except (UserError, OSError) as error:
        part = Part(MANIFEST_FILE, reason_of(error))
        return Finding("bundle", path, (part,), "nothing can be checked without it: copy the whole bundle again", about)
    files = tuple(_bundle_file(path, name, entry) for name, entry in listed.items())
    product = _product(path, content, fields, trust, about)
    parts = (Part(MANIFEST_FILE), _sum(path, content), signature, product, *files)
    if not any(part.problem for part in parts):
        parts += (_contents(path),)
    return Finding("bundle", path, parts, _bundle_rescue(parts, files), about)


def _bundle_file(path: Path, name: str, entry: dict[str, Any]) -> Part:
    try:
        content = file_content(path, name, entry)
        if name.endswith(".onnx"):
            initializers(content, str(path / name))
    except (UserError, OSError) as error:
        return Part(name, reason_of(error))
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
        return Part(MANIFEST_SUM_FILE, reason_of(error))


def _signature(path: Path, content: bytes, trust: Trust, about: dict[str, Any]) -> Part:
    """The signature; `about` is told whose it is."""
    about["trusted"] = None if trust.file is None else False
    try:
        signature = read_signature(path)
        if signature is not None:
            about["signed_by"] = signer_of(path, content, signature).fingerprint
        if trust.file is not None:
            check_maker(path, content, signature, trust.file)
    except (UserError, OSError) as error:
        return Part(SIGNATURE_FILE, reason_of(error))
    if signature is None:
        return Part(SIGNATURE_FILE, about="none: not signed")
    checked = f"trusted by {trust.file}" if trust.file else "whose that is was not checked (--trust)"
    return Part(SIGNATURE_FILE, about=f"by {about['signed_by']}, {checked}")


def _product(path: Path, content: bytes, fields: Fields, trust: Trust, about: dict[str, Any]) -> Part:
    """What the bundle is for, and whether that and its release are this board's; `about` is told."""
    try:
        product = product_of(fields)
        if product:
            about |= {"product": product.id, "release": product.release}
        if trust.file is not None:
            check_product(path, content, read_signature(path), product, trust.file)
            if product and not trust.allow_older:
                check_release(path, product, trust.file)
            about["trusted"] = True
    except (UserError, OSError) as error:
        return Part("product", reason_of(error))
    return Part("product", about=f"release {product.release} of {product.id}" if product else "none")


def _contents(path: Path) -> Part:
    """What the files say, taken together."""
    try:
        bundle = read_bundle(path, ANYBODY)
    except (UserError, OSError) as error:
        return Part("what they say", reason_of(error))
    return Part("what they say", about=f"{bundle.ways} ways, images of {bundle.image_size} pixels, {bundle.head} head")


def _bundle_rescue(parts: tuple[Part, ...], files: tuple[Part, ...]) -> str:
    damaged = [part.name for part in parts if part.problem]
    if not damaged:
        return ""
    if damaged in ([SIGNATURE_FILE], ["product"]):
        return "all files of the bundle are whole"
    if set(damaged) <= {part.name for part in files}:
        return f"copy {', '.join(damaged)} again; all else is whole"
    return "copy the whole bundle again"


def inspect_state(path: Path) -> Finding:
    """The state at `path`, slot by slot and photo by photo."""
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
    rescues = []
    if damaged and newest is None:
        rescues.append("nothing is left: run gems-edge adapt again")
    elif damaged:
        rescues.append(f"generation {newest} is whole and is what is read; the next save replaces the damaged slot")
    named = {file for state in slots.values() for file in files_of(state.versions)}
    photos = [_photo(path, file) for file in sorted(named)]
    lost = [part for part in photos if part.problem]
    if photos:
        parts += [Part("photos", about=f"{count_text(len(photos), 'photo')}"), *lost]
    if lost:
        rescues.append(
            f"{len(lost)} of {count_text(len(photos), 'photo')} are lost: teaching goes on without them; add them "
            "again with gems-edge teach --add"
        )
    parts += [
        Part(f"{DIRECTORY}/{file}", about="is named by no slot; the next save removes it")
        for file in unnamed_photos(path, named)
    ]
    parts += [Part(file.name, about="left over of a save that was cut off") for file in sorted(path.glob(".*.tmp"))]
    return Finding("state", path, tuple(parts), "; ".join(rescues), {"generation": newest})


def _photo(path: Path, file: str) -> Part:
    """What is kept of a photo, in the file of this name."""
    name = f"{DIRECTORY}/{file}"
    try:
        return Part(name, about=f"{len(read_photo(path, file))} bytes")
    except LostPhoto:
        there = os.path.lexists(path / name)
        return Part(name, "it is damaged" if there else "it is missing")
