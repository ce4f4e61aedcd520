"""What keeps a board from being measured: one line that names the board and says what to do. Real ssh, real sshd."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from on_board import write_wheel


@pytest.fixture
def changed(server, tmp_path):
    """`changed(Port=…)`: the board's ssh configuration with other values."""

    def write(**values) -> Path:
        lines = [f"  {name} {value}" for name, value in values.items()]
        kept = [line for line in server.config.read_text().splitlines() if line.split()[0] not in values]
        (tmp_path / "config").write_text("\n".join(["Host *", *lines, *kept, ""]))
        return tmp_path / "config"

    return write


def test_a_closed_port(refused, changed):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        message = refused(changed(Port=probe.getsockname()[1]))
    assert message.startswith("board refuses the connection") and "enable ssh" in message


def test_an_unknown_name(refused, changed):
    assert "no machine of that name" in refused(changed(HostName="no-such-board.invalid"))


@pytest.mark.parametrize("checking", ["yes", "ask"])
def test_a_host_key_that_is_not_known(refused, changed, tmp_path, checking):
    known = tmp_path / "known"
    message = refused(changed(UserKnownHostsFile=known, StrictHostKeyChecking=checking))
    assert message.startswith("board: its host key is not known yet; log in once with ssh board")
    assert not known.exists()


def test_a_host_key_that_has_changed(refused, changed, server, tmp_path):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    (tmp_path / "known").write_text(f"[{server.host}]:{server.port} {other}")
    message = refused(changed(UserKnownHostsFile=tmp_path / "known"))
    assert "host key is not the one known" in message and "ssh-keygen -R board" in message


def test_a_key_that_the_board_does_not_accept(refused, changed, tmp_path):
    message = refused(changed(IdentityFile=make_key(tmp_path / "mine")))
    assert message.startswith("board refuses the login") and "ssh-copy-id board" in message


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "", "two words"])
def test_what_is_no_host(refused, server, host):
    assert "is not a host" in refused(server.config, host=host)


def test_a_configuration_that_is_not_there(refused, tmp_path):
    assert "ssh cannot read its configuration" in refused(tmp_path / "absent")


def test_options_that_need_a_host(cli, bundle):
    assert "--host" in cli("bench", bundle, "--keep", code=2).stderr


def python_that(server, *changes: str) -> None:
    """The board's only python3 says of itself what `changes` (Python statements) make it say.

    The state of a board that is not at hand: an old or a 32-bit Python. What asks it is the real thing.
    """
    tools = server.home / "bin"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "uname"):
        if not (tools / name).exists():
            (tools / name).symlink_to(f"/bin/{name}")
    (tools / "python3").unlink(missing_ok=True)
    if changes:
        program = "; ".join(["import sys, platform, struct", *changes, "exec(sys.stdin.read())"])
        (tools / "python3").write_text(f"#!/bin/sh\nexec {python()} -c '{program}'\n")
        (tools / "python3").chmod(0o755)
    (server.home / "enter").write_text('PATH="$HOME/bin" exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')


def python() -> str:
    return os.path.realpath(sys.executable)


_BITS_32 = 'struct.calcsize = {"P": 4}.get'


@pytest.mark.parametrize(
    "changes, words",
    [
        ((), "has no python3; install it there: sudo apt install python3"),
        (('sys.version_info = (3, 9, 2, "final", 0)',), "has Python 3.9.2 and gems-edge needs 3.11"),
        ((_BITS_32, 'platform.machine = lambda: "armv7l"'), "32-bit Python on armv7l; onnxruntime has no wheels"),
        ((_BITS_32, 'platform.machine = lambda: "aarch64"'), "32-bit Python on aarch64, though its kernel is"),
        (('platform.machine = lambda: "riscv64"',), "is riscv64, and onnxruntime has wheels for aarch64 and x86_64"),
        (('platform.libc_ver = lambda: ("", "")',), "has no glibc"),
        (('platform.libc_ver = lambda: ("glibc", "2.24")',), "has glibc 2.24 and onnxruntime's wheels need 2.27"),
        (('sys.modules["venv"] = None',), "lacks the module venv; install it there: sudo apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do(refused, strange, changes, words):
    python_that(strange, *changes)
    message = refused(strange.config)
    assert message.startswith("board") and words in message


def mounted(server, *mounts: str) -> None:
    """Sessions see the board with these mounts made."""
    script = " && ".join([*mounts, 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'])
    (server.home / "script").write_text(script)
    command = 'exec unshare --user --map-root-user --mount /bin/sh "$HOME/script"'
    (server.home / "enter").write_text(f'mkdir -p "$HOME/.cache"\n{command}\n')


def test_a_board_without_room(refused, strange, tmp_path):
    for name in ("numpy", "onnxruntime", "pillow", "click", "safetensors"):
        write_wheel(tmp_path, name, "99", "")
    mounted(strange, 'mount -t tmpfs -o size=20m tmpfs "$HOME/.cache"')
    message = refused(strange.config, "--wheels", tmp_path)
    assert "has 21 MB free in" in message and "this needs" in message and "remove something" in message


def test_a_board_without_memory(refused, strange):
    (strange.home / "meminfo").write_text("MemTotal: 400000 kB\nMemAvailable: 21000 kB\nSwapFree: 1000 kB\n")
    mounted(strange, 'mount --bind "$HOME/meminfo" /proc/meminfo')
    message = refused(strange.config)
    assert "has 23 MB of free memory and adapting this bundle needs about" in message


def test_wheels_that_do_not_fit(refused, server, tmp_path):
    message = refused(server.config, "--wheels", tmp_path)
    assert f"{tmp_path} holds no wheel for" in message and "that fits board (Python 3.11" in message
    assert "is not a directory" in refused(server.config, "--wheels", tmp_path / "absent")
