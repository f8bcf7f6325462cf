"""The server's web application: routes by protocol.

A2  Nothing redirects (`sgp:E3`).

What all replies have in common is in envelope.py, what errors are answered in answers.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Router

from everyspan.errors import RequestError, StoreError
from everyspan.server.agentex_agents import agentex_agents_routes
from everyspan.server.agentex_routes import agentex_routes
from everyspan.server.answers import Answers
from everyspan.server.api_annotations import annotation_operations
from everyspan.server.api_openapi import openapi_operation
from everyspan.server.api_producers import producer_operations
from everyspan.server.api_traces import trace_operations
from everyspan.server.body import Bodies
from everyspan.server.envelope import Envelope
from everyspan.server.feed import Feed
from everyspan.server.guard import Guard
from everyspan.server.health_routes import health_routes
from everyspan.server.hosts import Hosts
from everyspan.server.ingest import Ingest
from everyspan.server.keyring import Keyring
from everyspan.server.metrics import Metrics
from everyspan.server.otlp_refusals import Refusals
from everyspan.server.otlp_routes import otlp_routes
from everyspan.server.page import page_routes
from everyspan.server.session_routes import session_operations
from everyspan.server.sgp_assessments import assessment_routes
from everyspan.server.sgp_routes import sgp_routes
from everyspan.server.stores.base import Store


def create_app(store: Store, hosts: Hosts | None = None, *, must_ask_key: bool = False) -> Envelope:
    """Return the application over `store`, which it closes when the server stops.

    Args:
        hosts: The names it goes by; None for those of loopback alone.
        must_ask_key: Ask for a key even if none was ever made.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, object]]:
        yield {"metrics": metrics}
        await store.close()

    bodies = Bodies()
    keyring = Keyring(store, must_ask=must_ask_key)
    metrics = Metrics()
    answers = Answers(metrics)
    refusals = Refusals()
    metrics.read(
        "everyspan_otlp_refused_spans_total",
        "counter",
        "Spans refused singly by the OTLP endpoint, by why.",
        lambda: [({"reason": reason}, spans) for reason, spans in refusals.spans.items()],
    )
    stopping = asyncio.Event()

    def ingest(protocol: str) -> Ingest:
        return Ingest(store, metrics, protocol)

    agentex = [*agentex_routes(store, ingest("agentex"), bodies), *agentex_agents_routes(bodies)]
    sgp = [*sgp_routes(store, ingest("sgp"), bodies), *assessment_routes(store, bodies)]
    # The SGP client's environment `local` asks under /public (`sgp` §1).
    public = Mount("/public", Router(sgp, redirect_slashes=False))
    feed = Feed(store, keyring, stopping)
    metrics.read(
        "everyspan_feed_viewers",
        "gauge",
        "Streams of the live feed that are open.",
        lambda: [({}, feed.viewers)],
    )
    operations = [
        *session_operations(keyring, bodies),
        *producer_operations(store, bodies),
        *trace_operations(store),
        *annotation_operations(store, bodies),
        feed.operation(),
    ]
    operations.append(openapi_operation(operations))
    routes = Router(
        [
            *health_routes(store, metrics, stopping),
            *otlp_routes(ingest("otlp"), bodies, refusals),
            *agentex,
            *sgp,
            public,
            *(operation.route() for operation in operations),
            *page_routes(),
        ],
        redirect_slashes=False,
    )
    app = Starlette(
        # Inside of what words errors, outside of every route.
        routes=[Mount("", Guard(routes, hosts or Hosts(), keyring))],
        exception_handlers={
            HTTPException: answers.no_route,
            RequestError: answers.refused,
            StoreError: answers.store_failed,
            ClientDisconnect: answers.gone,
            Exception: answers.failed,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return Envelope(app, metrics, stopping)
