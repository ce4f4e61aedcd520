import pickle
import sys

import numpy as np
import pytest
from data_making import write_image
from PIL import Image

from gems_edge.data.published import read_split, split_of
from gems_edge.data.sources import list_sources, load_images
from gems_edge.data.torchvision_sets import PUBLIC_SETS
from gems_edge.errors import MachineError, UserError

datasets = pytest.importorskip("torchvision.datasets")
SPLITS = ("train", "val", "test")


@pytest.mark.parametrize(
    ("name", "counts"), [("flowers102", (71, 15, 16)), ("fgvc-aircraft", (70, 15, 15)), ("cifar100", (64, 16, 20))]
)
def test_published_lists(name, counts):
    lists = read_split(name)
    assert tuple(len(lists[split]) for split in SPLITS) == counts
    assert len({entry for split in SPLITS for entry in lists[split]}) == sum(counts)
    if name == "flowers102":
        assert {entry for split in SPLITS for entry in lists[split]} == set(datasets.Flowers102.classes)


def test_omniglot_splits_by_alphabet_with_four_exceptions():
    lists = read_split("omniglot")
    assert sum(len(lists[split]) for split in SPLITS) == 54
    assert split_of(("Gurmukhi/character41", "Gurmukhi/character42", "Hebrew/character01"), lists).tolist() == [
        "train",
        "test",
        "val",
    ]
    with pytest.raises(UserError, match="'Klingon/character01' is in no published split"):
        split_of(("Klingon/character01",), lists)


@pytest.fixture
def no_download(monkeypatch):
    """A server that is not there, whatever torchvision uses to reach it."""

    def refuse(*_, **__):
        raise OSError("no network")

    for module in ("utils", "omniglot", "flowers102", "fgvc_aircraft", "cifar"):
        for function in ("download_url", "download_and_extract_archive"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", refuse, raising=False)


def test_omniglot(tmp_path, monkeypatch, no_download):
    root = tmp_path / "data"
    for part, alphabet in (("background", "Latin"), ("background", "Hebrew"), ("evaluation", "Tibetan")):
        for i in range(2):
            folder = root / "omniglot-py" / f"images_{part}" / alphabet / f"character0{i + 1}"
            for j in range(3):
                ink = write_image(folder / f"000{i}_0{j}.png", 10 * i + j, mode="L", size=(105, 105), paper=True)
                Image.open(ink).convert("1").save(ink)
    for part in ("background", "evaluation"):
        (root / "omniglot-py" / f"images_{part}.zip").write_bytes(b"")
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", dict.fromkeys(("images_background", "images_evaluation")))
    image_set = load_images("omniglot", root=root)
    assert image_set.images.shape == (18, 28, 28, 1) and image_set.inverted and image_set.images[:, 0].max() < 64
    assert dict(zip(image_set.classes, image_set.split)) == {
        f"{alphabet}/character0{i}": split
        for alphabet, split in (("Hebrew", "val"), ("Latin", "train"), ("Tibetan", "test"))
        for i in (1, 2)
    }
    assert np.array_equal(load_images("omniglot", root=root).images, image_set.images)  # from the cache
    assert load_images("omniglot", root=root, image_size=84, channels=3).images.shape == (18, 84, 84, 3)
    assert {source.name: source.ready for source in list_sources(root)}["omniglot"] is True


def test_aircraft(tmp_path, no_download):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    variants = ["A310", "737-400", "F-16A/B", "Boeing 717"]
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("\n".join(variants) + "\n")
    for k, part in enumerate(("trainval", "test")):
        lines = [f"{100 * k + 10 * i + j:07d} {variant}" for i, variant in enumerate(variants) for j in range(2)]
        (data / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            write_image(data / "images" / f"{line[:7]}.jpg", int(line[:7]), size=(120, 90))
    image_set = load_images("fgvc-aircraft", root=tmp_path)
    assert image_set.images.shape == (16, 84, 84, 3) and image_set.class_sizes().tolist() == [4] * 4
    assert dict(zip(image_set.classes, image_set.split)) == {
        "737-400": "test",
        "A310": "val",
        "Boeing 717": "test",
        "F-16A/B": "train",
    }
    victim = next((data / "images").iterdir())
    victim.unlink()
    with pytest.raises(UserError, match="fgvc-aircraft: the files in .* are incomplete or damaged"):
        load_images("fgvc-aircraft", root=tmp_path)


def test_cifar100(tmp_path, monkeypatch, no_download):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = ["apple", "beaver", "rose"]
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3 * 32 * 32), dtype=np.uint8)
    labels = [i % 3 for i in range(12)]
    for name, content in (
        ("train", {"data": pixels[:9], "fine_labels": labels[:9]}),
        ("test", {"data": pixels[9:], "fine_labels": labels[9:]}),
        ("meta", {"fine_label_names": names}),
    ):
        (folder / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": None})
    image_set = load_images("cifar100", root=tmp_path)
    assert image_set.images.shape == (12, 32, 32, 3) and image_set.label.tolist() == labels
    assert np.array_equal(image_set.images[10], pixels[10].reshape(3, 32, 32).transpose(1, 2, 0))
    assert image_set.split.tolist() == ["train", "val", "test"]


def test_flowers102(tmp_path, monkeypatch, no_download):
    scipy_io = pytest.importorskip("scipy.io", reason="torchvision reads the labels of Flowers102 with scipy")
    folder = tmp_path / "flowers-102"
    labels = [1, 5, 10, 1, 5, 10]  # pink primrose, english marigold, globe thistle
    for i in range(6):
        write_image(folder / "jpg" / f"image_{i + 1:05d}.jpg", i, size=(60, 50))
    scipy_io.savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})
    scipy_io.savemat(
        folder / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[5, 6]])}
    )
    files = {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    image_set = load_images("flowers102", root=tmp_path)
    assert image_set.images.shape == (6, 84, 84, 3) and image_set.class_sizes().tolist() == [2, 2, 2]
    lists = read_split("flowers102")
    assert all(name in lists[split] for name, split in zip(image_set.classes, image_set.split))


def test_flowers102_without_scipy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="flowers102 needs the package 'scipy'"):
        load_images("flowers102", root=tmp_path)


@pytest.mark.parametrize("name", ["omniglot", "fgvc-aircraft", "cifar100"])
def test_no_network(tmp_path, no_download, name, capfd):
    with pytest.raises(MachineError) as error:
        load_images(name, root=tmp_path / "data")
    message = str(error.value)
    assert "no network" in message and str(tmp_path / "data") in message and PUBLIC_SETS[name].files[0] in message
    assert capfd.readouterr().out == ""


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match="did you mean omniglot"):
        load_images("omniglott")
    with pytest.raises(UserError, match="for a folder write folder:"):
        load_images(str(tmp_path))
    with pytest.raises(UserError, match="names no folder"):
        load_images("folder:")
    with pytest.raises(UserError, match="image size 4 is out of range"):
        load_images("glyphs", image_size=4)
    with pytest.raises(UserError, match="2 channels"):
        load_images("glyphs", channels=2)
