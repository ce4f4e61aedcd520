"""A board to log in to, on loopback: an sshd with throwaway keys, a throwaway user `pi` and a throwaway home.

It runs in namespaces of its own: nobody's authorized_keys, home or processes are touched, root is not needed, and
when it ends whatever its sessions left running ends with it. openssh-server need not be installed.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from debian import HOST_STATUS, Unavailable, downloaded, need, unpack, unpacked

USER, UID = "pi", 1000
_PACKAGES = ("openssh-server", "openssh-sftp-server")
_SFTP_SERVER = "/usr/lib/openssh/sftp-server"
# In namespaces where this is root: put the user list in place, then become the user, who has no privilege left.
_ENTER = f"""set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
shift
exec unshare --user --map-user={UID} --map-group={UID} -- "$@"
"""


@dataclass(frozen=True)
class Server:
    """`ssh -F config board` logs in. `home` is the user's home, seen from here; `log` is what sshd said."""

    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path
    config: Path
    home: Path
    log: Path


@contextlib.contextmanager
def loopback_sshd(force_command: str | None = None) -> Iterator[Server]:
    """A running sshd on 127.0.0.1 whose sessions are those of a user `pi` on this machine.

    `force_command` runs in place of what a client asks for, which it finds in SSH_ORIGINAL_COMMAND (of sftp and scp:
    the path of an sftp-server; of a login: nothing). Raises Unavailable where no sshd can be had or started.
    """
    need("ssh", "ssh-keygen", "unshare", "mount")
    program, libraries = _sshd()
    with tempfile.TemporaryDirectory(prefix="gems-edge-sshd-") as directory:
        server = _prepare(Path(directory), force_command)
        command = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
        command += ["sh", "-c", _ENTER, "sh", directory, program, "-D", "-e", "-f", f"{directory}/sshd_config"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LD_LIBRARY_PATH": libraries}
        with open(server.log, "w") as log:
            running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            _await(server, running)
            yield server
        finally:
            running.kill()  # and with it, by --kill-child, the first process of the namespace, and so all of them
            running.wait()


def _sshd() -> tuple[str, str]:
    """sshd and a search path for libraries that it needs and this machine lacks; fetched if it is not installed."""
    installed = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
    if installed and Path(_SFTP_SERVER).exists():
        return installed, ""
    need("dpkg")
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()

    def make(directory: Path) -> None:
        with downloaded(_PACKAGES, [architecture], HOST_STATUS) as packages:
            unpack(packages, directory)

    root = unpacked("sshd", {"packages": _PACKAGES, "architecture": architecture}, make)
    found = sorted({str(library.parent) for library in (root / "usr" / "lib").rglob("*.so.*")})
    return str(root / "usr" / "sbin" / "sshd"), ":".join(found)


def _prepare(place: Path, force_command: str | None) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(
        "127.0.0.1", port, USER, place / "key", place / "known_hosts", place / "config", place / "home", place / "log"
    )
    server.home.mkdir()
    for name in ("key", "host_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "throwaway", "-f", str(place / name)], check=True
        )
    shutil.copy(place / "key.pub", place / "authorized_keys")
    server.known_hosts.write_text(f"[127.0.0.1]:{port} {(place / 'host_key.pub').read_text()}")
    (place / "passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{UID}:{UID}:throwaway:{server.home}:/bin/bash\n"
    )
    (place / "group").write_text(f"root:x:0:\n{USER}:x:{UID}:\n")
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {place}/host_key",
        f"AuthorizedKeysFile {place}/authorized_keys",
        "AuthenticationMethods publickey",
        "StrictModes no",  # the keys lie below /tmp
        "UsePAM no",
        "PidFile none",
        "PrintMotd no",
        f"Subsystem sftp {'internal-sftp' if force_command is None else _SFTP_SERVER}",
    ]
    lines += [f"ForceCommand {force_command}"] if force_command else []
    (place / "sshd_config").write_text("\n".join(lines) + "\n")
    client = {
        "HostName": server.host, "Port": port, "User": USER, "IdentityFile": server.key, "IdentitiesOnly": "yes",
        "UserKnownHostsFile": server.known_hosts, "GlobalKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "yes",
        "BatchMode": "yes", "ControlMaster": "no", "ControlPath": "none",
    }  # fmt: skip
    server.config.write_text("Host board\n" + "".join(f"  {name} {value}\n" for name, value in client.items()))
    return server


def _await(server: Server, running: subprocess.Popen, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((server.host, server.port), 1) as connection:
            if connection.recv(8).startswith(b"SSH-"):
                return
        time.sleep(0.05)
    said = server.log.read_text().strip().splitlines() or ["it said nothing"]
    raise Unavailable(f"no sshd can be started here: {said[-1]}")
