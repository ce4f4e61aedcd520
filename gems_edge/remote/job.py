"""One job on a board: its files there, the connection to its keeper, and getting that back when it is lost."""

import contextlib
import json
import queue
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from gems_edge.errors import MachineError, UserError
from gems_edge.remote import keeper, ssh
from gems_edge.remote.board import Board
from gems_edge.remote.untrusted import MOST_SHOWN, not_understood, read_object
from gems_edge.wording import printable

EVENT_MARK, HAVE_MARK = keeper.EVENT_MARK.encode(), keeper.HAVE_MARK.encode()
# The keeper's text comes first on stdin, and what it reads of that afterwards is orders or files.
_BOOTSTRAP = (
    "import sys; text = sys.stdin.buffer.read({size}); "
    'exec(compile(text, "keeper", "exec"), {{"__name__": "__main__", "SOURCE": text}})'
)
# Events that a job may send, and seconds that it may take: some ten times what the slowest board needs.
_MOST_EVENTS, _LONGEST = 5000, 7200.0
# A connection that lasts so many seconds was made anew; one that breaks sooner is still the lost one.
_HOLDS = 5.0


def alive_seconds(patience: int) -> int:
    """How often a quiet connection is asked whether it lives, given the seconds one may be lost.

    It counts as lost after three times that: sooner than a board counts as silent (ssh.SILENCE).
    """
    return int(max(1, min(2, patience // 8)))


class Lost:
    """Since when there has been no connection that holds."""

    def __init__(self, host: str, patience: int):
        self._host, self._patience, self._since = host, patience, 0.0

    def lines(self, remote: ssh.RemoteCommand) -> Iterator[bytes]:
        """What it says, while noting whether it holds."""
        began = time.monotonic()
        for line in remote.lines():
            if time.monotonic() - began > _HOLDS:
                self._since = 0.0
            yield line

    def again(self) -> None:
        """Wait a moment before the next attempt; ssh.Disconnected if there has been none that held for too long."""
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > self._patience:
            raise ssh.Disconnected(
                f"the connection to {self._host} was lost and did not come back within {self._patience:g} s; "
                f"the board clears up by itself (--reconnect SECONDS waits longer)"
            )
        time.sleep(0.5)


class BoardJob:
    """A directory on the board and the keeper of it (keeper.py), for `with`: gone, with all that ran there, at the end.

    A lost connection is made anew for up to `patience` seconds. If this process dies, or the network does not come
    back, the board clears up by itself within `lease` seconds. No command holds what the board has said: it goes by the
    names that are given here.
    """

    def __init__(self, connection: ssh.Connection, board: Board, patience: int, on_stage: Callable[[str], None]):
        self.host, self.reconnections = connection.host, 0
        self.lease = max(patience, 2) + 4 * alive_seconds(patience)
        self._connection, self._python, self._patience, self._on_stage = connection, board.python, patience, on_stage
        self._name = f"run-{secrets.token_hex(8)}"
        self._events: queue.Queue[dict[str, Any] | Exception] = queue.Queue()
        self._orders: list[bytes] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._seen = 0  # events
        self._until = time.monotonic() + _LONGEST

    def __enter__(self) -> "BoardJob":
        self._remote = self._keeper("begin", str(self.lease))
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self._next("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Have the board stop and clear up, and wait until it has, or for a lost connection some seconds."""
        self._order("stop")
        self._follower.join(10)  # it ends when the board has cleared up, or is not reached any more
        self._over.set()
        with self._lock:
            self._remote.end()

    def _keeper(self, task: str, *arguments: str) -> ssh.RemoteCommand:
        source = (files("gems_edge.remote") / "keeper.py").read_bytes()
        command = [self._python, "-c", _BOOTSTRAP.format(size=len(source)), task, self._name, *arguments]
        remote = ssh.RemoteCommand(self._connection, shlex.join(command))
        remote.send(source)
        return remote

    def copy(self, payload: Path) -> None:
        """Copy the file into the job's directory; what a lost connection cut short goes on where it stopped.

        Whether it arrived whole is for the keeper to say.
        """
        size, lost = payload.stat().st_size, Lost(self.host, self._patience)
        while self._send(payload, size, lost) < size:
            lost.again()

    def _send(self, payload: Path, size: int, lost: Lost) -> int:
        """Send what the board does not have yet; how many bytes it has then. MachineError if it cannot take them."""
        remote, have, feeder = self._keeper("receive", str(size)), 0, None

        def feed(start: int) -> None:
            with contextlib.suppress(OSError, ValueError), open(payload, "rb") as file:
                file.seek(start)
                while block := file.read(1 << 16):
                    remote.send(block)
            remote.close()

        try:
            for line in lost.lines(remote):
                self._raise_if_lost()
                if line.startswith(HAVE_MARK):
                    have = self._count(line.removeprefix(HAVE_MARK), size)
                    if feeder is None:
                        feeder = threading.Thread(target=feed, args=[have], daemon=True)
                        feeder.start()
        finally:
            code, message = remote.end()
        if code not in (0, ssh.FAILED):
            raise MachineError(f"copying to {self.host} failed ({ssh.last_line(message)}); is there room on it?")
        return have

    def _count(self, digits: bytes, most: int) -> int:
        if len(digits) > 15 or not digits.isdigit() or int(digits) > most:
            raise not_understood(self.host)
        return int(digits)

    def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Carry out the plan there (keeper.carry_out). UserError or MachineError, with the host's name, if it fails."""
        self._order("start " + json.dumps(plan))
        result = self._next("result")
        if not isinstance(result, dict):
            raise not_understood(self.host)
        return result

    def _next(self, wanted: str) -> Any:
        while True:
            try:
                event = self._events.get(timeout=max(0.0, self._until - time.monotonic()))
            except queue.Empty:
                raise MachineError(f"{self.host} has not finished within {_LONGEST / 3600:g} hours") from None
            if isinstance(event, Exception):
                raise event
            if wanted in event:
                return event[wanted]
            if "error" in event:
                raise (UserError if event.get("code") == 2 else MachineError)(f"{self.host}: {_shown(event['error'])}")
            if "gone" in event:
                raise MachineError(f"{self.host} ended the job and cleared up; run it again")
            if line := event.get("stage") or event.get("say"):
                self._on_stage(f"{self.host}: {_shown(line)}")

    def _raise_if_lost(self) -> None:
        with self._events.mutex:
            lost = next((event for event in self._events.queue if isinstance(event, Exception)), None)
        if lost:
            raise lost
        if time.monotonic() > self._until:
            raise MachineError(f"{self.host} has not taken the files within {_LONGEST / 3600:g} hours")

    def _order(self, order: str) -> None:
        line = order.encode() + b"\n"
        with self._lock:
            if order != "beat":
                self._orders.append(line)
            self._remote.send(line)  # over a lost connection nothing; what matters is sent again over the next

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
        lost = Lost(self.host, self._patience)
        while not self._over.is_set():
            for line in lost.lines(self._remote):
                if line.startswith(EVENT_MARK):
                    self._seen += 1
                    event = read_object(line.removeprefix(EVENT_MARK), self.host)
                    if self._seen > _MOST_EVENTS:
                        raise not_understood(self.host)
                    self._events.put(event)
                    if "gone" in event:
                        return
            if self._over.is_set():
                return
            self._raise_unless_lost(*self._remote.end())
            lost.again()
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
        self.reconnections += 1
        remote = self._keeper("attach", str(self._seen))
        with self._lock:
            self._remote = remote
            for line in self._orders:
                remote.send(line)


def _shown(said: Any) -> str:
    """What a board says, as a short line."""
    return printable(str(said))[:MOST_SHOWN]
