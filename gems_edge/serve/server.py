"""The server itself: listens, and ends cleanly at SIGTERM and Ctrl-C."""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import uvicorn

from gems_edge.errors import Terminated, UserError
from gems_edge.serve.app import Safe, make_app
from gems_edge.serve.guard import Guard
from gems_edge.serve.limits import Limits, PatientProtocol
from gems_edge.serve.served import Served

# Of a server that listens: ends by itself when its `live` is closed.
Beside = Callable[[Served], Coroutine[None, None, None]]
_LAST_SECONDS = 10  # for requests that are under way at the end


class Server(uvicorn.Server):
    """Answers what `served` has, until `should_exit` is set or a signal comes; what is under way is answered first."""

    ended_by: int = 0  # the signal

    def __init__(
        self, served: Served, token: str | None, certificate: Path | None = None, beside: Sequence[Beside] = ()
    ):
        """`token`: None where only this machine can ask. `certificate`: with its key, for https. `beside`: what goes on
        beside the answers over HTTP."""
        self.served, self.beside, self._begun = served, beside, list[asyncio.Task[None]]()
        app = Safe(Limits(Guard(make_app(served), token)))
        super().__init__(
            uvicorn.Config(
                app, http=PatientProtocol, ws="none", lifespan="off", log_level="critical", access_log=False, workers=1,
                server_header=False, proxy_headers=False, timeout_graceful_shutdown=_LAST_SECONDS,
                limit_concurrency=256, ssl_certfile=certificate,
            )
        )  # fmt: skip

    def handle_exit(self, sig: int, frame: object) -> None:
        self.force_exit = self.should_exit  # the second time
        self.ended_by, self.should_exit = sig, True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun = [asyncio.create_task(each(self.served)) for each in self.beside]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.served.live.close()  # first: listeners would be waited for
        await super().shutdown(sockets)
        await asyncio.gather(*self._begun, return_exceptions=True)


def open_socket(host: str, port: int) -> socket.socket:
    """Listening there; UserError where that is not possible."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(place[:2], family=family, backlog=256)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        reason = f"cannot listen at {host} port {port} ({why})"
        raise UserError(f"{reason}; choose another --host or --port") from None
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an answer waits 40 ms for Nagle's algorithm
    return listening


def run(server: Server, listening: socket.socket) -> None:
    """Answer until a signal ends it: then raises Terminated, or KeyboardInterrupt after Ctrl-C."""
    server.run([listening])
    if server.ended_by == signal.SIGTERM:
        raise Terminated(f"stopped by SIGTERM; what was taught is in {server.served.classroom.state}")
    if server.ended_by:
        raise KeyboardInterrupt
