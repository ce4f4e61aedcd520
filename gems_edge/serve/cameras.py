"""Cameras at the board: image files, one after the other, from a device, an address or a folder."""

import base64
import contextlib
import email.message
import io
import os
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from PIL import Image

from gems_edge.errors import UserError
from gems_edge.files import read_file

PAUSE = 0.1  # seconds between two looks at a folder or at an address that gives one picture
_PATIENCE = 10.0  # seconds for an address to answer
_MOST_BYTES = 24_000_000  # of a frame
T = TypeVar("T", bytes, bytearray)
_ADVICE = "--camera takes a number (V4L2), an address (http://…) or a folder that a camera writes to"


def check_camera(where: str) -> str:
    """`where` itself; UserError for what can be no camera."""
    if where.isdigit():
        if find_spec("cv2") is None:
            raise UserError(
                f"camera {where} is read by OpenCV, which is not installed; pip install opencv-python-headless"
            )
    elif urlsplit(where).scheme in ("http", "https"):
        if not urlsplit(where).hostname:
            raise UserError(f"{where} names no host; {_ADVICE}")
    elif not where or not Path(where).is_dir():
        raise UserError(f"{where!r} is no folder; {_ADVICE}")
    return where


def frames(where: str) -> Iterator[bytes]:
    """Image files as they come. Raises OSError when the camera is gone; then it may be tried again."""
    if where.isdigit():
        return _device(int(where))
    if Path(where).is_dir():
        return _folder(Path(where))
    return _address(where)


def _device(number: int) -> Iterator[bytes]:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # else a line each time that it is not there
    import cv2

    camera = cv2.VideoCapture(number, cv2.CAP_V4L2)
    try:
        while True:
            there, frame = camera.read()
            if not there:
                raise OSError(f"camera {number} gives no picture")
            out = io.BytesIO()
            Image.fromarray(frame[..., ::-1]).save(out, "JPEG", quality=92)
            yield out.getvalue()
    finally:
        camera.release()


def _folder(folder: Path) -> Iterator[bytes]:
    """The newest picture, once it has not grown since the last look; what was there before is no news."""
    shown = _newest(folder)
    seen = shown
    while True:
        time.sleep(PAUSE)
        newest = _newest(folder)
        if newest is not None and newest == seen != shown:
            shown = newest
            with contextlib.suppress(FileNotFoundError):
                yield read_file(newest[2], _MOST_BYTES)
        seen = newest


def _newest(folder: Path) -> tuple[int, int, str] | None:
    """When it was written, its size, and its path."""
    found = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if file.is_file() and not file.name.startswith("."):
                found.append((file.stat().st_mtime_ns, file.stat().st_size, str(file)))
    return max(found, default=None)


def _address(url: str) -> Iterator[bytes]:
    opener = build_opener(ProxyHandler({}))  # cameras stand in the house
    while True:
        try:
            with opener.open(_request(url), timeout=_PATIENCE) as response:
                if response.headers.get_content_maintype() == "multipart":
                    yield from _parts(response, _boundary(response.headers))
                    raise OSError("the camera's stream has ended")
                yield _checked(response.read(_MOST_BYTES + 1))
        except HTTPException as error:
            raise OSError(f"the camera's answer is no HTTP ({type(error).__name__})") from None
        time.sleep(PAUSE)


def _request(url: str) -> Request:
    """With the name and password that stand in the address, which urllib leaves alone."""
    parts = urlsplit(url)
    if parts.username is None:
        return Request(url)
    host = parts.netloc.rpartition("@")[2]
    secret = base64.b64encode(unquote(f"{parts.username}:{parts.password or ''}").encode()).decode()
    return Request(parts._replace(netloc=host).geturl(), headers={"authorization": f"Basic {secret}"})


def _boundary(headers: email.message.Message) -> bytes:
    name = str(headers.get_param("boundary") or "")
    if not name:
        raise OSError("the camera's stream has no boundary")
    return b"--" + name.strip('"').removeprefix("--").encode()


def _parts(stream: HTTPResponse, boundary: bytes) -> Iterator[bytes]:
    """The pictures of an MJPEG stream; of several that have come, the newest."""
    came = bytearray()
    while more := stream.read1(65536):
        came += more
        _checked(came)
        if boundary not in came[-len(more) - len(boundary) :]:  # what came before has been searched
            continue
        *parts, came = came.split(boundary)
        pictures = [picture for part in parts if (picture := part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))]
        yield from map(bytes, pictures[-1:])


def _checked(content: T) -> T:
    if len(content) > _MOST_BYTES:
        raise OSError(f"the camera's picture has more than {_MOST_BYTES / 1e6:.0f} MB")
    return content
