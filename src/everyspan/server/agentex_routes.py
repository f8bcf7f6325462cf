"""The AgentEx spans API (`agx` §3) over a store; kept thin, as it may go upstream (`agx` §8)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everyspan.errors import RequestError
from everyspan.server import agentex_reply, agentex_spans
from everyspan.server.account import account_of
from everyspan.server.body import Bodies
from everyspan.server.checks import ID_MAX
from everyspan.server.ingest import Ingest
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import Store

SPANS_PATH = "/spans"


def agentex_routes(store: Store, ingest: Ingest, bodies: Bodies) -> list[BaseRoute]:
    """Return the routes under `/spans`."""
    spans = _Spans(store, ingest, bodies)
    return [
        Route(SPANS_PATH, spans.create, methods=["POST"]),
        Route(SPANS_PATH, spans.list, methods=["GET"]),
        # An id may hold "/": the router sees the decoded path.
        Route(f"{SPANS_PATH}/{{span_id:path}}", spans.retrieve, methods=["GET"]),
        Route(f"{SPANS_PATH}/{{span_id:path}}", spans.update, methods=["PATCH"]),
    ]


class _Spans:
    def __init__(self, store: Store, ingest: Ingest, bodies: Bodies) -> None:
        self._store = store
        self._ingest = ingest
        self._bodies = bodies

    async def create(self, request: Request) -> Response:
        """POST /spans: insert a span, or complete one (`agx:A2`)."""
        async with self._bodies.read(request) as body:
            row = agentex_spans.decode_create(body, account_of(request))
            with _store_refusals():
                # What names its parent is not asked where that is (`agx` §2).
                (stored,) = await self._ingest.upsert([row], foreign_parents=True)
        return _json(agentex_reply.encode_span(stored))

    async def retrieve(self, request: Request) -> Response:
        """GET /spans/{id}: the most recently written span with this id."""
        span_id = request.path_params["span_id"]
        return _span_or_404(await self._store.get(account_of(request), span_id), span_id)

    async def update(self, request: Request) -> Response:
        """PATCH /spans/{id}: change the fields given."""
        span_id = request.path_params["span_id"]
        async with self._bodies.read(request) as body:
            patch = agentex_spans.decode_patch(body)
            with _store_refusals():
                row = await self._ingest.patch(account_of(request), span_id, patch)
        return _span_or_404(row, span_id)

    async def list(self, request: Request) -> Response:
        """GET /spans: one page of the spans that match, as a bare array."""
        query = agentex_spans.decode_list(request.query_params, account_of(request))
        return _json(agentex_reply.encode_spans(await self._store.list_spans(query)))


@contextmanager
def _store_refusals() -> Generator[None]:
    """Say what the store refuses in the words of this API."""
    try:
        yield
    except RequestError as error:
        if error.status == 409:
            # Its client would send a 409 three times, and knows 400 for what cannot be stored.
            raise RequestError(400, error.code, str(error)) from error
        message, field = str(error), "data"
        if error.loc == ("end_timestamp",):
            message, field = agentex_spans.END_BEFORE_START, "end_time"
        raise InvalidRequestError(422, [Detail(("body", field), message, "range")]) from error


def _span_or_404(row: SpanRow | None, span_id: str) -> Response:
    if row is None:
        message = f"Item with id '{span_id[:ID_MAX]}' does not exist."
        raise RequestError(404, "SPAN_NOT_FOUND", message)
    return _json(agentex_reply.encode_span(row))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
