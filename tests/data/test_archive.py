"""What an .npz file says that it holds is judged before it is unpacked."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from gems_edge.data import archive
from gems_edge.data.packed import read_packed
from gems_edge.errors import UserError


def common():
    return {
        "classes": np.array(["a", "b", "c"]),
        "label": np.array([0, 0, 1, 2], np.int16),
        "split": np.array(["train", "val", "test"]),
    }


def stored(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array))
    return buffer.getvalue()


def claiming(shape, descr="|u1", content=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def write(path, kind=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in {**{key: stored(array) for key, array in common().items()}, **members}.items():
            file.writestr(f"{name}.npy", content)
    return path


def refused(path, words):
    with pytest.raises(UserError, match=words) as error:
        read_packed(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(4, 8, 8), (1 << 40,), (1 << 40, 1 << 40), (4, 0, 8)])
def test_an_array_says_no_more_than_it_holds(tmp_path, shape):
    refused(write(tmp_path / "a.npz", images=claiming(shape, content=b"abc")), "does not hold")


@pytest.mark.parametrize("descr", ["|O", "|V8", "<f8", "<U4"])
def test_arrays_of_other_kinds(tmp_path, descr):
    refused(write(tmp_path / "a.npz", images=claiming((1,), descr, b"\0" * 16)), "a.npz")


def test_a_header_that_does_not_end(tmp_path):
    refused(write(tmp_path / "a.npz", images=claiming((4, 8, 8)).replace(b"}", b"{")), "a.npz")


def test_what_unpacks_to_a_thousand_times_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_ALWAYS_UNPACKED", 100_000)
    bomb = claiming((4, 1000, 1000), content=b"\0" * 4_000_000)
    refused(write(tmp_path / "a.npz", images=bomb), "packed .* times, beyond any image")
    assert read_packed(write(tmp_path / "b.npz", zipfile.ZIP_STORED, images=bomb)).images.shape == (4, 1000, 1000, 1)


def test_what_memory_has_no_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "available_mb", lambda: 1.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 600, 600), np.uint8)
    refused(write(tmp_path / "a.npz", images=stored(images)), "takes 1 MB unpacked, and 1 MB of memory are free")


def encoded(meta):
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    data = np.frombuffer(picture.getvalue() * 4, np.uint8)
    return {
        "data": stored(data), "offset": stored(np.arange(5) * len(picture.getvalue())),
        "meta": stored(np.array(json.dumps(meta))),
    }  # fmt: skip


@pytest.mark.parametrize("side", [3, 12_000, 10**18])
def test_meta_makes_no_image_larger(tmp_path, side):
    path = write(tmp_path / "a.npz", **encoded({"size": [side, side]}))
    refused(path, f"meta says {side} pixels, its first image has 2")
    assert read_packed(path, 5).images.shape == (4, 5, 5, 3)


def test_encrypted_and_otherwise_compressed_members(tmp_path):
    images = stored(np.zeros((4, 8, 8), np.uint8))
    path = write(tmp_path / "a.npz", images=images)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            content[start + offset] |= 1
    path.write_bytes(content)
    refused(path, "is encrypted")
    refused(write(tmp_path / "b.npz", zipfile.ZIP_LZMA, images=images), "compressed in a way that numpy does not use")


def test_a_name_twice(tmp_path):
    path = write(tmp_path / "a.npz", images=stored(np.zeros((4, 8, 8), np.uint8)))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("label.npy", stored(np.array([0, 0, 0, 0])))
    refused(path, "it holds label 2 times")
