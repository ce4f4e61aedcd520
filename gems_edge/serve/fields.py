"""What a request says, checked."""

import json
import logging
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from gems_edge.device.answers import check_coverage
from gems_edge.errors import UserError

MOST_PHOTOS = 64  # of one request
_MOST_JSON = 65_536  # bytes: lists in lists take 30 times as much in memory
_LONGEST_CAMERA = 40
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # who sent a bad form is told, and nobody else


@dataclass(frozen=True)
class Photos:
    """Photos of one class: image files, and their names."""

    name: str
    files: list[bytes]
    sources: list[str]


async def photos_in(request: Request) -> Photos:
    """The form of teach. Raises UserError for another."""
    async with request.form(max_files=MOST_PHOTOS, max_fields=4) as form:
        name, given = form.get("class"), form.getlist("photo")
        uploads = [each for each in given if isinstance(each, UploadFile)]
        if not isinstance(name, str) or len(uploads) != len(given):
            raise UserError("teach takes a form: a text named class, and files named photo")
        return Photos(name, [await each.read() for each in uploads], [each.filename or "" for each in uploads])


async def fields_in(request: Request) -> dict[str, Any]:
    """The JSON object of a request; {} of an empty one. Raises UserError for anything else."""
    content = await request.body() or b"{}"
    if len(content) > _MOST_JSON:
        raise UserError(f"the request has more than {_MOST_JSON // 1024} kB of JSON")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError("the request is not JSON") from None
    if not isinstance(fields, dict):
        raise UserError("the request is not a JSON object")
    return fields


def text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields.get(name), str):
        raise UserError(f"{name} is missing, or no text")
    return str(fields[name])


def number(fields: dict[str, Any], name: str) -> int:
    if type(fields.get(name)) is not int or not 0 < fields[name] < 1 << 60:
        raise UserError(f"{name} is missing, or no number above 0")
    return int(fields[name])


def coverage_in(request: Request) -> float | None:
    """The share that is asked for with ?coverage=; None where it is not."""
    asked = request.query_params.get("coverage")
    try:
        coverage = None if asked is None else float(asked)
    except ValueError:
        raise UserError("coverage is a share such as 0.9") from None
    check_coverage(coverage)
    return coverage


def camera_in(request: Request) -> str:
    """The name of the camera whose answers are to be steadied; "" where there is none."""
    return request.query_params.get("camera", "")[:_LONGEST_CAMERA]
