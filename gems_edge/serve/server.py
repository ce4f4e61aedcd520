"""The server itself: listens, and ends cleanly at SIGTERM and Ctrl-C."""

import socket
from pathlib import Path

import uvicorn

from gems_edge.errors import UserError
from gems_edge.serve.classroom import Classroom
from gems_edge.serve.guard import Guard, own_names, read_token
from gems_edge.serve.limits import Limits, PatientProtocol
from gems_edge.serve.live import Live
from gems_edge.serve.routes import make_app

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LAST_SECONDS = 10  # for requests that are under way at the end


class _Server(uvicorn.Server):
    """Ends at a signal without passing it on: what is under way is answered, and the program goes on."""

    live: Live

    def handle_exit(self, sig: int, frame: object) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.live.close()  # first: listeners would be waited for
        await super().shutdown(sockets)


def open_socket(host: str, port: int) -> socket.socket:
    """Listening there; UserError where that is not possible."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=256)
    except OSError as error:
        raise UserError(f"cannot listen at {host} port {port} ({error.strerror}); choose another --host or --port") from None


def token_for(host: str, state: Path) -> str | None:
    """What others must know to ask; None where only this machine can."""
    return None if host in _LOOPBACK else read_token(state)


def run(classroom: Classroom, listening: socket.socket, token: str | None) -> None:
    """Answer until a signal ends it."""
    live = Live()
    app = Limits(Guard(make_app(classroom, live), token, own_names()))
    server = _Server(
        uvicorn.Config(
            app, http=PatientProtocol, ws="none", lifespan="off", log_level="error", access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=_LAST_SECONDS, limit_concurrency=256,
        )
    )  # fmt: skip
    server.live = live
    server.run([listening])
