"""The server itself: listens, and ends cleanly at SIGTERM and Ctrl-C."""

import asyncio
import signal
import socket
from pathlib import Path

import uvicorn

from gems_edge.errors import Terminated, UserError
from gems_edge.serve.app import Safe, make_app
from gems_edge.serve.guard import Guard
from gems_edge.serve.limits import Limits, PatientProtocol
from gems_edge.serve.served import Served
from gems_edge.serve.watching import watch

_LAST_SECONDS = 10  # for requests that are under way at the end


class Server(uvicorn.Server):
    """Answers what `served` has, until `should_exit` is set or a signal comes; what is under way is answered first."""

    ended_by: int = 0  # the signal

    def __init__(self, served: Served, token: str | None, certificate: Path | None = None, camera: str | None = None):
        """`token`: None where only this machine can ask. `certificate`: with its key, for https. `camera`: one at the
        board, as cameras.frames has it."""
        self.served, self.camera = served, camera
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
        if self.camera is not None:
            watch(self.served, self.camera, asyncio.get_running_loop())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.served.live.close()  # first: listeners would be waited for
        await super().shutdown(sockets)


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
