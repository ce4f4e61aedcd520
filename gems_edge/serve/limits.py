"""How much one may send and how often, and how long a slow one is waited for."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import h11
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_BYTES = 24_000_000  # of one request
MOST_AT_ONCE = 3 * MOST_BYTES  # of all requests that are under way: a board has 512 MB
BODY_SECONDS = 20.0  # for all of it
HEADER_SECONDS = 10.0
PER_SECOND, AT_ONCE = 200.0, 600.0  # requests from one address
_MOST_ADDRESSES = 1024
_CLOSE = {"connection": "close"}  # what is not read of a refused request is not waited for


@dataclass
class Body:
    """What of a request's body has come, in bytes."""

    came: int = 0


@dataclass
class Limits:
    """Passes to `app` what is not too large, too slow or too often; ASGI."""

    app: ASGIApp
    rooms: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # requests left, and when
    held: int = 0  # bytes of requests that are under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            own = Body()
            try:
                await self.app(scope, self._counted(_limited(receive), own), send)
            finally:
                self.held -= own.came
        else:
            await JSONResponse({"error": refusal[1]}, refusal[0], _CLOSE)(scope, receive, send)

    def _counted(self, receive: Receive, own: Body) -> Receive:
        async def counted() -> Message:
            message = await receive()
            came = len(message.get("body", b""))
            own.came, self.held = own.came + came, self.held + came
            if self.held > MOST_AT_ONCE:
                raise HTTPException(503, "too many photos come at once; try again", _CLOSE)
            return message

        return counted

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or len(length) > 18 or int(length) > MOST_BYTES:
            return 413, _TOO_LARGE
        client, now = (scope.get("client") or ("",))[0], time.monotonic()
        left, at = self.rooms.pop(client, (AT_ONCE, now))
        left = min(AT_ONCE, left + PER_SECOND * (now - at))
        self.rooms[client] = (max(left - 1, 0.0), now)
        while len(self.rooms) > _MOST_ADDRESSES:
            self.rooms.popitem(last=False)
        return None if left >= 1 else (429, "too many requests at once; wait a second")


_TOO_LARGE = f"that is more than {MOST_BYTES / 1e6:.0f} MB; send fewer or smaller photos"


def _limited(receive: Receive) -> Receive:
    """`receive` that ends what has too many bytes or comes too slowly."""
    came, until = 0, time.monotonic() + BODY_SECONDS

    async def limited() -> Message:
        nonlocal came
        if came < 0:  # all is here: what comes next is that the client goes away
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise HTTPException(408, "the photo came too slowly; try again nearer to the device", _CLOSE) from None
        came += len(message.get("body", b""))
        if came > MOST_BYTES:
            raise HTTPException(413, _TOO_LARGE, _CLOSE)
        if message["type"] == "http.request" and not message.get("more_body"):
            came = -1
        return message

    return limited


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, which waits for the head of a request no longer than HEADER_SECONDS."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_late)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        self.transport.close()
