"""JSON over HTTP: ask, teach, correct, undo, and what there is; server-sent events for the answers as they come."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gems_edge.device.answers import check_coverage
from gems_edge.errors import UserError
from gems_edge.process_memory import peak_rss_mb
from gems_edge.serve.classroom import Classroom, Lesson
from gems_edge.serve.live import Event, Live

_MOST_PHOTOS = 64  # of one request
_LONGEST_CAMERA = 40


def make_app(classroom: Classroom, live: Live) -> Starlette:
    """What a server answers; who may ask is not looked at here."""

    def reads(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, answer, methods=["GET"])

    def changes(verb: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(f"/api/{verb}", answer, methods=["POST"])

    async def changed(change: Callable[[], str]) -> Response:
        said = await to_thread.run_sync(change)
        lesson = classroom.lesson
        live.tell({"event": "changed", "generation": lesson.generation, "change": said})
        return JSONResponse({"change": said, **state_document(lesson)})

    async def predict(request: Request) -> Response:
        coverage, accept_all = _share(request), request.query_params.get("accept_all") in ("1", "true")
        photo = await request.body()
        began = time.perf_counter()
        lesson, answer = await to_thread.run_sync(partial(classroom.answer, photo, accept_all, coverage))
        milliseconds = round(1e3 * (time.perf_counter() - began), 2)
        document: Event = {
            "generation": lesson.generation,
            "class": answer.name,
            "guess": answer.guess,
            "score": round(float(answer.score), 4),
            "shares": _by_class(lesson.learner.classes, answer.shares),
            "set": None if answer.candidates is None else list(answer.candidates),
            "ms": milliseconds,
        }
        camera = request.query_params.get("camera", "")[:_LONGEST_CAMERA]
        if camera:
            shown = live.steady(camera, lesson, answer, time.monotonic())
            steadied = {"class": shown.name, "guess": shown.guess, "unknown": round(shown.unknown, 4)}
            document["steady"] = steadied | {"shares": _by_class(shown.classes, shown.shares)}
            live.tell({"event": "answer", "camera": camera, **document})
        return JSONResponse(document)

    async def teach(request: Request) -> Response:
        async with request.form(max_files=_MOST_PHOTOS, max_fields=4) as form:
            name, given = form.get("class"), form.getlist("photo")
            uploads = [each for each in given if isinstance(each, UploadFile)]
            if not isinstance(name, str) or len(uploads) != len(given):
                raise UserError("teach takes a form: a text named class, and files named photo")
            photos = [await each.read() for each in uploads]
            sources = [each.filename or "" for each in uploads]
        return await changed(partial(classroom.teach, name, photos, sources))

    async def forget(request: Request) -> Response:
        name = _text(await _fields(request), "class")
        return await changed(partial(classroom.forget, name))

    async def rename(request: Request) -> Response:
        fields = await _fields(request)
        return await changed(partial(classroom.rename, _text(fields, "class"), _text(fields, "to")))

    async def move(request: Request) -> Response:
        fields = await _fields(request)
        return await changed(partial(classroom.move, _number(fields, "photo"), _text(fields, "class")))

    async def drop(request: Request) -> Response:
        number = _number(await _fields(request), "photo")
        return await changed(partial(classroom.drop, number))

    async def undo(request: Request) -> Response:
        number = _number({"changes": 1} | await _fields(request), "changes")
        return await changed(partial(classroom.undo, number))

    async def state(request: Request) -> Response:
        return JSONResponse(state_document(classroom.lesson))

    async def health(request: Request) -> Response:
        return JSONResponse({"ok": True, "generation": classroom.lesson.generation, "peak_rss_mb": peak_rss_mb()})

    async def photo(request: Request) -> Response:
        small = await to_thread.run_sync(classroom.photo, request.path_params["number"])
        return Response(small, media_type="image/jpeg", headers={"x-content-type-options": "nosniff"})

    async def events(request: Request) -> Response:
        if live.full:
            raise HTTPException(503, "too many listen already; close another page")
        headers = {"cache-control": "no-store"}
        return StreamingResponse(_told(live), media_type="text/event-stream", headers=headers)

    verbs = {"predict": predict, "teach": teach, "forget": forget, "rename": rename, "move": move, "drop": drop}
    routes = [changes(verb, answer) for verb, answer in (verbs | {"undo": undo}).items()]
    routes += [reads("/api/state", state), reads("/api/health", health), reads("/api/events", events)]
    routes += [reads("/api/photos/{number:int}", photo)]
    handlers: dict[Any, Any] = {UserError: _refused, HTTPException: _failed, OSError: _machine, MemoryError: _machine}
    return Starlette(routes=routes, exception_handlers=handlers)


def state_document(lesson: Lesson) -> dict[str, Any]:
    """What was taught: classes with their photos' numbers, what waits, and what can be undone, newest first."""
    album, taught = lesson.album, lesson.learner.taught
    versions = taught.versions if taught is not None else ()
    photos = {name: [{"number": p.number, "file": p.source} for p in album.of(name)] for name in album.classes}
    waiting = lesson.waiting
    return {
        "generation": lesson.generation,
        "classes": [{"class": name, "photos": of} for name, of in photos.items()],
        "waiting": {"class": waiting.name, "photos": len(waiting.photos)} if waiting.photos else None,
        "history": [version.change for version in reversed(versions)],
    }


async def _told(live: Live) -> AsyncIterator[str]:
    async with live.listening() as events:
        yield ": here\n\n"
        async for event in events:
            yield ": still here\n\n" if event is None else f"data: {json.dumps(event)}\n\n"


def _by_class(classes: Any, shares: Any) -> list[dict[str, Any]]:
    return [{"class": name, "share": round(float(share), 4)} for name, share in zip(classes, shares)]


def _share(request: Request) -> float | None:
    text = request.query_params.get("coverage")
    try:
        coverage = None if text is None else float(text)
    except ValueError:
        raise UserError("coverage is a share such as 0.9") from None
    check_coverage(coverage)
    return coverage


async def _fields(request: Request) -> dict[str, Any]:
    try:
        fields = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise UserError("the request is not JSON") from None
    if not isinstance(fields, dict):
        raise UserError("the request is not a JSON object")
    return fields


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields.get(name), str):
        raise UserError(f"{name} is missing, or no text")
    return str(fields[name])


def _number(fields: dict[str, Any], name: str) -> int:
    if type(fields.get(name)) is not int or not 0 < fields[name] < 1 << 60:
        raise UserError(f"{name} is missing, or no number above 0")
    return int(fields[name])


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _machine(request: Request, error: Exception) -> Response:
    text = getattr(error, "strerror", None) or "out of memory"
    return JSONResponse({"error": f"{text}; nothing was changed"}, 507)
