"""Who may ask: the token, the address that a browser was sent to, and the page that a request comes from."""

import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gems_edge.errors import UserError
from gems_edge.files import read_plain, write_atomic

COOKIE = "gems_edge"
OPEN = ("/api/health",)  # what containers ask without a token
_TRIES, _SECONDS = 10, 60.0  # wrong tokens from one address
_READS = ("GET", "HEAD")
_MOST_ADDRESSES = 1024


def read_token(state: Path) -> str:
    """The token beside the state, made at the first start: phones that have it keep it over a restart."""
    file = state.with_name(f"{state.name}.token")
    try:
        token = read_plain(file, 200).decode(errors="replace").strip()
        if len(token) < 16 or not token.isascii() or not token.isprintable():
            raise UserError(f"{file} holds no token; remove it, and a new one is made")
    except FileNotFoundError:
        token = secrets.token_urlsafe(18)
        write_atomic(file, token + "\n", rights=0o600)
    return token


@dataclass
class Guard:
    """Lets through to `app` what may ask; ASGI. `token`: None for this machine alone, whose browsers then reach it by
    the names of loopback only: no foreign name that is made to point here (DNS rebinding) gets an answer. With a token
    such a name is of no use, for the cookie that holds it is not sent there."""

    app: ASGIApp
    token: str | None
    wrong: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["path"] == "/" and (token := self._token_in(scope)):
            response = RedirectResponse("/", 303)
            secure = scope["scheme"] == "https"
            response.set_cookie(cookie_name(scope), token, 31_536_000, httponly=True, samesite="lax", secure=secure)
            await response(scope, receive, send)
        elif refusal is None:
            await self.app(scope, receive, send)
        else:
            status, sentence = refusal
            await JSONResponse({"error": sentence}, status, {"connection": "close"})(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.token is None and not _is_loopback(host):
            return 403, "this address is not this device's; open the one that gems-edge serve shows"
        if scope["method"] not in _READS and not _is_same_site(headers, f"{scope['scheme']}://{host}"):
            return 403, "another website may change nothing here"
        if self.token is None or scope["path"] in OPEN:
            return None
        return self._no_token(scope, headers)

    def _no_token(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        client = (scope.get("client") or ("",))[0]
        tries = [at for at in self.wrong.get(client, []) if time.monotonic() - at < _SECONDS]
        if len(tries) >= _TRIES:
            return 429, "too many wrong tokens; wait a minute"
        # The address first: who scans a new code may hold the cookie of an old one.
        given = self._token_in(scope) or _bearer(headers) or _cookie(headers, cookie_name(scope))
        if given and hmac.compare_digest(given.encode(), (self.token or "").encode()):
            return None
        if given:
            self.wrong[client] = [*tries, time.monotonic()]
            self.wrong.move_to_end(client)
            while len(self.wrong) > _MOST_ADDRESSES:
                self.wrong.popitem(last=False)
        return 401, "open the address with the token that gems-edge serve shows, or scan its code"

    def _token_in(self, scope: Scope) -> str:
        """The token in the address of the page, as the code has it."""
        if self.token is None or scope["path"] != "/":
            return ""
        tokens: list[str] = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return tokens[0]


def _is_same_site(headers: Mapping[str, str], own: str) -> bool:
    """A browser says where a request comes from; programs that are none say nothing."""
    if (origin := headers.get("origin")) is not None:
        return origin == own
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def cookie_name(scope: Scope) -> str:
    """Of this server's own: browsers give cookies of one port to another, and let http overwrite none of https."""
    return f"{COOKIE}_{scope['scheme']}_{scope['server'][1]}"


def _cookie(headers: Headers, wanted: str) -> str:
    pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
    return next((value.strip() for name, _, value in pairs if name.strip() == wanted), "")


def _is_loopback(host: str) -> bool:
    """Whether a request's Host names this machine to itself."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
