"""The application: operations, the page's files, and errors as one sentence."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gems_edge.errors import MachineError, UserError
from gems_edge.serve.openapi import Operation
from gems_edge.serve.operations import OPERATIONS
from gems_edge.serve.served import Served

PAGE = Path(__file__).with_name("page")
_OWN = "'self'"
# What the page may load and do: nothing of other hosts, no script or style inside the HTML.
_POLICY = "; ".join(
    (
        f"default-src {_OWN}", f"img-src {_OWN} blob:", f"media-src {_OWN} blob:", "object-src 'none'",
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
    )
)  # fmt: skip
HEADERS = {
    "content-security-policy": _POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the token may stand in the address
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_log = logging.getLogger(__name__)


def make_app(served: Served) -> Starlette:
    """What a server answers; who may ask is not looked at here."""
    routes: list[Route | Mount] = [
        Route(operation.path, _sentences(served, operation), methods=[operation.method]) for operation in OPERATIONS
    ]
    routes.append(Mount("/", StaticFiles(directory=PAGE, html=True)))
    return Starlette(routes=routes, exception_handlers={HTTPException: _failed})


def _sentences(served: Served, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    """The operation's answer; whatever goes wrong is one sentence."""

    async def answer(request: Request) -> Response:
        try:
            return await operation.answer(served, request)
        except UserError as error:
            return _sentence(400, str(error))
        except (OSError, MemoryError, MachineError) as error:
            return _sentence(507, f"{_machine(error)}; nothing was changed")
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:
            _log.error("%s: unexpected %s: %s", operation.path, type(error).__name__, error)
            return _sentence(500, f"unexpected {type(error).__name__}; nothing was changed")

    return answer


def _machine(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    return getattr(error, "strerror", None) or str(error)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _sentence(error.status_code, error.detail, error.headers)


def _sentence(status: int, words: str, headers: object = None) -> Response:
    return JSONResponse({"error": words}, status, headers)  # type: ignore[arg-type]


@dataclass
class Safe:
    """Every answer of `app` with the headers of a page that loads and tells nothing elsewhere; ASGI."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store" if scope["path"].startswith("/api/") else "no-cache")
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        except ClientDisconnect:  # nobody is there to be told
            return
