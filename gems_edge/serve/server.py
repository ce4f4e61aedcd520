"""The server itself: listens, and ends cleanly at SIGTERM and Ctrl-C."""

import signal
import socket
from pathlib import Path

import uvicorn

from gems_edge.errors import Terminated, UserError
from gems_edge.serve.app import Safe, make_app
from gems_edge.serve.classroom import Classroom
from gems_edge.serve.guard import Guard
from gems_edge.serve.limits import Limits, PatientProtocol
from gems_edge.serve.live import Live
from gems_edge.serve.served import Served

_LAST_SECONDS = 10  # for requests that are under way at the end


class _Server(uvicorn.Server):
    """Ends at a signal without passing it on: what is under way is answered first."""

    live: Live
    ended_by: int = 0

    def handle_exit(self, sig: int, frame: object) -> None:
        self.force_exit = self.should_exit  # the second time
        self.ended_by, self.should_exit = sig, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.live.close()  # first: listeners would be waited for
        await super().shutdown(sockets)


def open_socket(host: str, port: int) -> socket.socket:
    """Listening there; UserError where that is not possible."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(place[:2], family=family, backlog=256)
    except OSError as error:
        reason = f"cannot listen at {host} port {port} ({error.strerror})"
        raise UserError(f"{reason}; choose another --host or --port") from None
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an answer waits 40 ms for Nagle's algorithm
    return listening


def run(classroom: Classroom, listening: socket.socket, token: str | None, certificate: Path | None = None) -> None:
    """Answer until a signal ends it: then raises Terminated, or KeyboardInterrupt after Ctrl-C.

    `token`: None where only this machine can ask. `certificate`: with its key, for https.
    """
    served = Served(classroom, Live())
    app = Safe(Limits(Guard(make_app(served), token)))
    config = uvicorn.Config(
        app, http=PatientProtocol, ws="none", lifespan="off", log_level="critical", access_log=False, workers=1,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=_LAST_SECONDS, limit_concurrency=256,
        ssl_certfile=certificate,
    )  # fmt: skip
    server = _Server(config)
    server.live = served.live
    server.run([listening])
    if server.ended_by == signal.SIGTERM:
        raise Terminated(f"stopped by SIGTERM; what was taught is in {classroom.state}")
    if server.ended_by:
        raise KeyboardInterrupt
