"""What every reply has in common, and every request's number.

A1  Every reply carries `x-everyspan: <version>`, errors included: our SDK sends unasked only to a
    server that says so.
A4  Every reply carries `x-request-id`: the sender's, where it is sane, else a new one. Answers that
    are errors repeat it, and the log has it.
A5  Every reply has the headers that keep a browser from making more of it than it is.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from everyspan.model.ids import new_id
from everyspan.server.metrics import Metrics

VERSION = version("everyspan")
VERSION_HEADER = (b"x-everyspan", VERSION.encode())
REQUEST_ID_HEADER = "x-request-id"

PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""For HTML."""
DATA_CSP = "default-src 'none'; frame-ancestors 'none'"
"""For what no browser is meant to show: payloads are other people's text."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_access_log = logging.getLogger("everyspan.server.access")


class Envelope:
    """Puts what all replies have around an application, and ends the errors that it answered."""

    def __init__(self, app: Starlette, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._app = app
        self.metrics = metrics
        self.stopping = stopping
        """Set when the server has been told to end: what would go on for ever ends then."""

    @property
    def routes(self) -> list[BaseRoute]:
        """Those of the application."""
        return self._app.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        began_s = time.perf_counter()
        status = 0

        async def send_enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_ours(message["headers"], request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_enveloped)
        except Exception:
            # Starlette raises on what it has answered with 500, and that is logged. Passed on, the
            # server would log the error's text, which may repeat a payload (A3).
            if not status:
                raise
        finally:
            self._note(scope, status, time.perf_counter() - began_s)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # 0: the sender left before it was answered.
        self.metrics.requests.add(route, method, f"{status // 100}xx" if status else "none")
        self.metrics.request_seconds.observe(took_s, route)
        attempt = Headers(scope=scope).get("x-stainless-retry-count", "0")
        if attempt != "0":
            self.metrics.retried.add(attempt if attempt in ("1", "2") else "more")
        if _access_log.isEnabledFor(logging.DEBUG):
            peer = scope["client"][0] if scope.get("client") else "?"
            request_id = scope["state"]["request_id"]
            _access_log.debug(
                "%s %s %s in %.1f ms for %s, request %s",
                method,
                route,
                status or "unanswered",
                took_s * 1000,
                peer,
                request_id,
                extra={
                    "method": method,
                    "route": route,
                    "status": status,
                    "ms": round(took_s * 1000, 1),
                    "peer": peer,
                    "request_id": request_id,
                },
            )


def _route(scope: Scope) -> str:
    """Return what the route table calls it: never what was asked for, which may be anything."""
    route = scope.get("route")
    if not isinstance(route, Route):
        return "none"
    prefix: str = scope.get("root_path", "")
    return prefix + route.path


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _SANE_ID.fullmatch(given) else new_id()


def _with_ours(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    given = dict(headers)
    is_page = given.get(b"content-type", b"").startswith(b"text/html")
    ours = [
        VERSION_HEADER,
        (REQUEST_ID_HEADER.encode(), request_id.encode()),
        (b"content-security-policy", (PAGE_CSP if is_page else DATA_CSP).encode()),
        *_HEADERS,
    ]
    if b"cache-control" not in given:
        ours.append((b"cache-control", b"no-store"))
    return [*headers, *ours]
