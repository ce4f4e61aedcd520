"""Requests that no server should take: bytes for a socket, drawn at random but the same for the same seed."""

import json
import random
from collections.abc import Iterator

_VERBS = ("predict", "teach", "forget", "rename", "move", "drop", "undo")
_VALUES = (None, True, -1, 0, 1 << 70, 1.5, "", " ", "no such class", "x" * 300, "\x1b[2J", [], {}, [[[[]]]])
_BROKEN = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"{]",
    b"\xff\xfe",
    b"[" * 2000,
    b'{"photo": NaN}',
    b"\x89PNG\r\n\x1a\n",
)


def malformed(count: int, seed: int = 0) -> Iterator[bytes]:
    chance = random.Random(seed)
    kinds = (_noise, _wrong_fields, _broken_body, _broken_form, _wrong_path, _wrong_length, _no_image, _odd_headers)
    for number in range(count):
        yield kinds[number % len(kinds)](chance)


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    length = () if any(header.lower().startswith("content-length") for header in headers) else (len(body),)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    lines += [f"Content-Length: {each}" for each in length]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, 400)) + b"\r\n\r\n"


def _wrong_fields(chance: random.Random) -> bytes:
    names = chance.sample(("class", "to", "photo", "changes", "other"), 2)
    body = json.dumps({name: chance.choice(_VALUES) for name in names} | {"changes": 99, "photo": 1 << 50})
    return request("POST", f"/api/{chance.choice(_VERBS[2:])}", body.encode())


def _broken_body(chance: random.Random) -> bytes:
    return request("POST", f"/api/{chance.choice(_VERBS[2:-1])}", chance.choice(_BROKEN))


def _broken_form(chance: random.Random) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x.jpg"\r\n\r\n' + chance.randbytes(50)
    ends = (b"", b"\r\n--b--\r\n", b"\r\n--c--", b"\r\n--b\r\n\r\n--b--")
    return request("POST", "/api/teach", part + chance.choice(ends), "Content-Type: multipart/form-data; boundary=b")


def _wrong_path(chance: random.Random) -> bytes:
    paths = ("/api/nothing", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/photos/-1/x", "/api/photos/1/../x")
    return request(chance.choice(("GET", "PUT", "DELETE", "BREW")), chance.choice(paths))


def _wrong_length(chance: random.Random) -> bytes:
    length = chance.choice(("1000000000", "-5", "1e9", "9" * 30, "0x10"))
    return request("POST", "/api/predict", b"short", f"Content-Length: {length}")


def _no_image(chance: random.Random) -> bytes:
    heads = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF....WEBP", b"%!PS-Adobe", b"<svg>", b"")
    return request("POST", "/api/predict?camera=" + "c" * 60, chance.choice(heads) + chance.randbytes(200))


def _odd_headers(chance: random.Random) -> bytes:
    headers = (
        "Host: elsewhere.example",
        "Origin: http://elsewhere.example",
        "Cookie: " + "x=y;" * 100,
        "X: " + "x" * 70_000,
    )
    return request("POST", "/api/undo", b'{"changes": "all"}', chance.choice(headers))
