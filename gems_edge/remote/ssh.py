"""The system's ssh and sftp, as the user has set them up: configuration, keys, agent, known hosts.

Nothing here asks for or handles a password, and host keys are checked as the user's configuration says.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gems_edge.errors import MachineError, UserError
from gems_edge.remote.untrusted import printable_lines

# What ssh exits with when it is ssh that failed and not the remote command.
FAILED = 255


@dataclass(frozen=True)
class Connection:
    """`host` as the user wrote it; `options` come before it in every call of ssh and sftp."""

    host: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class RemoteCommand:
    """A command that runs on the host."""

    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]
    errors: IO[bytes]  # a file of what ssh and the command write to stderr


class Disconnected(MachineError):
    """An established connection was lost, or the board stopped answering."""


@contextlib.contextmanager
def connected(host: str, config: str | None = None, alive_seconds: int = 5) -> Iterator[Connection]:
    """Calls of ssh to `host` that share one connection, so that a key on a token is asked for once; closed at the end.

    `config`: a file for ssh's -F. A connection that is silent for three times `alive_seconds` counts as lost.
    Raises UserError for a host that is no host name.
    """
    if not host or host.startswith("-") or any(sign.isspace() for sign in host):
        raise UserError(f"--host {host!r} is not a host; give a name, user@name, or a Host of your ssh configuration")
    # A socket's path has room for some hundred characters, of which ssh wants twenty for itself.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 50 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="gems-edge-ssh-", dir=parent) as directory:
        options = {
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            # Switched off: what a configuration adds for logins by hand, a command and forwarded ports.
            "RemoteCommand": "none",
            "ClearAllForwardings": "yes",
            "ConnectTimeout": "15",
            "ServerAliveInterval": str(alive_seconds),
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{directory}/s",
            "ControlPersist": "20",
        }
        arguments = [f"-o{name}={value}" for name, value in options.items()]
        if config:
            arguments = ["-F", config, *arguments]
        connection = Connection(host, tuple(arguments))
        try:
            yield connection
        finally:
            end_connection(connection)


def end_connection(connection: Connection) -> None:
    """Close the shared connection; the next call opens another."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["ssh", *connection.options, "-O", "exit", "--", connection.host], capture_output=True, timeout=10
        )


def run(connection: Connection, command: str, script: str, timeout: float = 120.0) -> str:
    """What `command` writes to stdout, in printable lines, given `script` on stdin.

    Raises UserError for a connection that cannot be made, MachineError for a command that fails or takes too long.
    """
    with tempfile.TemporaryFile() as errors:  # not a pipe: the shared connection's process may hold it open
        try:
            done = subprocess.run(
                _ssh(connection, command), input=script.encode(), stdout=subprocess.PIPE, stderr=errors,
                timeout=timeout, env=_environment(), process_group=0,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Disconnected(f"{connection.host} did not answer within {timeout:.0f} s; is it busy?") from None
        except FileNotFoundError:
            raise _no_client("ssh") from None
        message = text(errors)
    if done.returncode == FAILED:
        raise refused(connection.host, message)
    if done.returncode:
        raise MachineError(f"{connection.host}: {command.split()[0]} failed ({last_line(message)})")
    return printable_lines(done.stdout)


def start(connection: Connection, command: str) -> RemoteCommand:
    """`command` on the host, with pipes to its stdin and from its stdout.

    It is in a process group of its own: Ctrl-C reaches this program alone, which then ends the command in an orderly
    way.
    """
    errors = tempfile.TemporaryFile()
    process = subprocess.Popen(
        _ssh(connection, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        env=_environment(), process_group=0,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    return RemoteCommand(process, process.stdin, process.stdout, errors)


def transfer(connection: Connection, batch: Sequence[str], directory: Path) -> None:
    """Run sftp's commands in `batch`, started in the local `directory`.

    Raises Disconnected when the connection breaks or cannot be made, MachineError with sftp's own words for a command
    that fails, unless it begins with "-".
    """
    command = ["sftp", "-q", *connection.options, "-b", "-", "--", connection.host]
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                command, input="\n".join([*batch, ""]).encode(), stdout=subprocess.DEVNULL, stderr=errors,
                cwd=directory, env=_environment(), process_group=0,
            )  # fmt: skip
        except FileNotFoundError:
            raise _no_client("sftp") from None
        message = text(errors)
    if done.returncode == 0:
        return
    if "subsystem request failed" in message:
        raise UserError(
            f"{connection.host} has no sftp server; install one there: sudo apt install openssh-sftp-server"
        )
    if "message too long" in message:
        raise UserError(
            f"{connection.host}: its shell prints something on every login, which breaks sftp; "
            "make ~/.bashrc there silent for shells that are not interactive"
        )
    # A connection that breaks while sftp writes to it ends it by SIGPIPE, without a word.
    if done.returncode == FAILED or done.returncode < 0:
        raise Disconnected(f"the connection to {connection.host} broke while copying ({last_line(message)})")
    raise MachineError(f"copying to {connection.host} failed ({last_line(message)})")


def refused(host: str, message: str) -> UserError | Disconnected:
    """Why ssh could not connect, from its message, and what to do about it."""
    name = host.rpartition("@")[2]
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in message:
        return UserError(
            f"{host}: its host key is not the one known for it. If the board was set up anew, remove the old key "
            f"(ssh-keygen -R {name}) and log in once with ssh {host}; if not, another machine answers in its place"
        )
    if "Host key verification failed" in message or "host key is known" in message:
        return UserError(
            f"{host}: its host key is not known yet; log in once with ssh {host}, compare the fingerprint and accept it"
        )
    if "Permission denied" in message or "Too many authentication failures" in message:
        return UserError(f"{host} refuses the login; put your key there (ssh-copy-id {host}) or load it (ssh-add)")
    if "Could not resolve hostname" in message:
        return UserError(f"{host}: no machine of that name is known; check the name, or give the board's address")
    if "Connection refused" in message:
        return UserError(f"{host} refuses the connection; enable ssh there (on a Raspberry Pi: sudo raspi-config)")
    if any(sign in message for sign in ("timed out", "No route to host", "Network is unreachable", "Host is down")):
        return UserError(f"{host} does not answer; is it switched on and in this network?")
    if "an't open user config file" in message or "onfiguration option" in message or "terminating," in message:
        return UserError(f"ssh cannot read its configuration ({last_line(message)})")
    return Disconnected(f"no connection to {host} ({last_line(message)})")


def _ssh(connection: Connection, command: str) -> list[str]:
    # No terminal and nothing forwarded, whatever the user's configuration says for logins.
    return ["ssh", "-T", "-x", "-a", *connection.options, "--", connection.host, command]


def _environment() -> dict[str, str]:
    """With ssh's messages in the language that `refused` reads."""
    return os.environ | {"LC_ALL": "C"}


def _no_client(program: str) -> UserError:
    return UserError(f"{program} is not installed on this machine; install an OpenSSH client")


def text(errors: IO[bytes]) -> str:
    """What ssh, sftp or the command wrote to stderr, in printable lines."""
    errors.seek(0)
    return printable_lines(errors.read())


def last_line(message: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
