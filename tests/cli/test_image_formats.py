"""Which image formats are opened, whatever a file is named, by every command that opens images."""

import os
from pathlib import Path

import numpy as np
import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401
from PIL import EpsImagePlugin, Image

from gems_edge import images
from gems_edge.images import EXTENSIONS, FORMATS, decode_image, open_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A `gs` in PATH that leaves this file behind when it is run."""
    log, program = tmp_path / "gs.log", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return log


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["predict", "h.gems", "photos/kind 0/photo.jpg"], "photos/kind 0/photo.jpg is"),
        (["adapt", "h.gems", "--support", "photos", "-o", "s.state"], "photos/kind 0/photo.jpg is"),
        (["data", "show", "folder:photos"], "photos/kind 0/photo.jpg is"),
        (["data", "show", "folder:photos", "--image-size", "28", "--channels", "1"], "photos/kind 0/photo.jpg is"),
        (["data", "pack", "photos", "-o", "photos.npz"], "photos/kind 0/photo.jpg is"),
        (["data", "show", "packed:eps.npz"], "eps.npz: image 0 is"),
        (["data", "show", "packed:eps.npz", "--image-size", "28", "--channels", "1"], "eps.npz: image 0 (class"),
    ],
)
def test_a_photo_that_is_eps_starts_no_program(gems_edge, ghostscript, tmp_path, arguments, named):  # noqa: F811
    handmade.write_bundle(tmp_path / "h.gems", head="per-class", ways=6)
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(6, 1))
    (tmp_path / "photos" / "kind 0" / "000.png").unlink()
    (tmp_path / "photos" / "kind 0" / "photo.jpg").write_bytes(EPS)
    classes = np.array([f"c{i}" for i in range(6)])
    data, offset = np.frombuffer(6 * EPS, np.uint8), np.arange(7) * len(EPS)
    label, split = np.arange(6), ["train", "val", "test"] * 2
    np.savez(tmp_path / "eps.npz", classes=classes, label=label, split=split, data=data, offset=offset)
    result = gems_edge(*arguments)
    told = next(line for line in result.err.splitlines() if named in line)  # of several bad images each has its line
    assert result.code == 2 and result.out == "" and ", ".join(FORMATS) in told, result.err
    assert not ghostscript.exists()


def test_one_place_opens_images():
    root = Path(images.__file__).parent
    sources = [*root.rglob("*.py"), *(root.parent / "export").rglob("*.py")]
    assert [path.name for path in sources if "Image.open(" in path.read_text()] == ["images.py"]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_extension_that_is_listed_is_opened(tmp_path, extension):
    pixels = np.full((20, 20), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{extension}")
    np.testing.assert_allclose(decode_image(tmp_path / f"a{extension}", 20, 1)[..., 0], pixels, atol=4)


def test_a_phones_jpeg_with_a_preview_is_opened(tmp_path):
    photo, preview = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (20, 20), "red")
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    with open_image(tmp_path / "a.jpg", "a.jpg") as image:
        assert image.format == "MPO"
    assert decode_image(tmp_path / "a.jpg", 40, 3).shape == (40, 40, 3)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "JPEG2000", "AVIF"])
def test_other_formats_are_refused(gems_edge, tmp_path, kind):  # noqa: F811
    handmade.write_bundle(tmp_path / "h.gems")
    Image.new("L" if kind == "PCX" else "RGB", (32, 32)).save(tmp_path / "photo.png", kind)
    message = f"photo.png is not an image that can be read; use {', '.join(FORMATS)}"
    assert_refused(gems_edge("predict", "h.gems", "photo.png"), message)
