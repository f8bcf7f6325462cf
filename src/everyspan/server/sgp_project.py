"""Projects of the SGP spans API, which this server does not know (decisions/013)."""

from __future__ import annotations

from starlette.requests import Request

from everyspan.server.problem import Detail, InvalidRequestError


def refuse_project(request: Request) -> None:
    """Return if a request names no project: to ignore one would answer with what is outside of it.

    Raises:
        InvalidRequestError: 422, naming the header.
    """
    if "x-project-id" in request.headers:
        message = "this server knows no projects"
        raise InvalidRequestError(422, [Detail(("header", "x-project-id"), message, "unsupported")])
