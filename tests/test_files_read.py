"""One door for reading: it waits for nothing, reads no device, and a document has limits."""

import os
import socket
import threading

import pytest

from gems_edge.errors import UserError
from gems_edge.files import (
    opened_to_append,
    parse_json,
    parse_toml,
    plain_sha256,
    read_file,
    read_json,
    read_plain,
    sha256_bytes,
)


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Name → a path where a file belongs and something else is."""
    os.mkfifo(tmp_path / "FIFO")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "to a FIFO").symlink_to("FIFO")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        yield {name: tmp_path / name for name in ("FIFO", "device", "to a FIFO", "socket")}


def test_nothing_but_a_file_is_read_or_written_to(odd):
    for name, path in odd.items():
        for read in (read_file, read_plain):
            with pytest.raises(UserError, match="is not a plain file, but a "):
                read(path, 100)
        with pytest.raises(UserError, match="is not a plain file"):
            opened_to_append(path)
        assert os.path.lexists(path), name


def test_a_pipe_that_is_written_to_is_none_either(odd):
    writer = threading.Thread(target=lambda: os.close(os.open(odd["FIFO"], os.O_RDWR)), daemon=True)
    writer.start()
    with pytest.raises(UserError, match="but a FIFO; name a file"):
        read_file(odd["FIFO"], 100)
    writer.join(10)
    assert not writer.is_alive()


def test_links_to_files_are_read_where_a_user_names_them(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link", 7) == b"content" == read_plain(tmp_path / "a", 7)
    assert plain_sha256(tmp_path / "a", 7) == sha256_bytes(b"content")
    for read in (read_plain, plain_sha256):
        with pytest.raises(UserError, match="but a link"):
            read(tmp_path / "link", 7)
    for read, path in ((read_file, tmp_path / "link"), (read_plain, tmp_path / "a"), (plain_sha256, tmp_path / "a")):
        with pytest.raises(UserError, match="larger than the 6 bytes"):
            read(path, 6)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 1)
    with pytest.raises(UserError, match="but a directory"):
        read_plain(tmp_path, 1)


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="Linux alone")
def test_files_without_a_size_are_read():
    assert read_file("/proc/version", 1000).startswith(b"Linux")
    assert read_file("/proc/version", 1 << 50)  # no memory is taken for what is not there


def test_appending_goes_behind_what_is_there(tmp_path):
    for text in (b"a", b"b"):
        with opened_to_append(tmp_path / "log") as file:
            file.write(text)
    assert (tmp_path / "log").read_bytes() == b"ab"


BAD_JSON = [
    *(b"{", b"[NaN]", b"[Infinity]", b"[1e999]", b"[-1e999]", b'["\\ud800"]', b'{"\\udfff": 1}', b"\xff", b"[1,]"),
    *(b"[" * 100_000 + b"]" * 100_000, b"[" * 60 + b"]" * 60, b'{"a":' * 60 + b"1" + b"}" * 60),
    *(b"1" * 5000, b"[9223372036854775808]", b"[-9223372036854775809]"),
]


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_no_program_writes(content, tmp_path):
    with pytest.raises(UserError, match="^what: .* is not valid JSON") as error:
        (tmp_path / "a.json").write_bytes(content)
        read_json(tmp_path / "a.json", "what")
    assert "\n" not in str(error.value)


BAD_TOML = [
    *(b"a", b"a = ", b"\xff", b"a = 1\na = 2", b"a = 9223372036854775808", b"a = " + b"1" * 5000, b"a = 2020-13-01"),
    *(b"a = " + b"[" * 60 + b"]" * 60, b"a = " + b"[" * 100_000, b"[" + b".".join([b"a"] * 5000) + b"]"),
]


@pytest.mark.parametrize("content", BAD_TOML, ids=range(len(BAD_TOML)))
def test_toml_that_no_program_writes(content):
    with pytest.raises(UserError, match="^what is not valid TOML") as error:
        parse_toml(content, "what")
    assert "\n" not in str(error.value)


def test_what_programs_write_is_read():
    deep = b"[" * 49 + b"1" + b"]" * 49
    assert parse_json(deep, "") and parse_json(b'{"a": [9223372036854775807, -0.5, "\xc3\xa9\\u00e9", null]}', "")
    assert parse_toml(b'a = 1\nb = [inf, nan]\n[c.d]\ne = "\xc3\xa9"', "")["c"] == {"d": {"e": "é"}}
