import errno
import json
import os

import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401

from gems_edge.device.bundle import read_bundle
from gems_edge.device.state import load_state


@pytest.fixture
def here(tmp_path):
    """h.gems (shared head), rows.gems (per-class, 3 ways) and photos of four classes."""
    handmade.write_bundle(tmp_path / "h.gems")
    handmade.write_bundle(tmp_path / "rows.gems", head="per-class", seed=1)
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(4, 2))
    return tmp_path


def test_json_document(gems_edge, here):  # noqa: F811
    result = gems_edge(
        "adapt", "h.gems", "--support", "photos", "--steps", 3, "--threads", 1, "-o", "s.state", "--json"
    )
    document = json.loads(result.out)
    assert result.code == 0 and document["state"] == "s.state" and document["steps"] == len(document["loss"]) == 3
    assert document["classes"] == ["kind 0", "kind 1", "kind 2", "kind 3"] and document["images"] == 8
    assert document["ms_per_step"].keys() == {"p50", "p90"} and document["ms_per_step"]["p50"] > 0
    assert document["peak_rss_mb"] > 10 and document["predicted_peak_mb"] > 10
    assert document["state_bytes"] == sum(
        entry.stat().st_size for entry in (here / "s.state").rglob("*") if entry.is_file()
    )
    assert [photo["file"] for photo in document["photos"]] == [f"{number:03}.png" for number in range(8)]
    assert result.err.count("loss") == 3
    assert document["leave_one_out"] is None and document["no_forecast"] and document["wants_photo"]["photos"] == 2


def test_lines_for_people(gems_edge, here):  # noqa: F811
    result = gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state")
    assert result.code == 0 and "step 5/5  loss" in result.err and "4 classes from 8 images: kind 0 (2)" in result.err
    assert (
        "measured" in result.out
        and "predicted" in result.out
        and "gems-edge predict h.gems --state s.state" in result.out
    )


def test_teaching_again_keeps_the_last_state_in_the_other_slot(gems_edge, here):  # noqa: F811
    for generation in (1, 2, 3):
        result = gems_edge("adapt", "h.gems", "--support", "photos", "--steps", generation, "-o", "s.state", "--json")
        assert json.loads(result.out)["generation"] == generation
    assert load_state(here / "s.state", read_bundle(here / "h.gems").hash).steps == 3
    assert len(list((here / "s.state").iterdir())) == 3 and len(list((here / "s.state/photos").iterdir())) == 8


def test_bad_input_leaves_what_was_there(gems_edge, here):  # noqa: F811
    assert gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state").code == 0
    before = {entry: entry.read_bytes() for entry in (here / "s.state").rglob("*") if entry.is_file()}
    handmade.write_pictures(here / "one", *handmade.pictures(1, 2))
    (here / "empty").mkdir()

    def refused(message, bundle="h.gems", support="photos", state="s.state", *more):
        assert_refused(gems_edge("adapt", bundle, "--support", support, "-o", state, *more), message)

    refused("at most 3 classes", "rows.gems", state="other.state")
    refused("taught with another bundle", "rows.gems", support="one")
    refused("holds one class", support="one")
    refused("no class folders", support="empty")
    refused("is not a directory", support="absent")
    refused("is not a bundle", "absent.gems")
    refused("other files", state="photos")
    refused("does not exist", state="absent/s.state")
    assert_refused(
        gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state", "--steps", "0"), "at least 1 (head shared)"
    )
    assert_refused(gems_edge("adapt", "h.gems", "--support", "photos"), "--output")
    (here / "photos/kind 2/bad.jpg").write_bytes(b"\xff\xd8\xff truncated")
    refused("kind 2/bad.jpg")
    handmade.edit_manifest(here / "h.gems", lambda manifest: manifest.update(format_version=99))
    refused("format 99")
    assert {entry: entry.read_bytes() for entry in (here / "s.state").rglob("*") if entry.is_file()} == before
    assert not (here / "other.state").exists()


def test_full_disk(gems_edge, here, monkeypatch):  # noqa: F811
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_refused(gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state"), "No space left", code=1)
    assert not (here / "s.state").exists()


def test_room_for_photos_is_tried_before_anything_is_learned(gems_edge, here, monkeypatch):  # noqa: F811
    """A disk with room for the weights alone, which are smaller than what is kept of the photos."""

    def small(descriptor, offset, size):
        if size > 2_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", small)
    assert_refused(gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state"), "has no room for", code=1)
    assert not (here / "s.state").exists()


def test_no_permission(gems_edge, here, monkeypatch):  # noqa: F811
    """Root may write everywhere, so the system's refusal is put in its mouth."""

    def locked(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", locked)
    assert_refused(gems_edge("adapt", "h.gems", "--support", "photos", "-o", "s.state"), "no permission for s.state")
