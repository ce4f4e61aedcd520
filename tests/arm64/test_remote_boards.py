"""`gems-edge bench --host` on three emulated Raspberry Pis, by ssh: one home, moved from board to board as a card is."""

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


@pytest.mark.parametrize("cpu", BOARDS)
def test_bench_on_a_board(cpu, pi, tmp_path):
    server, board = pi
    write_board(cpu, board)
    command = [
        sys.executable,
        "-m",
        "gems_edge",
        "bench",
        handmade.write_bundle(tmp_path / "h.gems"),
        "--host",
        "board",
    ]
    command += ["-F", server.config, "--threads", "1", "--keep", "--json"]
    done = call(*command, timeout=500)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    document = json.loads(done.stdout)
    host, facts = document["host"], BOARDS[cpu]
    assert (host["board"], host["machine"], host["cpu"].lower()) == (facts.model, "aarch64", cpu)
    assert host["highest_clock_mhz"] == facts.max_mhz and host["throttled"] == "0x0"
    assert document["predict"]["tag"] == document["adapt"]["tag"] == "measured"
    agreement = document["remote"]["agreement"]
    assert agreement["same_labels"] and agreement["largest_difference"] < 1e-4, agreement
    assert not list((server.home / ".cache" / "gems-edge" / "bench").glob("run-*"))
