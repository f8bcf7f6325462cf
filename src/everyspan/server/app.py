"""The server's web application: routes by protocol, and what every reply has in common.

A2  Nothing redirects (`sgp:E3`).
A3  No reply and no log line shows internals, payloads or credentials. An unexpected error is a 500
    with a request id; the log has that id, the error's type and where it happened.

A1, A4 and A5 are in envelope.py.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router

from everyspan.errors import RequestError, StoreBusyError, StoreError
from everyspan.server.agentex_agents import AGENTS_PATH, agentex_agents_routes
from everyspan.server.agentex_reply import agentex_problem
from everyspan.server.agentex_routes import SPANS_PATH, agentex_routes
from everyspan.server.api_producers import producer_routes
from everyspan.server.body import Bodies
from everyspan.server.envelope import VERSION, Envelope
from everyspan.server.guard import Guard
from everyspan.server.hosts import Hosts
from everyspan.server.ingest import Ingest
from everyspan.server.keyring import Keyring
from everyspan.server.otlp_refusals import Refusals
from everyspan.server.otlp_reply import otlp_problem
from everyspan.server.otlp_routes import OTLP_PATHS, otlp_routes
from everyspan.server.problem import ProblemReply, problem, refusal
from everyspan.server.session_routes import session_routes
from everyspan.server.sgp_routes import sgp_routes
from everyspan.server.stores.base import Store

STORE_RETRY_AFTER_S = 5.0
"""When to try a store again that failed; chosen, not measured."""

_log = logging.getLogger("everyspan.server")


def create_app(store: Store, hosts: Hosts | None = None, *, must_ask_key: bool = False) -> Envelope:
    """Return the application over `store`, which it closes when the server stops.

    Args:
        hosts: The names it goes by; None for those of loopback alone.
        must_ask_key: Ask for a key even if none was ever made.
    """

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
    keyring = Keyring(store, must_ask=must_ask_key)
    ingest = Ingest(store)
    agentex = [*agentex_routes(store, ingest, bodies), *agentex_agents_routes(bodies)]
    sgp: list[BaseRoute] = sgp_routes(store, ingest, bodies)
    # The SGP client's environment `local` asks under /public (`sgp` §1).
    public = Mount("/public", Router(sgp, redirect_slashes=False))
    routes = Router(
        [
            Route("/healthz", healthz),
            *session_routes(keyring, bodies),
            *otlp_routes(ingest, bodies, Refusals()),
            *agentex,
            *sgp,
            public,
            *producer_routes(store, bodies),
        ],
        redirect_slashes=False,
    )
    app = Starlette(
        # Inside of what words errors, outside of every route.
        routes=[Mount("", Guard(routes, hosts or Hosts(), keyring))],
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
    return Envelope(app)


def _words(request: Request) -> ProblemReply:
    """Return how the API that was asked words an error."""
    path: str = request.scope["path"]
    if path in OTLP_PATHS:
        return otlp_problem(request)
    is_agentex = path.startswith((f"{SPANS_PATH}/", f"{AGENTS_PATH}/")) or path == SPANS_PATH
    return agentex_problem if is_agentex else problem


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "HTTP_ERROR")
    return _words(request)(
        error.status_code,
        code,
        error.detail,
        headers=error.headers,
        request_id=request.state.request_id,
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return refusal(error, _words(request), request_id=request.state.request_id)


async def _store_failed(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreBusyError):
        code, message, after_s = "STORE_BUSY", str(error), error.retry_after_s
    else:
        _log.error("%s", error)
        code, message, after_s = "STORE_FAILED", "the store failed", STORE_RETRY_AFTER_S
    return _words(request)(
        503,
        code,
        message,
        headers={"retry-after": f"{after_s:.0f}"},
        request_id=request.state.request_id,
    )


async def _gone(_request: Request, _error: Exception) -> Response:
    # The client left before its body was complete; nobody reads this.
    return problem(400, "CLIENT_GONE", "the request was not finished")


async def _failed(request: Request, error: Exception) -> Response:
    request_id: str = request.state.request_id
    _log.error(
        "request %s failed: %s\n%s",
        request_id,
        type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)),
    )
    return _words(request)(500, "INTERNAL", "internal error", request_id=request_id)
