"""Atomic writes: what was there before is intact, and the error names the file."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from gems_edge.errors import UserError
from gems_edge.files import cache_directory, write_atomic


def test_written_whole_with_the_usual_rights(tmp_path):
    write_atomic(tmp_path / "a", "text")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("stage", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_stage_keeps_the_old_content(tmp_path, monkeypatch, stage, error):
    write_atomic(tmp_path / "a", b"old")

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(type(error)) as caught:
        write_atomic(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
    if isinstance(error, OSError):
        assert caught.value.filename == str(tmp_path / "a") and caught.value.errno == errno.ENOSPC


def test_a_missing_directory_is_named_by_the_file_wanted(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "no" / "a", b"")
    assert caught.value.filename == str(tmp_path / "no" / "a")


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_file_systems_without_rights_and_without_sync_of_directories(tmp_path, monkeypatch, error):
    synced = os.fsync

    def fail(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "chmod", fail)
    monkeypatch.setattr(os, "fsync", lambda file: fail() if stat.S_ISDIR(os.fstat(file).st_mode) else synced(file))
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_without_a_home_caches_are_below_tmp_and_ones_own(tmp_path, monkeypatch):
    for name in ("GEMS_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    place = cache_directory()
    assert place.parent == tmp_path and stat.S_IMODE(place.stat().st_mode) == 0o700 and cache_directory() == place
    place.chmod(0o777)  # of somebody who waits for us
    with pytest.raises(UserError, match="name a directory with GEMS_EDGE_CACHE"):
        cache_directory()
