"""The board on loopback that other tests log in to."""

import subprocess

import pytest
from debian import Unavailable
from sshd import loopback_sshd


@pytest.fixture(scope="module")
def server():
    try:
        with loopback_sshd() as server:
            yield server
    except Unavailable as reason:
        pytest.skip(str(reason))


def run(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, **options)


def test_a_session_is_an_ordinary_user_with_a_home_of_its_own(server):
    done = run("ssh", "-F", server.config, "board", "id -un; id -u; pwd; echo $HOME; grep CapEff /proc/self/status")
    name, number, here, home, privilege = done.stdout.splitlines()
    assert (name, number, here, home) == ("pi", "1000", str(server.home), str(server.home)), done.stderr
    assert int(privilege.split()[1], 16) == 0


def test_files_come_and_go(server, tmp_path):
    (tmp_path / "sent").write_bytes(bytes(range(256)) * 100)
    assert run("scp", "-F", server.config, tmp_path / "sent", "board:kept").returncode == 0
    assert (server.home / "kept").read_bytes() == (tmp_path / "sent").read_bytes()
    batch = f"get kept {tmp_path}/back\nrm kept\n"
    assert run("sftp", "-F", server.config, "-b", "-", "board", input=batch).returncode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
    assert not (server.home / "kept").exists()


def test_an_unknown_host_key_is_refused(server, tmp_path):
    (tmp_path / "none").touch()
    done = run("ssh", "-F", server.config, "-o", f"UserKnownHostsFile={tmp_path}/none", "board", "true")
    assert done.returncode == 255 and "Host key verification failed" in done.stderr


def test_a_forced_command_learns_what_was_asked_for():
    try:
        with loopback_sshd('printf "%s" "got:$SSH_ORIGINAL_COMMAND"') as server:
            assert run("ssh", "-F", server.config, "board", "uname -m").stdout == "got:uname -m"
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_what_a_session_leaves_running_ends_with_the_server(tmp_path):
    try:
        with loopback_sshd() as server:
            leave = "nohup sh -c 'while :; do date +%s.%N > beat; sleep 0.05; done' > /dev/null 2>&1 &"
            assert run("ssh", "-F", server.config, "board", leave).returncode == 0
            alive = run("ssh", "-F", server.config, "board", "pgrep -c -f beat").stdout
            assert int(alive) >= 1
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert run("pgrep", "-f", "date +%s.%N > bea[t]").stdout == ""
