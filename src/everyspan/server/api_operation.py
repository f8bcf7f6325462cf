"""An operation of `/api`: its route, its parameters and its answers, said once.

Routes, checks and the OpenAPI document are made from the same words, so that what is documented is
what is done: a parameter that is not declared is refused by name, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.timestamps import parse_timestamp

VALUES_MAX = 20
"""How often a repeated parameter may be given."""
INTEGER_MAX = 2**63 - 1
TEXT_MAX = 256


class Param(msgspec.Struct, kw_only=True, frozen=True):
    """A parameter of a query or a path.

    `integer` and `number` lie within `minimum` and `maximum`; a `time` is Unix nanoseconds in
    decimal, or ISO-8601. `repeated` ones may be given up to
    `values_max` times.
    """

    name: str
    help: str
    kind: Literal["integer", "number", "time", "text", "choice", "cursor"] = "text"
    where: Literal["query", "path"] = "query"
    minimum: int = 0
    maximum: int = INTEGER_MAX
    length_min: int = 1
    length_max: int = TEXT_MAX
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    default: str | int | None = None
    repeated: bool = False
    values_max: int = VALUES_MAX

    def parse(self, text: str) -> Any:
        """Return the value of one text.

        Raises:
            ValueError: It is none; the message says what is wrong and never repeats the input.
        """
        match self.kind:
            case "integer":
                return self._integer(text)
            case "number":
                return self._number(text)
            case "time":
                is_ns = text.isascii() and text.isdigit()
                return self._integer(text) if is_ns else parse_timestamp(text)
            case "choice":
                if text not in self.choices:
                    raise ValueError(f"not one of {', '.join(self.choices)}")
                return text
            case "cursor":
                if len(text) > self.length_max:
                    raise ValueError(f"longer than {self.length_max} characters")
                return text
            case "text":
                if not self.length_min <= len(text) <= self.length_max:
                    raise ValueError(f"not {self.length_min} to {self.length_max} characters")
                if self.pattern is not None and re.fullmatch(self.pattern, text, re.ASCII) is None:
                    raise ValueError(f"not all {self.pattern}")
                return text

    def _integer(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20:
            value = int(text)
            if self.minimum <= value <= self.maximum:
                return value
        raise ValueError(f"not a whole number from {self.minimum} to {self.maximum}")

    def _number(self, text: str) -> float:
        try:
            value = msgspec.json.decode(text, type=float)
        except (msgspec.MsgspecError, UnicodeEncodeError):
            value = -1.0
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"not a number from {self.minimum} to {self.maximum}")
        return value


class Values:
    """A request's parameters as the operation declares them.

    Raises:
        InvalidRequestError: 422; names every one that is unknown, repeated or out of bounds.
    """

    def __init__(self, request: Request, params: tuple[Param, ...]) -> None:
        self._values: dict[str, Any] = {}
        errors: list[Detail] = []
        query, path = request.query_params, request.path_params
        known = {param.name for param in params if param.where == "query"}
        errors += (
            Detail(("query", name), f"{name[:TEXT_MAX]} is no parameter of this", "unknown")
            for name in query
            if name not in known
        )
        for param in params:
            self._read(param, _texts(param, query, path), errors)
        if errors:
            raise InvalidRequestError(422, errors[:VALUES_MAX])

    def _read(self, param: Param, texts: list[str], errors: list[Detail]) -> None:
        loc = (param.where, param.name)
        values_max = param.values_max if param.repeated else 1
        if len(texts) > values_max:
            errors.append(Detail(loc, f"given more than {values_max} times", "repeated"))
            return
        values = []
        for text in texts:
            try:
                values.append(param.parse(text))
            except ValueError as error:
                errors.append(Detail(loc, f"{param.name} is {error}", "range"))
        if param.repeated:
            self._values[param.name] = tuple(dict.fromkeys(values))
        else:
            self._values[param.name] = values[0] if values else param.default

    def __getitem__(self, name: str) -> Any:
        return self._values[name]


Handler = Callable[[Request, Values], Awaitable[Response]]


class Operation(msgspec.Struct, kw_only=True, frozen=True):
    """One method of one path.

    `path` is as Starlette writes it. `answer` is the struct of a 200 in JSON, bytes for one that is
    handed on as it is stored, None for a 204 without a body; `body` is what a request brings.
    `statuses` are those of problems, beyond what any operation may answer.
    """

    path: str
    handler: Handler
    summary: str
    answer: Any
    method: Literal["GET", "POST", "DELETE"] = "GET"
    params: tuple[Param, ...] = ()
    body: Any = None
    statuses: tuple[int, ...] = ()
    media_type: str = "application/json"

    def route(self) -> BaseRoute:
        """Return the route that does it."""

        async def endpoint(request: Request) -> Response:
            return await self.handler(request, Values(request, self.params))

        return Route(self.path, endpoint, methods=[self.method])


def _texts(param: Param, query: QueryParams, path: Mapping[str, str]) -> list[str]:
    if param.where == "path":
        return [path[param.name]]
    return query.getlist(param.name)
