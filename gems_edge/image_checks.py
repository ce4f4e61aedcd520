"""What is wrong with an image file that its decoder would not say, or would say after minutes or gigabytes.

Pillow reads a JPEG that ends early as half a picture and a PNG whatever its checksums are; and some headers make its
Python loops or libjpeg's tables grow with what a file claims, not with what it holds.
"""

import os
import re
import zlib
from collections.abc import Iterator
from typing import IO

# Segments before a JPEG's picture, passes over its picture, chunks of a PNG; what cameras and editors write stays far
# below.
_MOST_SEGMENTS, _MOST_SCANS, _MOST_CHUNKS = 1000, 100, 100_000
_MOST_GIF_BYTES = 16_000_000
# Pillow reads a header of this family sign by sign; PFM (floats), PAM and others are not of it.
_PNM = re.compile(rb"P(?:[14](?:(?:\s|#[^\r\n]*[\r\n])+\d+){2}|[2356](?:(?:\s|#[^\r\n]*[\r\n])+\d+){3})")
_BLOCK = 1 << 20


class Damaged(ValueError):
    """What is wrong with the file, to be read after its name."""


def check_file(file: IO[bytes], size: int) -> float:
    """Raises Damaged for a file of `size` bytes that must not be decoded. Returns the bytes that its decoder needs for
    each pixel of the whole picture, beside the decoded ones."""
    start = file.read(16_384)
    file.seek(0)
    if start.startswith(b"\xff\xd8"):
        return _check_jpeg(file)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(file, size)
    elif start.startswith(b"GIF8") and size > _MOST_GIF_BYTES:
        raise Damaged(f"is a GIF of more than {_MOST_GIF_BYTES // 1_000_000} MB; give a still image")
    elif start.startswith(b"P") and not _PNM.match(start):
        raise Damaged("has no header of PBM, PGM or PPM; save it as PNG or JPEG")
    return 0.0


def _check_jpeg(file: IO[bytes]) -> float:
    """A JPEG in several passes (progressive ones) has its coefficients kept, two bytes each, at full size."""
    coefficients, components, several = 0.0, 0, False
    for marker, segment in _segments(file):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(segment) < 6 or len(segment) < 6 + 3 * (components := segment[5]) or not components:
                raise Damaged("is damaged: its header is cut; replace it")
            if segment[0] != 8:
                raise Damaged(f"has {segment[0]} bits per sample; save it as a JPEG of 8 bits")
            sampling = [(segment[7 + 3 * i] >> 4, segment[7 + 3 * i] & 15) for i in range(components)]
            most = max(h for h, _ in sampling) * max(v for _, v in sampling)
            coefficients = 2 * sum(h * v for h, v in sampling) / max(1, most)
        elif marker == 0xDA:
            several = not segment or segment[0] < components
    scans, ends = _markers(file)
    if not ends:
        raise Damaged("is damaged: it ends before its picture does; replace it")
    if scans >= _MOST_SCANS:
        raise Damaged(f"has {scans + 1} passes over its picture; save it as an ordinary JPEG")
    return coefficients if several or scans else 0.0


def _segments(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Markers and contents of the segments up to the first pass over the picture, that included."""
    file.seek(2)
    for _ in range(_MOST_SEGMENTS):
        sign = file.read(1)
        while sign == b"\xff" and (code := file.read(1)) == b"\xff":
            pass
        if sign != b"\xff" or not code:
            raise Damaged("is damaged: its header is cut; replace it")
        marker = code[0]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no content
            continue
        length = int.from_bytes(file.read(2), "big")
        content = file.read(max(0, length - 2))
        if length < 2 or len(content) < length - 2:
            raise Damaged("is damaged: its header is cut; replace it")
        yield marker, content
        if marker == 0xDA:
            return
    raise Damaged("is damaged: its header does not end; replace it")


def _markers(file: IO[bytes]) -> tuple[int, bool]:
    """Further passes over the picture, and whether it has an end. In coded pictures 0xFF stands for itself before 0."""
    scans, ends, last = 0, False, b""
    while block := file.read(_BLOCK):
        block = last + block
        scans, ends, last = scans + block.count(b"\xff\xda"), ends or b"\xff\xd9" in block, block[-1:]
    return scans, ends


def _check_png(file: IO[bytes], size: int) -> None:
    file.seek(8)
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8 or length + 4 > size - file.tell():
            raise Damaged("is damaged: it ends before its picture does; replace it")
        check = zlib.crc32(head[4:])
        for start in range(0, length, _BLOCK):
            check = zlib.crc32(file.read(min(_BLOCK, length - start)), check)
        if int.from_bytes(file.read(4), "big") != check:
            raise Damaged("is damaged: a checksum in it does not fit; replace it")
        if head[4:] == b"IEND":
            return
    raise Damaged("is damaged: its chunks do not end; replace it")


def size_of(file: IO[bytes]) -> int:
    """Bytes of an open file or stream."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size
