"""A camera at the board that is answered as it comes, without a page: what it shows is told to who listens."""

import asyncio
import threading
import time

from gems_edge.errors import UserError
from gems_edge.images import is_image
from gems_edge.serve.cameras import frames
from gems_edge.serve.served import Served

CAMERA = "board"  # its name in answers
AGAIN = 2.0  # seconds until a camera that is gone is tried again


async def watch(where: str, served: Served) -> None:
    """Begin to answer this camera's pictures, as cameras.frames has them, in a thread of its own."""
    threading.Thread(target=_watch, args=(served, where, asyncio.get_running_loop()), daemon=True).start()


def _watch(served: Served, where: str, loop: asyncio.AbstractEventLoop) -> None:
    while not served.live.closed:
        try:
            for picture in frames(where):
                if served.live.closed:
                    return
                if not is_image(picture):  # half of one, or a link of the folder to something else
                    continue
                served.picture = picture
                if served.classroom.current().generation:
                    _answer(served, picture, loop)
        except Exception as error:  # OpenCV's, too: a camera ends nothing but its pictures
            served.picture = None
            _tell(loop, served.live.tell, {"event": "camera", "camera": CAMERA, "error": _sentence(error)})
            time.sleep(AGAIN)


def _answer(served: Served, picture: bytes, loop: asyncio.AbstractEventLoop) -> None:
    try:
        answered = served.ask(picture)
    except UserError:  # half a picture, as folders and streams may have
        return
    _tell(loop, lambda: served.seen(CAMERA, answered))


def _tell(loop: asyncio.AbstractEventLoop, *call: object) -> None:
    try:
        loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]
    except RuntimeError:  # it has ended
        return


def _sentence(error: Exception) -> str:
    return (
        f"the camera gives no picture ({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error})"
    )
