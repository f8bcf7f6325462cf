"""What errors are answered: in the words of the API that was asked, and never with internals.

A3  No reply and no log line shows internals, payloads or credentials. An unexpected error is a 500
    with a request id; the log has that id, the error's type and where it happened.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everyspan.errors import RequestError, StoreBusyError
from everyspan.server.agentex_agents import AGENTS_PATH
from everyspan.server.agentex_reply import agentex_problem
from everyspan.server.agentex_routes import SPANS_PATH
from everyspan.server.logs import Sparse
from everyspan.server.metrics import Metrics
from everyspan.server.otlp_reply import otlp_problem
from everyspan.server.otlp_routes import OTLP_PATHS
from everyspan.server.problem import ProblemReply, problem, refusal

STORE_RETRY_AFTER_S = 5.0
"""When to try a store again that failed; chosen, not measured."""

_log = logging.getLogger("everyspan.server")


class Answers:
    """Answers the errors of one application, each kind of them counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sparse = Sparse(_log)

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answer what Starlette refuses: no such route, or not by this method."""
        assert isinstance(error, HTTPException)
        code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "HTTP_ERROR")
        return self._answer(request, error.status_code, code, error.detail, error.headers)

    async def refused(self, request: Request, error: Exception) -> Response:
        """Answer what a route or the guard refuses."""
        assert isinstance(error, RequestError)
        self._metrics.refused.add(error.code)
        return refusal(error, words_of(request), request_id=request.state.request_id)

    async def store_failed(self, request: Request, error: Exception) -> Response:
        """Answer that the store cannot take or give it now."""
        if isinstance(error, StoreBusyError):
            code, message, after_s = "STORE_BUSY", str(error), error.retry_after_s
        else:
            self._sparse.log(logging.ERROR, "store", "%s", error)
            code, message, after_s = "STORE_FAILED", "the store failed", STORE_RETRY_AFTER_S
        return self._answer(request, 503, code, message, {"retry-after": f"{after_s:.0f}"})

    async def gone(self, request: Request, _error: Exception) -> Response:
        """Answer whoever left before the body was complete; nobody reads this."""
        return self._answer(request, 400, "CLIENT_GONE", "the request was not finished", None)

    async def failed(self, request: Request, error: Exception) -> Response:
        """Answer a mistake of ours."""
        _log.error(
            "request %s failed: %s\n%s",
            request.state.request_id,
            type(error).__name__,
            "".join(traceback.format_tb(error.__traceback__)),
        )
        return self._answer(request, 500, "INTERNAL", "internal error", None)

    def _answer(
        self,
        request: Request,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None,
    ) -> Response:
        self._metrics.refused.add(code)
        request_id: str = request.state.request_id
        return words_of(request)(status, code, message, headers=headers, request_id=request_id)


def words_of(request: Request) -> ProblemReply:
    """Return how the API that was asked words an error."""
    path: str = request.scope["path"]
    if path in OTLP_PATHS:
        return otlp_problem(request)
    is_agentex = path.startswith((f"{SPANS_PATH}/", f"{AGENTS_PATH}/")) or path == SPANS_PATH
    return agentex_problem if is_agentex else problem
