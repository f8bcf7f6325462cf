"""The SGP spans API (`sgp` §2) over a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everyspan.errors import RequestError
from everyspan.server import sgp_reply, sgp_search, sgp_spans
from everyspan.server.account import account_of
from everyspan.server.body import Bodies
from everyspan.server.ingest import Ingest
from everyspan.server.row import SpanRow
from everyspan.server.sgp_project import refuse_project
from everyspan.server.stores.base import Store

RETURN_MINIMAL = "return=minimal"


def sgp_routes(store: Store, ingest: Ingest, bodies: Bodies) -> list[BaseRoute]:
    """Return the routes under `/v5`."""
    spans = _Spans(store, ingest, bodies)
    return [
        Route("/v5/spans", spans.create, methods=["POST"]),
        Route("/v5/spans/batch", spans.write_batch, methods=["POST", "PUT"]),
        Route("/v5/spans/search", spans.search, methods=["POST"]),
        # An id may hold "/": the router sees the decoded path (`sgp` §2).
        Route("/v5/spans/{span_id:path}", spans.retrieve, methods=["GET"]),
        Route("/v5/spans/{span_id:path}", spans.update, methods=["PATCH"]),
    ]


class _Spans:
    def __init__(self, store: Store, ingest: Ingest, bodies: Bodies) -> None:
        self._store = store
        self._ingest = ingest
        self._bodies = bodies

    async def create(self, request: Request) -> Response:
        """POST /v5/spans: insert or complete one span."""
        async with self._bodies.read(request) as body:
            row = sgp_spans.decode_create(body, account_of(request))
            stored = await self._upsert([row], lambda loc: ("body", *loc[1:]))
        return _json(sgp_reply.encode_span(stored[0]))

    async def write_batch(self, request: Request) -> Response:
        """POST and PUT /v5/spans/batch: insert or complete up to 1,000 spans, all or none.

        A sender that prefers `return=minimal` (RFC 7240) is spared the spans it just sent.
        """
        async with self._bodies.read(request) as body:
            rows = sgp_spans.decode_batch(body, account_of(request))
            stored = await self._upsert(rows, lambda loc: ("body", "items", *loc))
        if request.headers.get("prefer") == RETURN_MINIMAL:
            return _json(sgp_reply.encode_list([]), headers={"preference-applied": RETURN_MINIMAL})
        return _json(sgp_reply.encode_list(stored))

    async def retrieve(self, request: Request) -> Response:
        """GET /v5/spans/{id}: the most recently written span with this id."""
        row = await self._store.get(account_of(request), request.path_params["span_id"])
        return _span_or_404(row)

    async def update(self, request: Request) -> Response:
        """PATCH /v5/spans/{id}: change the fields given."""
        async with self._bodies.read(request) as body:
            patch = sgp_spans.decode_patch(body)
            span_id = request.path_params["span_id"]
            try:
                row = await self._ingest.patch(account_of(request), span_id, patch)
            except RequestError as error:
                raise _at(error, ("body", *error.loc)) from error
        return _span_or_404(row)

    async def search(self, request: Request) -> Response:
        """POST /v5/spans/search: one page of the spans that match."""
        refuse_project(request)
        async with self._bodies.read(request) as body:
            query = sgp_search.decode_search(body, request.query_params, account_of(request))
        takes_partial = sgp_search.reads_partial_results(request.query_params)
        page = await self._store.search(query)
        if page.stopped is not None and not takes_partial:
            if page.stopped == "bytes":
                raise RequestError(
                    400,
                    "SEARCH_RESULT_TOO_LARGE",
                    f"the page is larger than {query.bytes_max} bytes;"
                    " lower limit, or send allow_partial_results=true",
                )
            raise RequestError(
                400,
                "QUERY_TOO_BROAD",
                f"the search took longer than {query.time_max_s:g} s;"
                " narrow it, or send allow_partial_results=true",
            )
        return _json(sgp_reply.encode_page(page, query))

    async def _upsert(
        self,
        rows: list[SpanRow],
        to_path: Callable[[tuple[str | int, ...]], tuple[str | int, ...]],
    ) -> list[SpanRow]:
        try:
            return await self._ingest.upsert(rows)
        except RequestError as error:
            raise _at(error, to_path(error.loc)) from error


def _at(error: RequestError, loc: tuple[str | int, ...]) -> RequestError:
    return RequestError(error.status, error.code, str(error), loc=loc)


def _span_or_404(row: SpanRow | None) -> Response:
    if row is None:
        raise RequestError(404, "SPAN_NOT_FOUND", "no span has this id")
    return _json(sgp_reply.encode_span(row))


def _json(body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, media_type="application/json", headers=headers)
