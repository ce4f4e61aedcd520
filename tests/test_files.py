"""Atomic writes: what was there before is intact, and the error names the file."""

import errno
import os
import stat

import pytest

from gems_edge.files import write_atomic


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
