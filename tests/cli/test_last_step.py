"""What can be refused is refused before anything is learned: places, names, rights and room, by the real commands."""

import os
import subprocess
from contextlib import contextmanager

import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A bundle and photos, and a Learner that must not be asked to learn."""
    from gems_edge.device import Learner

    handmade.write_bundle(tmp_path / "h.gems")
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(3, 1))
    monkeypatch.setattr(Learner, "adapt", lambda *_: pytest.fail("it learned before it refused"))
    return tmp_path


@contextmanager
def file_system(path, options):
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


ADAPT = ("adapt", "h.gems", "--support", "photos", "-o")


def test_adapt_to_a_full_disk(gems_edge, here):  # noqa: F811
    with file_system(here / "small", "size=4k"):
        (here / "small" / "full").write_bytes(bytes(4096))
        assert_refused(gems_edge(*ADAPT, "small/s.state"), "small has no room for 0.0 MB (No space left", code=1)


def test_adapt_to_a_disk_that_is_read_only(gems_edge, here):  # noqa: F811
    with file_system(here / "still", "ro"):
        result = gems_edge(*ADAPT, "still/s.state")
        assert_refused(result, "still is on a file system that is read only; choose another place")
        assert " -o" not in result.err  # other commands' places are named by other options


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_adapt_without_rights(gems_edge, here):  # noqa: F811
    (here / "locked").mkdir(mode=0o500)
    assert_refused(gems_edge(*ADAPT, "locked/s.state"), "no permission for locked")


def test_names_that_no_state_can_hold(gems_edge, here):  # noqa: F811
    assert_refused(gems_edge(*ADAPT, os.fsdecode(b"\xff.state")), "is no name in UTF-8; rename it")
    os.rename(here / "photos" / "kind 1", os.fsencode(here / "photos") + b"/\xff\xfe")
    assert_refused(gems_edge(*ADAPT, "s.state"), "is not UTF-8 text; rename it")
    assert not (here / "s.state").exists()


def test_export_has_its_place_before_it_begins(cli_here, small_run, tmp_path, monkeypatch):
    from gems_edge.export import pipeline

    monkeypatch.setattr(pipeline, "_compacted", lambda *_: pytest.fail("it pruned before it refused"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x-front.html").mkdir()
    refused = cli_here("export", small_run, "--ratio", "0.5,0.8", "-o", "x.gems", code=2).stderr
    assert "x-front.html is a directory" in refused
    refused = cli_here("export", small_run, "-o", os.fsdecode(b"\xff.gems"), code=2).stderr
    assert "is no name in UTF-8" in refused
    with file_system(tmp_path / "small", "size=64k"):
        refused = cli_here("export", small_run, "--ratio", "0", "-o", "small/x.gems", code=1).stderr
        assert "small has no room for 0.2 MB (No space left" in refused
    assert sorted(os.listdir(tmp_path)) == ["small", "x-front.html"]


def test_training_has_its_room_before_it_begins(cli_here, tmp_path, monkeypatch):
    from small_settings import SMALL

    from gems_edge.meta.train import Trainer

    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trained before it refused"))
    with file_system(tmp_path / "small", "size=64k"):
        refused = cli_here("train", *SMALL, "-o", tmp_path / "small" / "run", code=1).stderr
        assert "has no room for 0." in refused and "free some space" in refused


def test_a_ticket_and_a_page_have_their_places(cli_here, small_run, tmp_path, monkeypatch):
    from gems_edge.tickets import sources

    monkeypatch.setattr(sources, "find_ticket", lambda *_: pytest.fail("it searched before it refused"))
    (tmp_path / "t.ticket").mkdir()
    assert (
        "is a directory; name a file"
        in cli_here("ticket", "find", small_run, "-o", tmp_path / "t.ticket", code=2).stderr
    )
    assert "does not exist" in cli_here("report", small_run, "-o", tmp_path / "no" / "page.html", code=2).stderr
