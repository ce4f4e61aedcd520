"""The description of what a server answers, in OpenAPI's words, made from the table of its operations."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gems_edge import __version__
from gems_edge.serve.served import Served

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer", "minimum": 1}
_ERRORS = {
    "400": "What was sent is no good, or nothing was taught yet; nothing was changed.",
    "401": "The token is missing or wrong.",
    "403": "Asked by another website, or under a foreign name.",
    "408": "It came too slowly.",
    "413": "It is too large.",
    "429": "Asked too often.",
    "507": "The disk is full or memory has run out; nothing was changed.",
}


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked for: the row of a table from which routes and their description are made."""

    method: str
    path: str
    answer: Callable[[Served, Request], Awaitable[Response]]
    summary: str
    takes: Schema | None = None  # the properties of a JSON object
    form: bool = False  # takes photos of a class as a form
    image: bool = False  # takes one image file
    query: dict[str, Schema] = field(default_factory=dict)
    path_parameters: tuple[str, ...] = ()
    gives: str = "application/json"


def described(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these operations."""
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path.replace(":int", ""), {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gems-edge serve",
            "version": __version__,
            "description": 'Teach and ask a bundle. Errors are one sentence: {"error": …}.',
        },
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": {"type": "object", "required": ["error"], "properties": {"error": TEXT}}},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    document: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}_{operation.answer.__name__}",
        "summary": operation.summary,
        "responses": {
            "200": {"description": "Done.", "content": {operation.gives: {}}},
            **{status: {"description": what, "content": error} for status, what in _ERRORS.items()},
        },
    }
    parameters: list[Schema] = [
        {"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()
    ] + [
        {"name": name, "in": "path", "required": True, "schema": NUMBER if name == "number" else TEXT}
        for name in operation.path_parameters
    ]
    if parameters:
        document["parameters"] = parameters
    if body := _body(operation):
        document["requestBody"] = {"content": body, "required": True}
    return document


def _body(operation: Operation) -> Schema | None:
    if operation.image:
        return {"image/*": {"schema": {"type": "string", "format": "binary"}}}
    if operation.form:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        return {"multipart/form-data": {"schema": _object({"class": TEXT, "photo": files})}}
    if operation.takes is not None:
        return {"application/json": {"schema": _object(operation.takes)}}
    return None


def _object(properties: Schema) -> Schema:
    required = [name for name, schema in properties.items() if "default" not in schema]
    return {"type": "object", "properties": properties, "required": required}
