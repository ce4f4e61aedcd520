"""--resume goes on with the run that is named, or says in one line that there is none; other places are left alone."""

import os

import pytest
from small_settings import SMALL

TINY = (*SMALL, "--widths", "8", "--iterations", "2", "--meta-batch", "1", "--validation-episodes", "2")
NO_RUN = "holds no run to go on with"


def content_of(directory):
    return {str(path): path.is_file() and path.read_bytes() for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def tiny(cli_here, made_once):
    return made_once("tiny-resume", lambda run: cli_here("train", *TINY, "-o", run))


def test_a_place_without_a_run_is_left_alone(tmp_path, cli_here):
    """A name that is mistyped, an empty directory, one of something else, the directory above, a file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = content_of(tmp_path)
    for place in ("mistyped", "empty", "notes", ".", "file", "notes/run"):
        for options in ((), TINY, ("--ticket", "mwt"), ("--method", "multi-maml")):
            assert NO_RUN in cli_here("train", "--resume", *options, "-o", tmp_path / place, code=2).stderr
    assert content_of(tmp_path) == before


def test_odd_files_in_the_place_of_a_config(tmp_path, cli_here):
    (tmp_path / "directory" / "config.toml").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.toml")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.toml").write_bytes(b"\xff")
    for name, words in (("directory", "is no file"), ("pipe", "but a FIFO"), ("text", "is not valid TOML")):
        for command in (("train", "--resume", "-o", tmp_path / name), ("evaluate", tmp_path / name)):
            assert words in cli_here(*command, code=2).stderr


def test_a_run_that_was_altered_is_not_gone_on_with(tiny, tmp_path, cli_here):
    import shutil

    run = shutil.copytree(tiny, tmp_path / "run")
    config = run / "config.toml"
    whole = config.read_text()
    config.write_text(whole.replace("iterations = 2", "iterations = 3"))
    before = content_of(run)
    result = cli_here("train", "--resume", "-o", run, code=2)
    assert "its SHA-256 is not that of config.sha256" in result.stderr and content_of(run) == before
    config.write_text(whole)
    checkpoint = run / "last" / "checkpoint.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-5] ^= 1
    checkpoint.write_bytes(content)
    before = content_of(run)
    assert "is damaged: its SHA-256" in cli_here("train", "--resume", "-o", run, code=2).stderr
    assert content_of(run) == before


def test_a_run_that_a_kill_ended_before_it_began_can_be_begun(tiny, tmp_path, cli_here):
    """Its checksum is written first."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.sha256").write_bytes((tiny / "config.sha256").read_bytes())
    cli_here("train", *TINY, "--seed", "1", "-o", run)
    assert (run / "config.toml").read_text() != (tiny / "config.toml").read_text()
    cli_here("train", "--resume", "-o", run)
