"""The system's ssh, as the user has set them up: configuration, keys, agent, known hosts.

Nothing here asks for or handles a password, and host keys are checked as the user's configuration says.
"""

import contextlib
import math
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from gems_edge.errors import MachineError, UserError
from gems_edge.remote.untrusted import MOST_SHOWN, printable_lines

# What ssh exits with when it is ssh that failed and not the remote command.
FAILED = 255
# Bytes that one command on a board may say: some hundred times what it does say.
MOST_BYTES = 4_000_000
# Seconds for what a board answers at once, and that one at work may be silent: its keeper says every other second that
# it lives.
ANSWER, SILENCE = 20.0, 15.0
_MOST_MESSAGE = 16_384


@dataclass(frozen=True)
class Connection:
    """`host` as the user wrote it; `options` come before it in every call of ssh."""

    host: str
    options: tuple[str, ...]


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


class RemoteCommand:
    """A command that runs on the host, as a process of ssh. What it says is bounded in size and in time.

    It is in a process group of its own: Ctrl-C reaches this program alone, which then ends the command in an orderly
    way.
    """

    def __init__(self, connection: Connection, command: str, stdin: IO[bytes] | int = subprocess.PIPE):
        self.host, self._errors = connection.host, b""
        # No terminal and nothing forwarded, whatever the user's configuration says for logins.
        words = ["ssh", "-T", "-x", "-a", *connection.options, "--", connection.host, command]
        # Messages in the language that `refused` reads.
        environment = os.environ | {"LC_ALL": "C"}
        try:
            self._process = subprocess.Popen(
                words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment,
                process_group=0,
            )  # fmt: skip
        except FileNotFoundError:
            raise UserError("ssh is not installed on this machine; install an OpenSSH client") from None
        assert self._process.stdout is not None and self._process.stderr is not None
        self._out, self._err = self._process.stdout, self._process.stderr

    def send(self, content: bytes) -> None:
        """Write to its stdin. A lost connection is no error here: whoever reads notices it."""
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            view = memoryview(content)
            while view:
                view = view[self._process.stdin.write(view) :]

    def close(self) -> None:
        """Close its stdin."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def lines(self, silence: float = SILENCE, seconds: float = math.inf) -> Iterator[bytes]:
        """The lines of its stdout until it is closed.

        Raises MachineError if the command says more than MOST_BYTES, or nothing for `silence` seconds, or has not ended
        after `seconds`.
        """
        until, count, rest = time.monotonic() + seconds, 0, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._err, selectors.EVENT_READ)
            while self._out in selector.get_map():
                left = min(silence, until - time.monotonic())
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise MachineError(f"{self.host} gave no answer for {min(silence, seconds):.0f} s; is it busy?")
                for key, _ in ready:
                    chunk = os.read(key.fd, 1 << 16)
                    count += len(chunk)
                    if count > MOST_BYTES:
                        raise MachineError(f"{self.host} says more than gems-edge asks; is it the one that you mean?")
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self._err:
                        self._errors = (self._errors + chunk)[-_MOST_MESSAGE:]
                    else:
                        *whole, rest = (rest + chunk).split(b"\n")
                        yield from whole
        if rest:
            yield rest

    def end(self) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr, in printable lines; killed if it does not end soon by itself."""
        self.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.set_blocking(self._err.fileno(), False)  # the shared connection's process may hold it open
        with contextlib.suppress(BlockingIOError):
            self._errors += os.read(self._err.fileno(), _MOST_MESSAGE)
        return self._process.wait(), printable_lines(self._errors)


def run(connection: Connection, command: str, script: str) -> list[str]:
    """What `command` writes to stdout, in printable lines, given `script` on stdin.

    Raises UserError for a connection that cannot be made, MachineError for a command that fails, says too much or takes
    longer than ANSWER seconds.
    """
    with tempfile.TemporaryFile() as file:  # not a pipe: what does not read it must not hold this program up
        file.write(script.encode())
        file.seek(0)
        remote = RemoteCommand(connection, command, file)
        try:
            lines = [printable_lines(line) for line in remote.lines(seconds=ANSWER)]
        finally:
            code, message = remote.end()
    if code == FAILED:
        raise refused(connection.host, message)
    if code:
        raise MachineError(f"{connection.host}: {command.split()[0]} failed ({last_line(message)})")
    return lines


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


def last_line(message: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:MOST_SHOWN] if lines else "it said nothing"
