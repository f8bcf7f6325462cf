"""What a refused request is told (`sgp` §5): `{"detail", "message", "code"}`, never internals.

An API that words errors in another way has a `ProblemReply` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from starlette.responses import Response

from everyspan.errors import RequestError


class Detail(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class InvalidRequestError(RequestError):
    """A request breaks rules, perhaps several; nothing of it was stored."""

    def __init__(
        self, status: int, details: Sequence[Detail], *, code: str = "INVALID_REQUEST"
    ) -> None:
        first = details[0]
        super().__init__(status, code, f"{_path(first.loc)}: {first.msg}", loc=first.loc)
        self.details = details


class ProblemReply(Protocol):
    """How an API words an error."""

    def __call__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[Detail] = (),
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Response: ...


class Problem(msgspec.Struct):
    """The body of an error."""

    detail: str | Sequence[Detail]
    message: str
    code: str
    request_id: str | msgspec.UnsetType = msgspec.UNSET


def problem(
    status: int,
    code: str,
    message: str,
    *,
    details: Sequence[Detail] = (),
    headers: Mapping[str, str] | None = None,
    request_id: str | None = None,
) -> Response:
    """Return an error as the SGP spans API words it, and whatever has no API's words."""
    body = Problem(
        detail=details or message,
        message=message,
        code=code,
        request_id=msgspec.UNSET if request_id is None else request_id,
    )
    return Response(
        msgspec.json.encode(body), status, dict(headers or {}), media_type="application/json"
    )


def refusal(error: RequestError, reply: ProblemReply, *, request_id: str | None = None) -> Response:
    """Return the reply that says why a request was refused."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    elif error.status == 409:
        # The SGP client sends a 409 three times unless told not to (`sgp:E1`).
        headers["x-should-retry"] = "false"
    elif error.status in (408, 413):
        # The rest of the body may still come; nobody wants it.
        headers["connection"] = "close"
    if isinstance(error, InvalidRequestError):
        details = error.details
    else:
        details = [Detail(error.loc, str(error), error.code.lower())] if error.loc else []
    return reply(
        error.status,
        error.code,
        str(error),
        details=details,
        headers=headers,
        request_id=request_id,
    )


def _path(loc: Sequence[str | int]) -> str:
    return ".".join(map(str, loc))
