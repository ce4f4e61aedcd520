"""What can be asked over HTTP: ask, teach, correct, undo, and what there is."""

import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gems_edge.serve.documents import state_document
from gems_edge.serve.fields import camera_in, coverage_in, fields_in, number, photos_in, text
from gems_edge.serve.live import Live
from gems_edge.serve.openapi import NUMBER, TEXT, Operation, described
from gems_edge.serve.packed import zipped
from gems_edge.serve.served import Served

_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}  # its address has the hash of the picture


async def predict(served: Served, request: Request) -> Response:
    coverage, camera = coverage_in(request), camera_in(request)
    accept_all = request.query_params.get("accept_all") in ("1", "true")
    photo = await request.body()
    ask = partial(served.ask, photo, accept_all, coverage, time.perf_counter())
    return JSONResponse(served.seen(camera, await to_thread.run_sync(ask, limiter=served.answering)))


async def teach(served: Served, request: Request) -> Response:
    photos = await photos_in(request)
    return await _changed(served, partial(served.classroom.teach, photos.name, photos.files, photos.sources))


async def forget(served: Served, request: Request) -> Response:
    name = text(await fields_in(request), "class")
    return await _changed(served, partial(served.classroom.forget, name))


async def rename(served: Served, request: Request) -> Response:
    fields = await fields_in(request)
    return await _changed(served, partial(served.classroom.rename, text(fields, "class"), text(fields, "to")))


async def move(served: Served, request: Request) -> Response:
    fields = await fields_in(request)
    return await _changed(served, partial(served.classroom.move, number(fields, "photo"), text(fields, "class")))


async def drop(served: Served, request: Request) -> Response:
    photo = number(await fields_in(request), "photo")
    return await _changed(served, partial(served.classroom.drop, photo))


async def undo(served: Served, request: Request) -> Response:
    changes = number({"changes": 1} | await fields_in(request), "changes")
    return await _changed(served, partial(served.classroom.undo, changes))


async def state(served: Served, request: Request) -> Response:
    return JSONResponse(state_document(await to_thread.run_sync(served.classroom.current)))


async def download(served: Served, request: Request) -> Response:
    content = await to_thread.run_sync(lambda: served.classroom.saved(zipped))
    headers = {"content-disposition": 'attachment; filename="taught.state.zip"'}
    return Response(content, media_type="application/zip", headers=headers)


async def photo(served: Served, request: Request) -> Response:
    taken = partial(served.classroom.photo, request.path_params["number"], request.path_params["picture"])
    return Response(await to_thread.run_sync(taken), media_type="image/jpeg", headers=_FOREVER)


async def picture(served: Served, request: Request) -> Response:
    if served.picture is None:
        raise HTTPException(404, "no camera at the board gives a picture")
    return Response(served.picture, media_type=_kind(served.picture))


async def health(served: Served, request: Request) -> Response:
    return JSONResponse({"ok": True, "generation": served.classroom.lesson.generation, "cost": served.cost()})


async def events(served: Served, request: Request) -> Response:
    if served.live.full:
        raise HTTPException(503, "too many listen already; close another page")
    return StreamingResponse(_told(served.live), media_type="text/event-stream")


async def description(served: Served, request: Request) -> Response:
    return JSONResponse(described(OPERATIONS))


def _kind(image: bytes) -> str:
    kinds = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"GIF8": "image/gif", b"BM": "image/bmp"}
    return next((kind for start, kind in kinds.items() if image.startswith(start)), "image/jpeg")


async def _changed(served: Served, change: Callable[[], str]) -> Response:
    said = await to_thread.run_sync(change)
    lesson = served.classroom.lesson
    served.live.tell({"event": "changed", "generation": lesson.generation, "change": said})
    return JSONResponse({"change": said, **state_document(lesson)})


async def _told(live: Live) -> AsyncIterator[str]:
    async with live.listening() as told:
        yield ": here\n\n"
        async for event in told:
            yield ": still here\n\n" if event is None else f"data: {json.dumps(event)}\n\n"


_QUERY = {
    "camera": TEXT | {"maxLength": 40, "description": "Whose answers are steadied over frames, and told to listeners."},
    "coverage": {"type": "number", "description": "Answer with the set of classes that holds the right one so often."},
    "accept_all": {"type": "boolean", "description": "Nothing is unknown."},
}
_ONE = NUMBER | {"default": 1}

OPERATIONS = (
    Operation("POST", "/api/predict", predict, "What an image shows.", image=True, query=_QUERY),
    Operation("POST", "/api/teach", teach, "Learn photos as a class: a new one, more of one, a correction.", form=True),
    Operation("POST", "/api/forget", forget, "Forget a class and its photos.", takes={"class": TEXT}),
    Operation("POST", "/api/rename", rename, "Give a class another name.", takes={"class": TEXT, "to": TEXT}),
    Operation("POST", "/api/move", move, "Teach a photo as another class.", takes={"photo": NUMBER, "class": TEXT}),
    Operation("POST", "/api/drop", drop, "Forget a photo.", takes={"photo": NUMBER}),
    Operation("POST", "/api/undo", undo, "Go back so many changes.", takes={"changes": _ONE}),
    Operation("GET", "/api/state", state, "What was taught, whether it is enough, and what can be undone."),
    Operation("GET", "/api/state.zip", download, "The state, to take away.", gives="application/zip"),
    Operation(
        "GET", "/api/photos/{number:int}/{picture}", photo, "A small JPEG of a photo; the state has its address.",
        path_parameters=("number", "picture"), gives="image/jpeg",
    ),
    Operation("GET", "/api/camera.jpg", picture, "The newest picture of the camera at the board.", gives="image/*"),
    Operation("GET", "/api/events", events, "Answers and changes as they come.", gives="text/event-stream"),
    Operation("GET", "/api/health", health, "Whether it works, and what answers cost; needs no token."),
    Operation("GET", "/api/openapi.json", description, "This description."),
)  # fmt: skip
