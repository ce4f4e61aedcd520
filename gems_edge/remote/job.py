"""One job on a board: its files there, the connection to its keeper, and getting that back when it is lost."""

import contextlib
import json
import queue
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from gems_edge.errors import MachineError, UserError
from gems_edge.remote import keeper, ssh
from gems_edge.remote.board import Board
from gems_edge.remote.untrusted import read_object

EVENT_MARK, ATTACHED = keeper.EVENT_MARK.encode(), keeper.ATTACHED.encode()
_BOOTSTRAP = (
    "import sys; text = sys.stdin.buffer.read({size}); "
    'exec(compile(text, "keeper", "exec"), {{"__name__": "__main__", "SOURCE": text}})'
)


def alive_seconds(patience: float) -> int:
    """How often a quiet connection is asked whether it lives, given the seconds one may be lost."""
    return int(max(1, min(5, patience // 8)))


class BoardJob:
    """A directory on the board and the keeper of it (keeper.py), for `with`: gone, with all that ran there, at the end.

    A lost connection is made anew for up to `patience` seconds. If this process dies, or the network does not come
    back, the board clears up by itself within `lease` seconds.
    """

    def __init__(self, connection: ssh.Connection, board: Board, patience: float, on_stage: Callable[[str], None]):
        self.host, self.reconnections = connection.host, 0
        self.lease = max(patience, 2) + 4 * alive_seconds(patience)
        self._connection, self._board, self._patience, self._on_stage = connection, board, patience, on_stage
        self._events: queue.Queue[dict[str, Any] | Exception] = queue.Queue()
        self._orders: list[bytes] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._seen = 0  # events
        # Named here, so that nothing that the keeper says gets into a command for ssh or sftp.
        self._directory = f"{board.base}/run-{secrets.token_hex(8)}"

    def __enter__(self) -> "BoardJob":
        source = (files("gems_edge.remote") / "keeper.py").read_bytes()
        program = _BOOTSTRAP.format(size=len(source))
        command = [self._board.python, "-c", program, "begin", self._directory, str(self.lease)]
        self._remote = ssh.start(self._connection, shlex.join(command))
        with contextlib.suppress(OSError):
            self._remote.stdin.write(source)
            self._remote.stdin.flush()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self._next("directory")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Have the board stop and clear up, and wait until it has, or for a lost connection some seconds."""
        self._order("stop")
        self._follower.join(10)  # it ends when the board has cleared up, or is not reached any more
        self._over.set()
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self._remote.stdin.close()
            self._remote.process.wait(5)
        self._remote.process.kill()

    def copy(self, directory: Path, names: Sequence[str]) -> None:
        """Copy files of `directory` into the job's; what a lost connection cut short goes on where it stopped.

        Names hold letters, digits and ._-+ only. Whether all arrived whole is for the keeper to say.
        """
        (directory / "empty").touch()
        change = f'cd "{self._directory}"'
        # "put -a" appends what is missing to a file that must exist; it fails if nothing is, which "-" ignores.
        self._transfer([change, *(f"put empty {name}" for name in names)], directory)
        self._transfer([change, *(f"-put -a {name}" for name in names)], directory)

    def _transfer(self, batch: Sequence[str], directory: Path) -> None:
        while True:
            try:
                return ssh.transfer(self._connection, batch, directory)
            except ssh.Disconnected:
                self._raise_if_lost()
                time.sleep(1)

    def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Carry out the plan there (keeper.carry_out). UserError or MachineError, with the host's name, if it fails."""
        self._order("start " + json.dumps(plan))
        result: dict[str, Any] = self._next("result")
        return result

    def _next(self, wanted: str) -> Any:
        while True:
            event = self._events.get()
            if isinstance(event, Exception):
                raise event
            if wanted in event:
                return event[wanted]
            if "error" in event:
                raise (UserError if event.get("code") == 2 else MachineError)(f"{self.host}: {event['error']}")
            if "gone" in event:
                raise MachineError(f"{self.host} ended the job and cleared up; run it again")
            if line := event.get("stage") or event.get("say"):
                self._on_stage(line)

    def _raise_if_lost(self) -> None:
        with self._events.mutex:
            lost = next((event for event in self._events.queue if isinstance(event, Exception)), None)
        if lost:
            raise lost

    def _order(self, order: str) -> None:
        line = order.encode() + b"\n"
        with self._lock:
            if order != "beat":
                self._orders.append(line)
            self._send(line)

    def _send(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # a lost connection; what matters is sent again on the next
            self._remote.stdin.write(line)
            self._remote.stdin.flush()

    def _beat(self) -> None:
        while not self._over.wait(alive_seconds(self._patience) / 2):
            self._order("beat")

    def _follow(self) -> None:
        """Events into the queue, and at last an exception if there will be no more."""
        try:
            self._read_events()
        except Exception as error:
            self._events.put(error)

    def _read_events(self) -> None:
        """Read events, over as many connections as it takes. MachineError or UserError when no more can be made."""
        lost = None  # when the connection was
        while not self._over.is_set():
            for line in self._remote.stdout:
                if line.startswith((EVENT_MARK, ATTACHED)):
                    lost = None
                if line.startswith(EVENT_MARK):
                    self._seen += 1
                    event = read_object(line[len(EVENT_MARK) :], self.host)
                    self._events.put(event)
                    if "gone" in event:
                        return
            code = self._remote.process.wait()
            if self._over.is_set():
                return
            self._raise_unless_lost(code, ssh.text(self._remote.errors))
            lost = lost or time.monotonic()
            if time.monotonic() - lost > self._patience:
                raise ssh.Disconnected(
                    f"the connection to {self.host} was lost and did not come back within {self._patience:g} s; "
                    f"the board clears up by itself (--reconnect SECONDS waits longer)"
                )
            self._reattach()

    def _raise_unless_lost(self, code: int, message: str) -> None:
        """MachineError or UserError, unless `code` and `message` are of an ssh that lost an established connection."""
        if code != ssh.FAILED:
            last = ssh.last_line(message)
            reason = f"no longer has the job; was it restarted? ({last})" if self._seen else f"cannot start ({last})"
            raise MachineError(f"{self.host} {reason}")
        if not self._seen:
            raise ssh.refused(self.host, message)

    def _reattach(self) -> None:
        self._on_stage(f"the connection to {self.host} was lost; connecting again")
        time.sleep(0.5)
        self.reconnections += 1
        command = [self._board.python, f"{self._directory}/keeper.py", "attach", self._directory, str(self._seen)]
        remote = ssh.start(self._connection, shlex.join(command))
        with self._lock:
            self._remote = remote
            for line in self._orders:
                self._send(line)
