import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401

SPLIT = {"method": "anil", "normalization": "group", "split": True}


@pytest.fixture
def here(gems_edge, tmp_path):  # noqa: F811
    """h.gems, s.state with two photos each of kinds 0 and 1, and more/ with kinds 2 and 3."""
    images, labels = handmade.pictures(4, 2)
    handmade.write_bundle(tmp_path / "h.gems", **SPLIT)
    handmade.write_pictures(tmp_path / "photos", images[:4], labels[:4])
    handmade.write_pictures(tmp_path / "more", images[4:], labels[4:])
    assert gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state").code == 0
    return tmp_path


@pytest.fixture
def teach(gems_edge, here):  # noqa: F811
    """`teach("--undo")` → the JSON document."""

    def call(*options):
        result = gems_edge("teach", "h.gems", "s.state", *options, "--json")
        assert result.code == 0, result
        return json.loads(result.out)

    return call


def classes(document):
    return {name: [p["number"] for p in document["photos"] if p["class"] == name] for name in document["classes"]}


def test_the_life_of_a_class(teach, gems_edge, here):  # noqa: F811
    document = teach("--add", "more")
    assert document["generation"] == 2 and document["change"] == "taught kind 2 (2 photos), kind 3 (2 photos)"
    assert document["images"] == 8 and len(document["loss"]) == document["steps"] == 5
    assert document["ms_per_step"]["p50"] > 0 and document["predicted_peak_mb"] > 10 and document["trunk_ms"] > 0
    assert document["state_bytes"] == sum(e.stat().st_size for e in (here / "s.state").rglob("*") if e.is_file())
    assert classes(document) == {"kind 0": [1, 2], "kind 1": [3, 4], "kind 2": [5, 6], "kind 3": [7, 8]}
    assert classes(teach("--photo", "photos/kind 0/001.png", "--class", "kind 3"))["kind 3"] == [7, 8, 9]
    assert classes(teach("--move", "9=kind=0"))["kind=0"] == [9]
    assert classes(teach("--rename", "kind=0=a=b"))["a=b"] == [9]
    assert classes(teach("--drop", "9")).keys() == {"kind 0", "kind 1", "kind 2", "kind 3"}
    forgot = teach("--forget", "kind 1")
    assert classes(forgot) == {"kind 0": [1], "kind 2": [5, 6], "kind 3": [7, 8]} and forgot["trunk_ms"] is None
    assert classes(teach("--undo"))["kind 1"] == [3, 4]
    assert classes(teach("--undo", "4")) == classes(document)
    listed = teach("--list")
    assert listed["undo"] == ["taught kind 2 (2 photos), kind 3 (2 photos)"][:1] and listed["generation"] == 9
    assert listed["photos"][0] == {"number": 1, "class": "kind 0", "file": "000.png"}
    told = listed["leave_one_out"]
    assert told["photos"] == 8 and 0 <= told["low"] <= told["accuracy"] <= told["high"] <= 1 and told["rough"]
    answers = gems_edge("predict", "h.gems", "--state", "s.state", "more", "photos", "--json")
    assert answers.code == 2  # folders of folders: the classes' folders are named
    answers = gems_edge("predict", "h.gems", "--state", "s.state", "more/kind 3", "--json")
    assert [answer["label"] for answer in json.loads(answers.out)] == ["kind 3", "kind 3"]


def test_lines_for_people(gems_edge, here):  # noqa: F811
    result = gems_edge("teach", "h.gems", "s.state", "--add", "more")
    assert result.code == 0 and "step 5  loss" in result.err
    assert "taught kind 2 (2 photos), kind 3 (2 photos); classes: kind 0 (2), kind 1 (2), kind 2 (2)" in result.out
    assert "generation 2" in result.out and "MB predicted" in result.out and "% of 8 photos right" in result.out
    result = gems_edge("teach", "h.gems", "s.state", "--rename", "kind 3=🍵 <b>tea</b>/1")
    assert result.code == 0 and "renamed kind 3 to 🍵 <b>tea</b>/1" in result.out
    assert "% of 8 photos right" in result.out and "another photo would help" in result.out
    result = gems_edge("teach", "h.gems", "s.state", "--list")
    assert re.search("8 +🍵 <b>tea</b>/1 +003.png", result.out) and "2 changes can be undone" in result.out
    assert "% of 8 photos right" in result.out


def test_every_change_says_whether_it_is_enough(teach, gems_edge, here):  # noqa: F811
    keys = {"leave_one_out", "no_forecast", "pulls_away", "wants_photo"}
    first = gems_edge("adapt", "h.gems", "--support", "photos", "-o", "other.state", "--json")
    documents = [json.loads(first.out), *(teach(*change) for change in (("--add", "more"), ("--rename", "kind 0=a")))]
    assert all(keys <= document.keys() for document in documents)
    assert [document["leave_one_out"]["photos"] for document in documents] == [4, 8, 8]
    listed = teach("--list")
    assert all(listed[key] == documents[-1][key] for key in keys) and listed["wants_photo"]["photos"] == 2


def test_adding_to_a_state_is_teaching_at_once(teach, gems_edge, here):  # noqa: F811
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.state import load_state

    teach("--add", "more")
    for directory in sorted((here / "more").iterdir()):
        directory.rename(here / "photos" / directory.name)
    assert gems_edge("adapt", "h.gems", "--support", "photos", "-o", "once.state").code == 0
    states = [load_state(here / name, read_bundle(here / "h.gems").hash) for name in ("s.state", "once.state")]
    first, second = ({name: v.tobytes() for name, v in state.tensors.items()} for state in states)
    assert first == second and states[0].classes == states[1].classes


def test_bad_input_changes_nothing(gems_edge, here):  # noqa: F811
    (here / "noise.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (here / "empty/nothing").mkdir(parents=True)
    (here / "none").mkdir()
    handmade.write_pictures(here / "long", handmade.pictures(1, 1)[0], ["x" * 120])
    handmade.write_bundle(here / "other.gems", seed=1, **SPLIT)
    content = {e: e.read_bytes() for e in (here / "s.state").rglob("*") if e.is_file()}
    photo = "more/kind 2/000.png"
    for options, message in [
        ((), "no change is given; say one of --add, --photo"),
        (("--undo", "--list"), "--undo and --list are given; say one of"),
        (("--photo", photo), "--photo and --class go together"),
        (("--class", "x", "--undo"), "--photo and --class go together"),
        (("--photo", "noise.jpg", "--class", "x"), "noise.jpg"),
        (("--photo", "absent.jpg", "--class", "x"), "does not exist"),
        (("--photo", "photos", "--class", "x"), "is a directory"),
        (("--photo", photo, "--class", ""), "class name is empty"),
        (("--photo", photo, "--class", "x" * 300), "has 300 letters; take at most 100"),
        (("--photo", photo, "--class", "\udcff"), "is not UTF-8 text"),
        (("--photo", "photos/kind 0/000.png", "--class", "kind 0"), "taught already"),
        (("--add", "empty"), "holds no image"),
        (("--add", "none"), "has no class folders"),
        (("--add", "long"), "has 120 letters"),
        (("--add", "absent"), "is not a directory"),
        (("--add", "photos"), "taught already"),
        (("--forget", "kind 9"), "there is no class kind 9; there are kind 0, kind 1"),
        (("--forget", "kind 1"), "would leave one class (kind 0)"),
        (("--rename", "kind 0"), "takes OLD=NEW"),
        (("--rename", "kind 0=kind 1"), "a class kind 1 already"),
        (("--rename", "kind 0="), "class name is empty"),
        (("--move", "99=kind 0"), "there is no photo 99"),
        (("--move", "kind 0"), "takes PHOTO=NAME"),
        (("--move", "-1=kind 0"), "takes PHOTO=NAME"),
        (("--drop", "99"), "there is no photo 99"),
        (("--undo",), "there is no change to undo"),
        (("--undo", "0"), "--undo"),
        (("--add", "more", "--steps", "0"), "at least 1"),
        (("--add", "more", "--keep", "0"), "--keep"),
        (("--add", "more", "--precision", "int8"), "no quantised graph"),
    ]:
        assert_refused(gems_edge("teach", "h.gems", "s.state", *options), message)
    assert_refused(gems_edge("teach", "other.gems", "s.state", "--add", "more"), "taught with another bundle")
    assert_refused(gems_edge("teach", "h.gems", "absent.state", "--add", "more"), "is not a state")
    assert {e: e.read_bytes() for e in (here / "s.state").rglob("*") if e.is_file()} == content


def test_a_full_disk_loses_nothing(gems_edge, here, monkeypatch):  # noqa: F811
    content = {e: e.read_bytes() for e in (here / "s.state").rglob("*") if e.is_file()}
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 3:  # after a photo was written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = gems_edge("teach", "h.gems", "s.state", "--add", "more")
    assert_refused(result, "No space left", code=1)
    assert "what it held before is intact" in result.err
    assert {e: e.read_bytes() for e in (here / "s.state").rglob("*") if e.is_file()} == content


def test_a_state_that_is_taught_by_two_at_once(gems_edge, here, monkeypatch):  # noqa: F811
    from gems_edge.device import Learner

    save, others = Learner.save, []

    def late(self, path):
        if not others:
            others.append(True)
            other = Learner.load(here / "h.gems")
            other.load_state(here / "s.state")
            other.teach(*handmade.pictures(5, 1, seed=9))
            other.save(here / "s.state")
        return save(self, path)

    monkeypatch.setattr(Learner, "save", late)
    result = gems_edge("teach", "h.gems", "s.state", "--photo", "more/kind 3/002.png", "--class", "late", "--json")
    document = json.loads(result.out)
    assert document["classes"] == [f"kind {number}" for number in range(5)] + ["late"]
    assert "another process has taught s.state meanwhile" in result.err


def test_kills_in_the_middle_of_every_verb(here):
    """Ten SIGKILLs spread over each verb's run: the state before or the state after, with all its photos."""
    script = Path(__file__).with_name("killed_teaching.py")
    done = subprocess.run([sys.executable, script], cwd=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts.keys() == {"add", "photo", "forget", "rename", "move", "drop", "undo"}
    assert all(sum(count.values()) == 10 and count.keys() <= {"before", "after"} for count in counts.values())
