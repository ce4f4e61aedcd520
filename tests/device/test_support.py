"""Folders of photos as people have them."""

import handmade as hm
import numpy as np
import pytest
from PIL import Image

from gems_edge.device.bundle import read_bundle
from gems_edge.device.support import read_support
from gems_edge.errors import UserError


@pytest.fixture
def bundle(tmp_path):
    return read_bundle(hm.write_bundle(tmp_path / "h.gems", head="per-class", ways=3, channels=3))


@pytest.fixture
def photos(tmp_path):
    return hm.write_pictures(tmp_path / "photos", *hm.pictures(3, 2, channels=3))


def refused(photos, bundle, match):
    with pytest.raises(UserError, match=match) as caught:
        read_support(photos, bundle)
    assert "\n" not in str(caught.value)


def test_reads_classes_in_order_of_name(photos, bundle):
    shown = read_support(photos, bundle)
    assert shown.classes == ("kind 0", "kind 1", "kind 2") and shown.images.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(shown.images, hm.pictures(3, 2, channels=3)[0])


def test_any_still_photo_is_converted(photos, bundle):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    image.convert("L").save(photos / "kind 0/grey.png")
    image.convert("CMYK").save(photos / "kind 1/cmyk.jpg")
    image.convert("P").save(photos / "kind 2/palette.gif")
    (photos / "kind 0/notes.txt").write_text("not an image")
    (photos / "kind 0/.hidden.png").write_text("not an image")
    (photos / ".thumbnails").mkdir()
    assert read_support(photos, bundle).images.shape == (9, 16, 16, 3)


def test_layouts_that_are_wrong(tmp_path, photos, bundle):
    refused(tmp_path / "absent", bundle, "is not a directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", bundle, "no class folders")
    (tmp_path / "empty/one").mkdir()
    refused(tmp_path / "empty", bundle, "one holds no image")
    refused(photos / "kind 0", bundle, "beside the class folders")
    (photos / "kind 1/more").mkdir()
    Image.new("RGB", (20, 20)).save(photos / "kind 1/more/x.png")
    refused(photos, bundle, "inside the class kind 1")


def test_one_class(tmp_path, bundle):
    refused(
        hm.write_pictures(tmp_path / "one", *hm.pictures(1, 3, channels=3)), bundle, "holds one class.*at least two"
    )


def test_more_classes_than_ways_is_told_before_anything_is_decoded(tmp_path, bundle):
    directory = hm.write_pictures(tmp_path / "many", *hm.pictures(4, 1, channels=3))
    (directory / "kind 0/000.png").write_bytes(b"damaged")
    refused(directory, bundle, "at most 3 classes.*not 4")


def test_images_that_cannot_be_used(photos, bundle):
    bad = photos / "kind 1/bad.png"
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    whole = (photos / "kind 1/002.png").read_bytes()
    frames[0].save(bad, format="GIF", save_all=True, append_images=frames[1:])
    refused(photos, bundle, "bad.png is animated")
    for content in (b"", b"text", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        refused(photos, bundle, "bad.png")
    (photos / "kind 2/worse.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="worse.png"):
        refused(photos, bundle, "^2 of 8 images .named above.")
    (photos / "kind 2/worse.png").unlink()
    Image.new("1", (15_000, 15_000)).save(bad)
    refused(photos, bundle, "bad.png is too large")


def test_one_picture_in_two_classes(photos, bundle):
    (photos / "kind 2/copy.png").write_bytes((photos / "kind 0/000.png").read_bytes())
    refused(photos, bundle, "same picture in two classes")
    (photos / "kind 2/copy.png").rename(photos / "kind 0/copy.png")
    assert len(read_support(photos, bundle).labels) == 7


def test_what_is_left_out_is_named(photos, bundle):
    """Pictures of a kind that is not read, and links to nothing; not what systems keep beside pictures."""
    folder = sorted(photos.iterdir())[0]
    for name in ("4.heic", "Thumbs.db", ".hidden"):
        (folder / name).write_bytes(b"x")
    (folder / "5.jpg").symlink_to("nowhere.jpg")
    with pytest.warns(UserWarning, match=f"{folder.name}: 4.heic, 5.jpg: no pictures that are read"):
        read_support(photos, bundle)
