import shutil

import numpy as np
import pytest
from data_making import write_image, write_tree
from PIL import Image

from gems_edge.data.folder import read_folder
from gems_edge.data.imageset import split_classes
from gems_edge.data.sources import load_images
from gems_edge.errors import UserError
from gems_edge.images import decode_image


def test_plain_folder(tmp_path):
    root = write_tree(tmp_path / "photos", classes=20)
    (root / "notes.txt").write_text("not a class")
    (root / "class_00" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    image_set = load_images(f"folder:{root}")
    assert image_set.images.shape == (60, 84, 84, 3) and image_set.images.dtype == np.uint8
    assert image_set.classes == tuple(f"class_{i:02d}" for i in range(20)) and image_set.group is None
    assert {split: len(image_set.of_split(split)) for split in ("train", "val", "test")} == {
        "train": 10,
        "val": 5,
        "test": 5,
    }
    assert (image_set.images[4] == decode_image(root / "class_01" / "1.png", 84, 3)).all() and image_set.label[4] == 1
    assert (image_set.split == read_folder(root).split).all()
    assert (image_set.split != read_folder(root, seed=1).split).any()


def test_given_split(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        for j in range(2):
            write_image(tmp_path / part / f"{part}_{j}" / "a.jpg", 10 * i + j)
    image_set = read_folder(tmp_path, image_size=16)
    assert all(name.startswith(split) for name, split in zip(image_set.classes, image_set.split))
    shutil.rmtree(tmp_path / "val")
    assert len(read_folder(tmp_path, image_size=16).of_split("val")) == 0


def test_published_split_of_a_folder_with_its_class_names(tmp_path):
    """Classes named as mini-ImageNet's get the published split; one strange class, and they are split as any others."""
    names = {"n01532829": "train", "n01558993": "train", "n01855672": "val", "n01930112": "test", "n01981276": "test"}
    for number, name in enumerate([*names, "n02091244"]):
        write_image(tmp_path / name / "a.jpg", number)
    image_set = read_folder(tmp_path, image_size=16)
    assert dict(zip(image_set.classes, image_set.split.tolist())) == names | {"n02091244": "val"}
    (tmp_path / "n02091244").rename(tmp_path / "kittens")
    again = read_folder(tmp_path, image_size=16)
    assert (again.split == split_classes(6)).all()


def test_greyscale_on_paper_is_inverted(tmp_path):
    root = write_tree(tmp_path, mode="L", paper=True, size=(30, 30))
    image_set = read_folder(root)
    assert image_set.inverted and image_set.images.shape[1:] == (28, 28, 1)
    assert (image_set.images[0] == 255 - decode_image(root / "class_00" / "0.png", 28, 1)).all()
    assert not read_folder(root, channels=3).inverted
    write_image(root / "class_03" / "0.png", 9)
    assert read_folder(root).images.shape[1:] == (84, 84, 3)


@pytest.mark.parametrize("count", [6, 9, 14, 15, 20, 101])
def test_split_has_enough_in_each_part(count):
    split = split_classes(count)
    least = min((split == part).sum() for part in ("train", "val", "test"))
    assert len(split) == count and least >= (5 if count >= 15 else count // 3)


def test_copies_in_a_class_count_once(tmp_path):
    root = write_tree(tmp_path)
    shutil.copy(root / "class_00" / "0.png", root / "class_00" / "copy.png")
    image_set = read_folder(root, image_size=16)
    assert image_set.class_sizes().tolist() == [3] * 6 and "1 copies left out" in image_set.source


def test_class_in_two_splits(tmp_path):
    for part in ("train", "test"):
        write_image(tmp_path / part / "cat" / "a.png", len(part))
    with pytest.raises(UserError, match="class 'cat' is in test and in train: the split leaks; .* give .*train alone"):
        read_folder(tmp_path)


def test_other_names_of_a_split_and_of_jpegs(tmp_path):
    for number, (part, ending) in enumerate({"train": "jfif", "valid": "jpe", "test": "jpg"}.items()):
        for name in "ab":
            write_image(tmp_path / part / (part + name) / "1.jpg", 10 * number + ord(name))
            (tmp_path / part / (part + name) / "1.jpg").rename(tmp_path / part / (part + name) / f"1.{ending}")
    image_set = read_folder(tmp_path, image_size=16)
    assert len(image_set.images) == 6 and len(image_set.of_split("val")) == 2


def test_identical_file_in_two_splits(tmp_path):
    for part in ("train", "val", "test"):
        write_image(tmp_path / part / part / "a.png", len(part))
    shutil.copy(tmp_path / "train" / "train" / "a.png", tmp_path / "test" / "test" / "b.png")
    with pytest.raises(
        UserError, match=r"test/test/b.png .* and .*train/train/a.png .* are the same file: the split leaks"
    ):
        read_folder(tmp_path)


def test_corrupt_image_is_named(tmp_path):
    root = write_tree(tmp_path)
    victim = root / "class_02" / "1.png"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match="class_02/1.png"):
        read_folder(root)
    victim.write_bytes(b"")
    with pytest.raises(UserError, match="class_02/1.png is not an image"):
        read_folder(root)


def test_all_bad_images_are_named_at_once_and_left_out_if_asked(tmp_path):
    """Left out, they count for nothing: neither for colour, which the first image of a class decides, nor as copies of
    each other."""
    root = write_tree(tmp_path / "photos", mode="L", paper=True)
    whole = read_folder(root, image_size=16)
    bad = [root / "class_01" / "0.png", root / "class_04" / "2.png", root / "class_05" / "1.png"]
    for victim in bad:
        victim.write_bytes(b"no image")
    with (
        pytest.warns(UserWarning) as named,
        pytest.raises(UserError, match="^3 of 18 images .named above. cannot be read"),
    ):
        read_folder(root, image_size=16)
    assert [str(warning.message).split(" is ")[0] for warning in named] == list(map(str, bad))
    with pytest.warns(UserWarning, match="^left out: ") as named:
        image_set = load_images(f"folder:{root}", image_size=16, skip_bad=True)
    assert len(named) == 3 and "; 3 unreadable images left out" in image_set.source
    assert (image_set.images == np.delete(whole.images, [3, 14, 16], axis=0)).all()
    assert (image_set.label == np.delete(whole.label, [3, 14, 16])).all()
    for j in range(3):
        (root / "class_03" / f"{j}.png").write_bytes(b"no image")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no image of .*class_03 can be read"):
        read_folder(root, skip_bad=True)


def test_one_file_in_two_classes_is_named(tmp_path):
    root = write_tree(tmp_path)
    first, second = np.flatnonzero((split := split_classes(6)) == split[0])[:2]
    shutil.copy(root / f"class_{first:02d}" / "0.png", root / f"class_{second:02d}" / "copy.png")
    with pytest.warns(UserWarning, match="copy.png are the same file in two classes"):
        assert len(read_folder(root, image_size=16).images) == 19


def test_other_refusals(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_images(f"folder:{tmp_path / 'no'}")
    with pytest.raises(UserError, match="has no sub-folders"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="5 classes cannot be split"):
        read_folder(write_tree(tmp_path / "few", classes=5))
    (tmp_path / "few" / "empty").mkdir()
    with pytest.raises(UserError, match="class 'empty' .* has no images"):
        read_folder(tmp_path / "few")
    with pytest.raises(UserError, match="is a file"):
        read_folder(tmp_path / "few" / "class_00" / "0.png")
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "few" / "class_00" / "z.gif", save_all=True, append_images=frames[1:])
    shutil.rmtree(tmp_path / "few" / "empty")
    write_tree(tmp_path / "few", classes=6)
    with pytest.raises(UserError, match="z.gif is animated"):
        read_folder(tmp_path / "few")
