"""The OpenAPI document of `/api`, built from its operations and their structs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everyspan.server.account import ACCOUNT_HEADER
from everyspan.server.api_operation import Operation, Param, Values
from everyspan.server.envelope import VERSION
from everyspan.server.keys import ACCOUNT_MAX
from everyspan.server.problem import Problem

_PROBLEMS = {
    400: "A cursor of another list, or a query that takes too long",
    401: "A key is asked for",
    403: "Not with this key, under this name, or from that page",
    404: "There is no such thing",
    409: "It contradicts what is stored",
    413: "The body is too large",
    414: "The address is too long",
    415: "The body is packed in a way that is not known",
    422: "A parameter, named in `detail`, is unknown or out of its bounds",
    503: "The store is busy or failing; `Retry-After` says when to come back",
}
_EVERYWHERE = (400, 401, 403, 404, 414, 422, 503)
_TIME_PATTERN = (
    r"^([0-9]{1,18}|(19[7-9][0-9]|20[0-9]{2}|21[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z)$"
)
_ACCOUNT = {
    "name": ACCOUNT_HEADER,
    "in": "header",
    "description": "Whose traces; `local` where none is named.",
    "schema": {"type": "string", "maxLength": ACCOUNT_MAX},
}


def openapi_operation(operations: Sequence[Operation]) -> Operation:
    """Return the operation that answers with the document of `operations`, and of itself."""
    others, made = list(operations), None

    async def show(_request: Request, _values: Values) -> Response:
        nonlocal made
        if made is None:
            made = msgspec.json.encode(document([*others, itself]))
        return Response(made, media_type="application/json")

    itself = Operation(
        path="/api/openapi.json", handler=show, summary="This document", answer=dict[str, Any]
    )
    return itself


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document."""
    operations = list(operations)
    types = {Problem: None}
    for operation in operations:
        types |= dict.fromkeys(t for t in (operation.answer, operation.body) if _is_struct(t))
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = re.sub(r":path(?=})", "", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "everyspan",
            "version": VERSION,
            "description": "Traces that the server holds. Nanoseconds are text in decimal.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        # No key is asked for on loopback.
        "security": [{}, {"key": []}, {"bearer": []}],
    }


def _operation(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    words: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "parameters": [*(_param(param) for param in operation.params), _ACCOUNT],
        "responses": {
            **_success(operation, schema_of),
            **{
                str(status): {
                    "description": _PROBLEMS[status],
                    "content": _json(schema_of[Problem]),
                }
                for status in sorted({*_EVERYWHERE, *operation.statuses})
            },
        },
    }
    if operation.body is not None:
        words["requestBody"] = {"required": True, "content": _json(schema_of[operation.body])}
    return words


def _success(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if operation.answer is None:
        return {"204": {"description": "Done"}}
    # What is handed on as it is stored, or is no struct of ours, may be any JSON.
    schema = schema_of.get(operation.answer, {})
    content = {operation.media_type: {"schema": schema}}
    return {"200": {"description": operation.summary, "content": content}}


def _param(param: Param) -> dict[str, Any]:
    schema: dict[str, Any]
    match param.kind:
        case "integer" | "number":
            schema = {"type": param.kind, "minimum": param.minimum, "maximum": param.maximum}
        case "time":
            schema = {"type": "string", "pattern": _TIME_PATTERN}
        case "choice":
            schema = {"type": "string", "enum": list(param.choices)}
        case "cursor":
            schema = {"type": "string", "maxLength": param.length_max}
        case "text":
            schema = {
                "type": "string",
                "minLength": param.length_min,
                "maxLength": param.length_max,
            }
            if param.pattern is not None:
                schema["pattern"] = f"^{param.pattern}$"
    if param.default is not None:
        schema["default"] = param.default
    if param.repeated:
        schema = {"type": "array", "items": schema, "maxItems": param.values_max}
    words: dict[str, Any] = {
        "name": param.name,
        "in": param.where,
        "description": param.help,
        "schema": schema,
    }
    if param.where == "path":
        words["required"] = True
    return words


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _id(operation: Operation) -> str:
    words = re.findall(r"[a-z_]+", operation.path.replace(":path", "").replace("/api/", ""))
    return "_".join([operation.method.lower(), *words])


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)
