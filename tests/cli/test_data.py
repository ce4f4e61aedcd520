import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def run(tmp_path):
    """The real command line, with its own cache, in its own directory."""

    def call(*arguments):
        environment = os.environ | {"GEMS_EDGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gems_edge", "data", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)

    return call


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        for j in range(3):
            path = tmp_path / "photos" / f"kind {i}" / f"{j}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([i, j]).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def refused(result, code, *parts):
    assert result.returncode == code, result
    assert result.stdout == "" and len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.stderr
    assert all(part in result.stderr for part in parts), result.stderr


def test_list(run):
    text = run("list")
    assert text.returncode == 0 and text.stderr == ""
    sources = json.loads(run("list", "--json").stdout)
    assert {source["name"]: source["ready"] for source in sources} == {
        "glyphs": True,
        "omniglot": False,
        "flowers102": False,
        "fgvc-aircraft": False,
        "cifar100": False,
        "folder:PATH": None,
        "packed:FILE.npz": None,
    }
    assert all(source["name"] in text.stdout for source in sources)


def test_show_and_pack(run, photos, tmp_path):
    shown = run("show", f"folder:{photos}", "-o", "sheet.png", "--json")
    facts = json.loads(shown.stdout)
    assert (facts["classes"], facts["images"], facts["image_size"], facts["channels"]) == (6, 18, 84, 3)
    assert {split: part["classes"] for split, part in facts["splits"].items()} == {"train": 2, "val": 2, "test": 2}
    assert Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())).size[1] >= 6 * 84
    packed = run("pack", photos, "-o", "photos.npz", "--image-size", "32")
    assert packed.returncode == 0 and "use it with --data packed:photos.npz" in packed.stderr
    again = json.loads(run("show", "packed:photos.npz", "--json").stdout)
    assert (again["images"], again["image_size"], again["splits"]) == (18, 32, facts["splits"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos.npz", "sheet.png"]


def test_glyphs_write_to_the_cache_alone(run, tmp_path, monkeypatch):
    for variable in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    result = run("show", "glyphs")
    assert result.returncode == 0 and result.stderr == ""
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["glyphs-v1.npz"]
    assert list((tmp_path / "home").iterdir()) == []


def test_pack_keeps_what_was_there_if_it_fails(run, photos, tmp_path):
    (tmp_path / "photos.npz").write_bytes(b"before")
    (photos / "kind 3" / "1.jpg").write_bytes(b"no image")
    refused(run("pack", photos, "-o", "photos.npz"), 2, "kind 3/1.jpg is not an image")
    assert (tmp_path / "photos.npz").read_bytes() == b"before"
    (photos / "kind 4" / "0.jpg").write_bytes(b"")
    packed = run("pack", photos, "-o", "photos.npz", "--skip-bad", "--json")
    assert packed.returncode == 0 and json.loads(packed.stdout)["images"] == 16
    for name in ("kind 3/1.jpg", "kind 4/0.jpg"):
        assert f"{name} is not an image" in packed.stderr


def test_bad_input(run, photos):
    refused(run("show", "omniglott"), 2, "unknown data 'omniglott'", "did you mean omniglot")
    refused(run("show", "packed:no.npz"), 2, "no.npz does not exist")
    refused(run("show", f"packed:{photos / 'kind 1' / '0.jpg'}"), 2, "is no packed data file")
    refused(run("show", f"folder:{photos}", "--image-size", "0"), 2, "image size 0 is out of range")
    refused(run("pack", photos, "-o", "photos.zip"), 2, "must end in .npz")
    refused(run("pack", photos, "-o", "no/where.npz"), 2, "no does not exist; create it")
    refused(run("pack", photos / "none", "-o", "a.npz"), 2, "does not exist")
