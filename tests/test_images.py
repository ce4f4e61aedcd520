"""What is read of an image file: every kind of pixels right or refused, damage said, time and memory bounded."""

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from gems_edge import images
from gems_edge.errors import UserError
from gems_edge.images import decode_image, open_image

SIDE = 40
# Brightness over the picture, 0…1, bright at the right.
RAMP = np.linspace(0, 1, SIDE)[None, :].repeat(SIDE, axis=0)
GREY = (255 * RAMP).round().astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG of `rows`, each behind its filter's byte; `colour` as in IHDR."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    picture = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + picture + chunk(b"IEND", b"")


def colour16(values: np.ndarray, *more: bytes) -> bytes:
    """A PNG of 16-bit RGB, grey."""
    rows = np.repeat(values[..., None], 3, axis=2).astype(">u2").reshape(SIDE, -1)
    return png(SIDE, SIDE, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows), *more)


def refused(content, *words: str) -> str:
    with pytest.raises(UserError) as failure:
        decode_image(content, SIDE, 3, name="a.png")
    message = str(failure.value)
    assert message.startswith("a.png ") and message.isprintable() and all(word in message for word in words), message
    return message


grey, deep = Image.fromarray(GREY), Image.fromarray((65535 * RAMP).round().astype(np.uint16))
twelve = Image.fromarray((4095 * RAMP).round().astype(np.uint16))


@pytest.mark.parametrize(
    "content, atol",
    [
        *((saved(grey, kind), 1) for kind in ("PNG", "BMP", "GIF", "TIFF", "PPM")),
        *((saved(grey.convert(mode), "PNG"), 1) for mode in ("LA", "P", "RGB", "RGBA")),
        *((saved(grey.convert(mode), "TIFF", compression="tiff_lzw"), 1) for mode in ("LA", "RGB", "RGBA", "CMYK")),
        *((saved(grey.convert(mode), "JPEG", quality=95), 5) for mode in ("L", "RGB", "CMYK")),
        *((saved(grey.convert(mode), "WEBP", lossless=True), 1) for mode in ("RGB", "RGBA")),
        (saved(deep, "PNG"), 1),
        (saved(deep, "TIFF"), 1),
        (saved(twelve, "PNG"), 1),
        (saved(twelve, "TIFF", compression="tiff_deflate"), 1),
        (colour16(65535 * RAMP), 1),
        (b"P5\n40 40\n65535\n" + (65535 * RAMP).astype(">u2").tobytes(), 1),
        (b"P5\n40 40\n4095\n" + (4095 * RAMP).astype(">u2").tobytes(), 1),
        (b"P2\n# by hand\n40 40\n100\n" + " ".join(map(str, (100 * RAMP).astype(int).ravel())).encode(), 3),
    ],
    ids=lambda value: f"{value[:4]!r}" if isinstance(value, bytes) else "",
)
def test_every_kind_of_pixels_is_read_right(content, atol):
    for channels in (1, 3):
        read = decode_image(content, SIDE, channels).astype(int)
        assert np.abs(read - GREY[..., None]).max() <= atol


def test_what_is_transparent_is_white():
    mask = Image.fromarray(np.where(RAMP > 0.5, 255, 0).astype(np.uint8))
    alpha = Image.merge("LA", (Image.new("L", mask.size, 10), mask))
    expected = np.where(RAMP > 0.5, 10, 255)
    key16 = colour16(np.where(RAMP > 0.5, 0x8000, 0x1200), chunk(b"tRNS", b"\x12\0" * 3))
    for content in (saved(alpha, "PNG"), saved(alpha.convert("RGBA"), "TIFF"), saved(alpha.convert("RGBA"), "WEBP")):
        assert np.abs(decode_image(content, SIDE, 1)[..., 0] - expected).max() <= 2
    assert (decode_image(key16, SIDE, 1)[..., 0] == np.where(RAMP > 0.5, 0x80, 255)).all()


@pytest.mark.parametrize("most", [0, 255, 1023, 16_383])
def test_levels_that_cannot_be_told_are_refused(most):
    values = (most * RAMP).round().astype(np.uint16)
    for content in (saved(Image.fromarray(values), "PNG"), saved(Image.fromarray(values), "TIFF")):
        refused(content, f"uses {most} of 65535 levels of grey")
    refused(colour16(values), "less than a quarter of its 16 bits")


def test_numbers_without_a_white_are_refused():
    for mode in ("F", "I"):
        refused(saved(grey.convert(mode), "TIFF"), f"pixels of the kind {mode}")
    refused(saved(grey.convert("RGB").convert("LAB"), "TIFF"), "pixels of the kind LAB")
    jpeg = bytearray(saved(grey, "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    refused(bytes(jpeg), "has 12 bits per sample")
    refused(b"Pf\n40 40\n-1.0\n" + RAMP.astype("<f4").tobytes(), "has no header of PBM, PGM or PPM")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_every_format(kind, orientation, monkeypatch):
    pixels = np.add.outer(np.arange(60) * 2, np.arange(90)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    content = saved(
        Image.fromarray(pixels).convert("RGB"), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})
    )
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T, 6: pixels[::-1].T,
        7: pixels[::-1, ::-1].T, 8: pixels[:, ::-1].T,
    }[orientation]  # fmt: skip
    expected = decode_image(saved(Image.fromarray(turned), "PNG"), 30, 1).astype(int)
    for large in (images._LARGE, 1000):
        monkeypatch.setattr(images, "_LARGE", large)
        assert np.abs(decode_image(content, 30, 1) - expected).max() <= 6


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "1"])
def test_a_large_image_is_read_like_a_small_one(mode, monkeypatch):
    waves = 127 + 100 * np.sin(np.arange(300) / 20)[None, :] * np.cos(np.arange(210) / 17)[:, None]
    image = Image.fromarray(waves.astype(np.uint8))
    image = Image.fromarray((257 * waves).astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    whole = decode_image(saved(image, "PNG"), 32, 3).astype(int)
    monkeypatch.setattr(images, "_LARGE", 12_000)
    assert np.abs(decode_image(saved(image, "PNG"), 32, 3) - whole).max() <= (40 if mode == "1" else 6)


noisy = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
FILES = {
    "JPEG": saved(noisy, "JPEG"), "progressive": saved(noisy, "JPEG", progressive=True), "PNG": saved(noisy, "PNG"),
    "BMP": saved(noisy, "BMP"), "WEBP": saved(noisy, "WEBP"), "lossless": saved(noisy, "WEBP", lossless=True),
    "GIF": saved(noisy.quantize(), "GIF"), "TIFF": saved(noisy, "TIFF"), "PPM": saved(noisy, "PPM"),
    "LZW": saved(noisy, "TIFF", compression="tiff_lzw"), "deflate": saved(noisy, "TIFF", compression="tiff_deflate"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("tail", ["cut", "zeros"])
def test_a_file_that_ends_early_is_never_half_read(kind, tail):
    content, random = FILES[kind], np.random.default_rng(5)
    whole = decode_image(content, 64, 3)
    for length in [*random.integers(1, len(content) - 40, 40), len(content) // 2]:
        rest = b"" if tail == "cut" else bytes(len(content) - length)
        try:
            read = decode_image(content[:length] + rest, 64, 3, name="a.png")
        except UserError as error:
            assert str(error).startswith("a.png ")
        else:
            # What has neither checksum nor end: zeros are pixels there.
            assert (read == whole).all() or tail == "zeros" and kind not in ("JPEG", "PNG", "progressive"), length


def test_every_bit_of_a_png_counts():
    content, random = FILES["PNG"], np.random.default_rng(6)
    for bit in random.integers(0, 8 * len(content), 300):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed))


def test_damage_that_cannot_be_seen_raises_nothing_else():
    random = np.random.default_rng(7)
    for kind, content in FILES.items():
        for _ in range(150):
            changed = bytearray(content)
            for place in random.integers(0, min(len(content), random.choice([40, 200, 10**6])), 3):
                changed[place] = random.integers(256)
            try:
                decode_image(bytes(changed), 32, 3)
            except UserError as error:
                assert "\n" not in str(error), kind


def test_no_pipe_is_waited_for_and_no_device_read(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for place in (tmp_path / "a.jpg", "/dev/zero"):
        with pytest.raises(UserError, match="is not a plain file, but a (FIFO|device); name a file"):
            decode_image(place, 28, 1)
    with pytest.raises(UserError, match="is a directory"):
        decode_image(tmp_path, 28, 1)
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    with pytest.raises(UserError, match="cannot be decoded"):
        decode_image(tmp_path / "b.jpg", 28, 1)


def test_header_segments_and_passes_have_an_end():
    jpeg = saved(grey, "JPEG")
    refused(jpeg[:2] + b"\xff\xfe\0\2" * 2000 + jpeg[2:], "its header does not end")
    scan = jpeg[jpeg.index(b"\xff\xda") : -2]
    refused(jpeg[:-2] + 150 * scan + jpeg[-2:], "passes over its picture")
    picture = saved(grey, "PNG")
    refused(picture[:-12] + 100_001 * chunk(b"teSt", b"") + picture[-12:], "its chunks do not end")


def gif(frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


def tiff_directories(count: int) -> bytes:
    entries = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 1),
    ]
    size = 2 + 12 * len(entries) + 4
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    nexts = [16 + size * (i + 1) for i in range(count - 1)] + [0]
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + b"".join(directory + struct.pack("<I", n) for n in nexts)


def plain(kind: str, mode: str, width: int, height: int, **options):
    return lambda: saved(Image.new(mode, (width, height)), kind, **options)


LARGE = {
    "RGB": (lambda: png(7000, 7000, 8, 2, bytes(21001 * 7000)), "ok"),
    "RGBA": (lambda: png(7000, 7000, 8, 6, bytes(28001 * 7000)), "ok"),
    "one column": (lambda: png(1, 50_000_000, 8, 0, bytes(100_000_000)), "too large"),
    "WebP of 12 megapixels": (plain("WEBP", "RGBA", 4000, 3050, lossless=True), "ok"),
    "WebP of 49": (plain("WEBP", "RGB", 7000, 7000, quality=1, method=0), "too large"),
    "TIFF of 17": (plain("TIFF", "RGB", 4200, 4100, compression="tiff_deflate"), "ok"),
    "TIFF of 49": (plain("TIFF", "L", 7000, 7000, compression="tiff_deflate"), "too large"),
    "GIF of a million frames": (lambda: gif(1_000_000), "animated"),
    "TIFF of 100000 directories": (lambda: tiff_directories(100_000), "animated"),
    "phone's 108 megapixels": (plain("JPEG", "L", 12_000, 9000), "ok"),
    "all of them progressive": (plain("JPEG", "L", 12_000, 9000, progressive=True), "too large"),
    "PGM as text": (lambda: b"P2\n7000 7000\n255\n" + b"7 " * 40_000_000, "too large"),
}  # fmt: skip
_FRESH = """
import sys
import onnxruntime
from gems_edge.device import Learner
from gems_edge.errors import UserError
from gems_edge.images import decode_image
try:
    decode_image(sys.argv[1], 224, 3)
    print("ok")
except UserError as error:
    print(error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow(25)
@pytest.mark.parametrize("name", LARGE)
def test_what_a_small_file_may_cost_a_board(name, tmp_path):
    """In a fresh process with the board's libraries: below 400 MB and 20 seconds, whatever comes of it."""
    make, words = LARGE[name]
    (tmp_path / "a").write_bytes(make())
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", _FRESH, tmp_path / "a"], capture_output=True, text=True, check=True)
    said, peak = out.stdout.splitlines()
    assert words in said and int(peak) < 400_000 and time.monotonic() - began < 20, (said, peak)


def test_a_files_size_is_looked_at_first(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(UserError, match="has 1,000,000 MB, above 100"):
        with open_image(tmp_path / "a.png", "a.png"):
            pass


@pytest.mark.parametrize("source", [None, np.zeros((4, 4, 3), np.uint8), Image.new("L", (4, 4)), bytearray(b"a")])
def test_what_is_no_file_is_named_by_its_type(source):
    with pytest.raises(UserError, match=f"^a {type(source).__name__} is no image file; give a path") as error:
        decode_image(source, 4, 1)
    assert "\n" not in str(error.value)


def test_threads_that_decode_leave_warnings_as_they_were():
    """Whatever the order in which they end; and meanwhile others' warnings are heard."""
    before, shown = list(warnings.filters), warnings.showwarning
    one, two = (open_image(saved(grey, "PNG"), name) for name in "ab")
    one.__enter__(), two.__enter__()
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
    one.__exit__(None, None, None), two.__exit__(None, None, None)
    assert warnings.filters == before and warnings.showwarning is shown
