import json
import os
import subprocess
import sys

import numpy as np
import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401
from PIL import Image

NO_TRUST = "no trust file, so who made the bundle is not checked (--trust FILE)"


@pytest.fixture
def here(tmp_path, gems_edge):  # noqa: F811
    """h.gems taught three kinds in s.state, and new photos of them."""
    handmade.write_bundle(tmp_path / "h.gems")
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(3, 2))
    handmade.write_pictures(tmp_path / "new", *handmade.pictures(3, 4, seed=7))
    assert gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state").code == 0
    return tmp_path


def test_json_list(gems_edge, here):  # noqa: F811
    result = gems_edge("predict", "h.gems", "--state", "s.state", "new/kind 1/004.png", "new/kind 2", "--json")
    document = json.loads(result.out)
    assert result.code == 0 and result.err.splitlines() == [NO_TRUST]
    assert [entry["image"] for entry in document] == [
        "new/kind 1/004.png",
        *(f"new/kind 2/{n:03}.png" for n in range(8, 12)),
    ]
    assert [entry["label"] for entry in document] == ["kind 1", *["kind 2"] * 4]
    for entry in document:
        assert entry.keys() == {
            "image", "label", "known", "guess", "score", "probability", "probabilities"
        }  # fmt: skip
        assert entry["probabilities"].keys() == {"kind 0", "kind 1", "kind 2"}
        assert entry["probability"] == entry["probabilities"][entry["label"]] == max(entry["probabilities"].values())
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_table(gems_edge, here):  # noqa: F811
    result = gems_edge("predict", "h.gems", "--state", "s.state", "new/kind 0")
    assert result.code == 0 and result.out.splitlines()[0].split() == ["image", "class", "probability", "next"]
    assert len(result.out.splitlines()) == 6 and "kind 0" in result.out


def test_sets_of_a_bundle_without_foreign_objects_follow_its_probabilities(gems_edge, here):  # noqa: F811
    predict = ("predict", "h.gems", "--state", "s.state", "new/kind 0", "--coverage")
    result = gems_edge(*predict, "0.9", "--json")
    assert result.code == 0 and result.err.count("exported without foreign objects") == 1
    for entry in json.loads(result.out):
        assert sum(entry["probabilities"][name] for name in entry["set"]) >= 0.9
        assert sum(entry["probabilities"][name] for name in entry["set"][:-1]) < 0.9
    assert "set" in gems_edge(*predict, "0.9").out.splitlines()[0]
    assert_refused(gems_edge(*predict, "90"), "coverage is 90; give a share between 0 and 1")


def test_a_thousand_images_answer_as_each_alone(gems_edge, here):  # noqa: F811
    handmade.write_pictures(here / "many", handmade.pictures(3, 333, seed=9)[0], ["all"] * 999)
    together = json.loads(gems_edge("predict", "h.gems", "--state", "s.state", "many/all", "--json").out)
    assert len(together) == 999
    for entry in (together[0], together[500], together[998]):
        [alone] = json.loads(gems_edge("predict", "h.gems", "--state", "s.state", entry["image"], "--json").out)
        assert alone["probabilities"] == pytest.approx(entry["probabilities"], abs=1e-6)


def test_untaught_bundle_says_so(gems_edge, here):  # noqa: F811
    result = gems_edge("predict", "h.gems", "new/kind 0", "--json")
    assert result.code == 0 and "taught nothing" in result.err
    assert set(json.loads(result.out)[0]["probabilities"]) == {"class 1", "class 2", "class 3"}


def test_damaged_newest_slot_is_said(gems_edge, here):  # noqa: F811
    assert gems_edge("adapt", "h.gems", "--support", "photos", "--steps", 1, "-o", "s.state").code == 0
    (here / "s.state/b.safetensors").write_bytes(b"")
    result = gems_edge("predict", "h.gems", "--state", "s.state", "new/kind 0", "--json")
    assert result.code == 0 and "b.safetensors is damaged" in result.err and len(json.loads(result.out)) == 4


def test_one_bad_image_keeps_no_other_from_its_answer(gems_edge, here):  # noqa: F811
    """By itself and within a directory; it is named once, and the exit code says that not all is well."""
    cut = here / "new/kind 0/002a.png"
    cut.write_bytes((here / "new/kind 0/000.png").read_bytes()[:-40])
    (here / "none.png").write_bytes(b"")
    result = gems_edge("predict", "h.gems", "--state", "s.state", "none.png", "new/kind 0", "--json")
    assert result.code == 2 and len(json.loads(result.out)) == 4
    assert result.err.count("002a.png is damaged") == 1 and result.err.count("none.png is not an image") == 1
    assert "gems-edge: 2 images of 6 could not be read (named above)" in result.err.splitlines()
    assert len(gems_edge("predict", "h.gems", "--state", "s.state", "none.png", "new/kind 0").out.splitlines()) == 6


def test_bad_input(gems_edge, here):  # noqa: F811
    handmade.write_bundle(here / "other.gems", seed=5)
    (here / "empty").mkdir()
    (here / "bad.png").write_bytes((here / "new/kind 0/000.png").read_bytes()[:-40])
    (here / "text.jpg").write_text("not an image")
    frames = [Image.new("L", (20, 20), shade) for shade in (0, 255)]
    frames[0].save(here / "moving.gif", save_all=True, append_images=frames[1:])
    good = "new/kind 0/000.png"
    for arguments, message in [
        (["h.gems", "absent.png"], "absent.png does not exist"),
        (["h.gems", "bad.png"], "bad.png"),
        (["h.gems", "text.jpg"], "text.jpg is not an image"),
        (["h.gems", "moving.gif"], "animated"),
        (["h.gems", "empty"], "holds no image"),
        (["h.gems", "new"], "holds no image"),
        (["h.gems"], "IMAGE"),
        (["absent.gems", good], "not a bundle"),
        (["photos", good], "manifest.json does not exist"),
        (["h.gems", good, "--state", "absent.state"], "not a state"),
        (["h.gems", good, "--state", "empty"], "holds no state"),
        (["other.gems", good, "--state", "s.state"], "another bundle"),
        (["h.gems", good, "--threads", "0"], "--threads"),
    ]:
        assert_refused(gems_edge("predict", *arguments, "--json"), message)
    (here / "h.gems/predict.onnx").write_bytes((here / "h.gems/predict.onnx").read_bytes()[:100])
    assert_refused(gems_edge("predict", "h.gems", good), "was altered")


def test_colour_spaces_are_converted(gems_edge, here):  # noqa: F811
    image = Image.open(here / "new/kind 0/000.png")
    for mode, name in [
        ("RGB", "rgb.png"),
        ("CMYK", "cmyk.jpg"),
        ("LA", "alpha.png"),
        ("1", "bits.png"),
        ("I;16", "deep.png"),
    ]:
        converted = image.convert(mode)
        if mode == "I;16":  # of all its levels: a picture that uses 8 bits of 16 is refused
            converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        converted.save(here / name)
        assert gems_edge("predict", "h.gems", "--state", "s.state", name).code == 0


def test_cold_start_is_under_a_second(here):
    """Of processor time, which other work on the machine leaves alone."""
    command = [sys.executable, "-m", "gems_edge", "predict", "h.gems", "--state", "s.state", "new/kind 0/000.png"]
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run(command, cwd=here, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 1.0, seconds
