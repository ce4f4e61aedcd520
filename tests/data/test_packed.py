import io
import json
import zipfile

import numpy as np
import pytest
from data_making import make_set, write_tree
from PIL import Image

from gems_edge.data.folder import read_folder
from gems_edge.data.packed import cached_set, read_packed, write_packed
from gems_edge.data.sources import load_images
from gems_edge.errors import UserError


def small(**options):
    return make_set([3, 2, 4], ["train", "val", "test"], size=6, **options)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("encode", [False, True])
def test_greyscale_round_trip_is_exact(tmp_path, inverted, encode):
    image_set = small(inverted=inverted, group=[0, 0, 1, 2, 3, 4, 4, 5, 5])
    write_packed(image_set, tmp_path / "a.npz", encode=encode)
    back = load_images(f"packed:{tmp_path / 'a.npz'}")
    for field in ("images", "label", "split", "group"):
        assert np.array_equal(getattr(back, field), getattr(image_set, field)), field
    assert (back.classes, back.inverted, back.source) == (image_set.classes, inverted, image_set.source)


def test_colour_round_trip_is_close(tmp_path):
    image_set = small(channels=3)
    write_packed(image_set, tmp_path / "a.npz")
    back = read_packed(tmp_path / "a.npz")
    assert back.images.shape == image_set.images.shape and back.group is None
    assert np.abs(back.images.astype(int) - image_set.images).max() <= 3
    assert read_packed(tmp_path / "a.npz", 12, 1).images.shape == (9, 12, 12, 1)


def test_a_packed_folder_reads_like_the_folder(tmp_path):
    image_set = read_folder(write_tree(tmp_path / "ink", mode="L", paper=True), image_size=20)
    write_packed(image_set, tmp_path / "a.npz")
    back = read_packed(tmp_path / "a.npz")
    assert (
        image_set.inverted
        and np.array_equal(back.images, image_set.images)
        and np.array_equal(back.split, image_set.split)
    )


def test_bad_images_of_a_packed_file_are_named_at_once_and_left_out_if_asked(tmp_path):
    write_packed(read_folder(write_tree(tmp_path / "photos"), image_size=16), tmp_path / "a.npz")
    content = dict(np.load(tmp_path / "a.npz"))
    for number in (0, 7):
        content["data"][content["offset"][number] :][:9] = 0
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.warns(UserWarning, match="image 7 .class 'class_02'.*is not an image"):
        with pytest.raises(UserError, match="^2 of 18 images"):
            read_packed(tmp_path / "bad.npz")
    with pytest.warns(UserWarning, match="^left out: .*image 0"):
        back, whole = read_packed(tmp_path / "bad.npz", skip_bad=True), read_packed(tmp_path / "a.npz")
    assert (back.images == np.delete(whole.images, [0, 7], axis=0)).all() and "2 unreadable" in back.source
    assert (back.label == np.delete(whole.label, [0, 7])).all()


def test_bright_border_decides_where_meta_says_nothing(tmp_path):
    images = np.full((4, 8, 8), 255, np.uint8)
    images[:, 3:5, 3:5] = 0
    common = {"classes": np.array(["a", "b"]), "label": np.array([0, 0, 1, 1]), "split": np.array(["train", "test"])}
    np.savez(tmp_path / "a.npz", images=images, **common)
    read = read_packed(tmp_path / "a.npz")
    assert read.inverted and read.images[0, 0, 0, 0] == 0
    np.savez(tmp_path / "b.npz", images=images, meta=json.dumps({"inverted": False}), unknown=np.arange(3), **common)
    assert not read_packed(tmp_path / "b.npz").inverted
    np.savez(tmp_path / "c.npz", images=np.repeat(images[..., None], 3, 3), **common)
    assert not read_packed(tmp_path / "c.npz").inverted


def arrays(**changes):
    content = {
        "classes": np.array(["a", "b", "c"]),
        "label": np.array([0, 0, 1, 2], np.int16),
        "split": np.array(["train", "val", "test"]),
        "images": np.zeros((4, 8, 8), np.uint8),
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "lacks 'label'"),
        ({"images": None}, "holds no images"),
        ({"label": np.array([0, 1, 2, 3])}, "label 3 names no class (there are 3)"),
        ({"label": np.array([0, 1, 2, -1])}, "label -1 names no class"),
        ({"label": np.array([0.0, 1, 2, 2])}, "label whole numbers"),
        ({"label": np.array([0, 1, 2])}, "4 images for 3 labels"),
        ({"split": np.array(["train", "val"])}, "split has 2 entries for 3 classes"),
        ({"split": np.array(["train", "val", "dev"])}, "class 'c' is in split 'dev'"),
        ({"classes": np.array(["a", "b", "a"])}, "class 'a' is listed in train and test: the split leaks"),
        ({"images": np.zeros((4, 8, 8), np.float32)}, "images are float32 [4, 8, 8, 1]"),
        ({"images": np.zeros((4, 8, 8, 2), np.uint8)}, "images are uint8 [4, 8, 8, 2]"),
        (
            {"images": None, "data": np.zeros(9, np.uint8), "offset": np.array([0, 3, 2, 5, 9])},
            "data and offset do not hold 4 images",
        ),
        (
            {"images": None, "data": np.zeros(9, np.uint8), "offset": np.array([0, 3, 4, 5, 10])},
            "data and offset do not hold 4 images",
        ),
        (
            {"images": None, "data": np.zeros(9, np.uint8), "offset": np.array([0, 3, 4, 5, 9])},
            "image 0 is not an image",
        ),
        ({"meta": np.array("[]")}, "meta is not a JSON object"),
        ({"meta": np.array("{")}, "meta is not valid JSON"),
        ({"meta": np.array('{"group_kind": "track"}')}, "group must hold 4 whole numbers"),
        ({"classes": np.array(["a", "b", None], dtype=object)}, "is no packed data file or is damaged"),
    ],
)
def test_inconsistent_files_are_refused_in_one_line(tmp_path, changes, message):
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(UserError) as error:
        read_packed(tmp_path / "bad.npz")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_corrupt_jpeg_is_named(tmp_path):
    write_packed(small(channels=3), tmp_path / "a.npz")
    content = dict(np.load(tmp_path / "a.npz"))
    start = content["offset"][4]
    content["data"][start : start + 4] = 0
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(UserError, match=r"image 4 \(class 'c1'\)"):
        read_packed(tmp_path / "a.npz")


def test_truncated_and_foreign_files(tmp_path):
    write_packed(small(), tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("classes.npy", b"no array")
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 255
    array = io.BytesIO()
    np.save(array, np.arange(3))
    contents = [
        b"",
        b"text",
        whole[:50],
        whole[: len(whole) // 2],
        whole[:-10],
        bytes(flipped),
        buffer.getvalue(),
        picture.getvalue(),
        array.getvalue(),
    ]
    for content in contents:
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UserError, match="bad.npz"):
            read_packed(tmp_path / "bad.npz")
    for wrong in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(UserError, match=str(wrong)):
            read_packed(wrong)


def test_a_damaged_cache_is_built_anew(cache):
    built = []

    def build():
        built.append(1)
        return small()

    first = cached_set("s.npz", "made", build)
    assert np.array_equal(cached_set("s.npz", "made", build).images, first.images) and len(built) == 1
    (cache / "s.npz").write_bytes((cache / "s.npz").read_bytes()[:100])
    assert np.array_equal(cached_set("s.npz", "made", build).images, first.images) and len(built) == 2
    cached_set("s.npz", "made", build)
    assert len(built) == 2 and [path.name for path in cache.iterdir()] == ["s.npz"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEMS_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    assert cached_set("s.npz", "made", small).images.shape == (9, 6, 6, 1)
