"""The server's web application: routes by protocol, and what every reply has in common.

A1  Every reply carries `x-everyspan: <version>`, errors included: our SDK sends unasked only to a
    server that says so.
A2  Nothing redirects (`sgp:E3`).
A3  No reply and no log line shows internals, payloads or credentials. An unexpected error is a 500
    with a request id; the log has that id, the error's type and where it happened.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everyspan.errors import RequestError, StoreBusyError, StoreError
from everyspan.model.ids import new_id
from everyspan.server.agentex_agents import AGENTS_PATH, agentex_agents_routes
from everyspan.server.agentex_reply import agentex_problem
from everyspan.server.agentex_routes import SPANS_PATH, agentex_routes
from everyspan.server.body import Bodies
from everyspan.server.ingest import Ingest
from everyspan.server.problem import ProblemReply, problem, refusal
from everyspan.server.sgp_routes import sgp_routes
from everyspan.server.stores.base import Store

VERSION = version("everyspan")
STORE_RETRY_AFTER_S = 5.0
"""When to try a store again that failed; chosen, not measured."""

VERSION_HEADER = (b"x-everyspan", VERSION.encode())
_log = logging.getLogger("everyspan.server")


def create_app(store: Store) -> ASGIApp:
    """Return the application over `store`, which it closes when the server stops."""

    async def healthz(_request: Request) -> Response:
        health = await store.health()
        body = {
            "status": "ok" if health.ok else "failing",
            "version": VERSION,
            "spans": health.spans,
            "waiting": health.waiting,
            "waiting_bytes": health.waiting_bytes,
        }
        return Response(
            msgspec.json.encode(body), 200 if health.ok else 503, media_type="application/json"
        )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await store.close()

    bodies = Bodies()
    ingest = Ingest(store)
    agentex = [*agentex_routes(store, ingest, bodies), *agentex_agents_routes(bodies)]
    sgp: list[BaseRoute] = sgp_routes(store, ingest, bodies)
    # The SGP client's environment `local` asks under /public (`sgp` §1).
    public = Mount("/public", Router(sgp, redirect_slashes=False))
    app = Starlette(
        routes=[Route("/healthz", healthz), *agentex, *sgp, public],
        exception_handlers={
            HTTPException: _no_route,
            RequestError: _refused,
            StoreError: _store_failed,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return _Outermost(app)


class _Outermost:
    """Adds the version to every reply, and ends the errors that were answered."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        replied = False

        async def send_with_version(message: Message) -> None:
            nonlocal replied
            if message["type"] == "http.response.start":
                replied = True
                message["headers"] = [*message["headers"], VERSION_HEADER]
            await send(message)

        try:
            await self._app(scope, receive, send_with_version)
        except Exception:
            # Starlette raises on what it has answered with 500, and `_failed` has logged it. Passed
            # on, the server would log the error's text, which may repeat a payload (A3).
            if not replied:
                raise


def _words(request: Request) -> ProblemReply:
    """Return how the API that was asked words an error."""
    path: str = request.scope["path"]
    is_agentex = path.startswith((f"{SPANS_PATH}/", f"{AGENTS_PATH}/")) or path == SPANS_PATH
    return agentex_problem if is_agentex else problem


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "HTTP_ERROR")
    return _words(request)(error.status_code, code, error.detail, headers=error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return refusal(error, _words(request))


async def _store_failed(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreBusyError):
        code, message, after_s = "STORE_BUSY", str(error), error.retry_after_s
    else:
        _log.error("%s", error)
        code, message, after_s = "STORE_FAILED", "the store failed", STORE_RETRY_AFTER_S
    return _words(request)(503, code, message, headers={"retry-after": f"{after_s:.0f}"})


async def _gone(_request: Request, _error: Exception) -> Response:
    # The client left before its body was complete; nobody reads this.
    return problem(400, "CLIENT_GONE", "the request was not finished")


async def _failed(request: Request, error: Exception) -> Response:
    request_id = new_id()
    _log.error(
        "request %s failed: %s\n%s",
        request_id,
        type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)),
    )
    return _words(request)(500, "INTERNAL", "internal error", request_id=request_id)
