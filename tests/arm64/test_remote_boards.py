"""`gems-edge bench --host` on emulated Raspberry Pis, by ssh: one home, moved from board to board as a card is."""

import json
import subprocess
import sys

import handmade
import pytest
from boards import BOARDS, write_board
from debian import Unavailable
from sshd import loopback_sshd
from userland import forced_command


@pytest.fixture(scope="module")
def pi(root, tmp_path_factory):
    """The server, and the directory that says what board it is."""
    board = tmp_path_factory.mktemp("board")
    try:
        with loopback_sshd(forced_command(root, board)) as server:
            yield server, board
    except Unavailable as reason:
        pytest.skip(str(reason))


def call(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


@pytest.mark.slow(5)
def test_sessions_and_copies_are_inside(pi, tmp_path):
    server, board = pi
    write_board("cortex-a72", board)
    told = call("ssh", "-F", server.config, "board", "uname -m; echo ~; cat > from-stdin; exit 7", input="by stdin")
    assert (told.stdout, told.returncode) == ("aarch64\n/home/pi\n", 7), told.stderr
    (tmp_path / "sent").write_bytes(bytes(range(256)) * 100)
    assert call("scp", "-F", server.config, tmp_path / "sent", "board:kept").returncode == 0
    batch = f"get kept {tmp_path}/back\nget from-stdin {tmp_path}/said\nrm kept\nrm from-stdin\n"
    assert call("sftp", "-F", server.config, "-b", "-", "board", input=batch).returncode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
    assert (tmp_path / "said").read_text() == "by stdin"
    assert list(server.home.iterdir()) == []
    asked = call("ssh", "-F", server.config, "board", "rsync --version | head -1; command -v rsync")
    assert asked.stdout.startswith("rsync") and asked.stdout.endswith("/usr/bin/rsync\n")


@pytest.mark.slow(150)
def test_bench_on_two_boards(pi, tmp_path):
    """The first gets the environment and the second finds it kept.

    What each of the three says of itself, and that it answers as this machine does: test_board_package.py.
    """
    server, board = pi
    bundle = handmade.write_bundle(tmp_path / "h.gems")
    command = [sys.executable, "-m", "gems_edge", "bench", bundle, "--host", "board", "-F", server.config]
    for cpu, installs in (("cortex-a72", True), ("cortex-a53", False)):
        write_board(cpu, board)
        done = call(*command, "--threads", "1", "--keep", "--json", timeout=500)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert ("creating an environment" in done.stderr) == installs
        check_document(json.loads(done.stdout), cpu)
        assert not list((server.home / ".cache" / "gems-edge" / "bench").glob("run-*"))


def check_document(document, cpu):
    host, facts = document["host"], BOARDS[cpu]
    assert (host["board"], host["machine"], host["cpu"].lower()) == (facts.model, "aarch64", cpu)
    assert host["highest_clock_mhz"] == facts.max_mhz and host["throttled"] == "0x0"
    assert document["predict"]["tag"] == document["adapt"]["tag"] == "measured"
    agreement = document["remote"]["agreement"]
    assert agreement["same_labels"] and agreement["largest_difference"] < 1e-4, agreement
