"""Traces over HTTP: lists, one trace, its spans and payloads, conversations, figures.

Q1  Lists page by keyset in both directions: while traces come, none is shown twice, none skipped.
Q2  No answer grows with the size of a payload: who opens a span gets the first 64 KiB of each.
Q3  What a parameter may be is declared; everything else is a 422 that names it.
"""

from __future__ import annotations

from typing import get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everyspan.errors import RequestError
from everyspan.model.completeness import State
from everyspan.model.w3c import trace_hex
from everyspan.server import api_items as items
from everyspan.server.account import account_of
from everyspan.server.api_operation import Operation, Param, Values
from everyspan.server.checks import ID_MAX, TRACE_ID_MAX
from everyspan.server.envelope import VERSION
from everyspan.server.json_reply import json_reply
from everyspan.server.paging import (
    AFTER_PARAM,
    CURSOR_MAX,
    LIMIT_PARAM,
    parse_cursor,
    to_cursor,
)
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import SearchQuery, Store
from everyspan.server.stores.traces import (
    SpanGroup,
    SpanPosition,
    Trace,
    TraceFilter,
    TracePage,
    TracePosition,
    TraceQuery,
)
from everyspan.server.summary import Facet, TraceSort
from everyspan.server.terms import TERM_LENGTH_MIN, TERMS_MAX, parse_texts
from everyspan.server.timestamps import format_timestamp

TEXT_TRACES_MAX = 500
"""Traces that a search for text finds at most: those that hold it last (chosen)."""
TEXT_TIME_MAX_S = 5.0
SPANS = 10_000
SPANS_MAX = 20_000
PIECE_BYTES_MAX = 4 * 1024 * 1024
FIELDS = ("input", "output", "metadata", "expected")

_FROM = Param(name="from", kind="time", help="Traces that started at this time or later.")
_TO = Param(name="to", kind="time", help="Traces that started before this time.")
_BEFORE = Param(
    name="before",
    kind="cursor",
    length_max=CURSOR_MAX,
    help="`previous` of the page after this one.",
)
_FACETS: dict[str, Facet] = {
    "agent": "agent",
    "error": "error",
    "model": "model",
    "name": "name",
    "session": "session",
    "state": "state",
    "status": "status",
    "type": "type",
    "user": "user",
}
_FACET_HELP = {
    "agent": "Traces with a span of this agent.",
    "error": "Traces with an error of this type.",
    "model": "Traces with a call of this model.",
    "name": "Traces with a span of this name.",
    "session": "Traces of this task, or of this group.",
    "state": "Traces in this state of completeness.",
    "status": "Traces whose root has this status.",
    "type": "Traces with a span of this type.",
    "user": "Traces of this user.",
}
_FILTERS = (
    _FROM,
    _TO,
    *(
        Param(
            name=name,
            kind="choice" if name == "state" else "text",
            choices=tuple(State) if name == "state" else (),
            length_max=TRACE_ID_MAX if name == "session" else ID_MAX,
            repeated=True,
            help=f"{help_} Repeated: one of them.",
        )
        for name, help_ in _FACET_HELP.items()
    ),
    Param(
        name="text",
        length_min=TERM_LENGTH_MIN,
        repeated=True,
        values_max=TERMS_MAX,
        help="Traces with a span that holds the words, in its name or its payloads; in quotes, "
        "the phrase. Repeated: all of them, in one span.",
    ),
    Param(
        name="has_error",
        kind="choice",
        choices=("true",),
        help="Traces with a span that failed.",
    ),
    Param(name="min_duration_ns", kind="integer", help="Traces that took so long at least."),
    Param(name="max_duration_ns", kind="integer", help="Traces that took so long at most."),
    Param(name="min_tokens", kind="integer", help="Traces of so many tokens at least."),
    Param(name="min_cost_usd", kind="number", maximum=10**9, help="Traces that cost so much."),
)
_TRACE_ID = Param(
    name="trace_id",
    where="path",
    length_max=TRACE_ID_MAX,
    help="The trace, in any form of its id; `id` of a trace fits every address.",
)
_SPAN_ID = Param(
    name="span_id",
    where="path",
    length_max=ID_MAX,
    help="The span's id, or its 16 digits in OpenTelemetry.",
)
_FIELD = Param(name="field", where="path", kind="choice", choices=FIELDS, help="Which payload.")
_SORT = Param(
    name="sort", kind="choice", choices=get_args(TraceSort), default="start", help="By what."
)
_ORDER = Param(
    name="order",
    kind="choice",
    choices=("desc", "asc"),
    default="desc",
    help="The greatest first, or the least.",
)


def trace_operations(store: Store) -> list[Operation]:
    """Return the operations on traces."""
    api = _Traces(store)
    span = "/api/traces/{trace_id}/spans/{span_id:path}"
    payload = "/api/traces/{trace_id}/%s/{field}/{span_id:path}"
    return [
        Operation(
            path="/api/traces",
            handler=api.list_,
            summary="Traces in order, one page",
            params=(*_FILTERS, _SORT, _ORDER, LIMIT_PARAM, AFTER_PARAM, _BEFORE),
            answer=items.TraceList,
        ),
        Operation(
            path="/api/traces/{trace_id}",
            handler=api.show,
            summary="One trace",
            params=(_TRACE_ID,),
            answer=items.TraceItem,
        ),
        Operation(
            path="/api/traces/{trace_id}/spans",
            handler=api.spans,
            summary="Spans of a trace by start, without payloads, one page",
            params=(
                _TRACE_ID,
                Param(
                    name="since",
                    kind="integer",
                    default=0,
                    help="Only those written after this: `change` of an earlier answer.",
                ),
                Param(
                    name="limit",
                    kind="integer",
                    minimum=1,
                    maximum=SPANS_MAX,
                    default=SPANS,
                    help="How many at most.",
                ),
                AFTER_PARAM,
            ),
            answer=items.SpanSkeleton,
        ),
        Operation(
            path=span,
            handler=api.span,
            summary="One span, with the first 64 KiB of each payload",
            params=(_TRACE_ID, _SPAN_ID),
            answer=items.SpanItem,
        ),
        Operation(
            path=payload % "payloads",
            handler=api.payload,
            summary="A part of a payload",
            params=(
                _TRACE_ID,
                _FIELD,
                _SPAN_ID,
                Param(name="offset", kind="integer", default=0, help="From which byte on."),
                Param(
                    name="length",
                    kind="integer",
                    minimum=1,
                    maximum=PIECE_BYTES_MAX,
                    default=items.PIECE_BYTES,
                    help="How many bytes at most; a part ends where a character does.",
                ),
            ),
            answer=items.Piece,
        ),
        Operation(
            path=payload % "downloads",
            handler=api.download,
            summary="A whole payload, byte for byte as it is stored",
            params=(_TRACE_ID, _FIELD, _SPAN_ID),
            answer=bytes,
        ),
        Operation(
            path="/api/conversations/{session:path}",
            handler=api.conversation,
            summary="The turns of a conversation, the first one first, one page",
            params=(
                Param(
                    name="session",
                    where="path",
                    length_max=TRACE_ID_MAX,
                    help="`session` of a trace: a task's id, else a group's.",
                ),
                LIMIT_PARAM,
                AFTER_PARAM,
                _BEFORE,
            ),
            answer=items.Conversation,
        ),
        Operation(
            path="/api/facets/{facet}",
            handler=api.facets,
            summary="Values that traces can be found by, the most frequent first",
            params=(
                Param(
                    name="facet",
                    where="path",
                    kind="choice",
                    choices=tuple(_FACETS),
                    help="Of what.",
                ),
                _FROM,
                _TO,
                LIMIT_PARAM,
            ),
            answer=items.FacetList,
        ),
        Operation(
            path="/api/series",
            handler=api.series,
            summary="Traces, errors, latencies, tokens and cost over time, and in total",
            params=(
                *_FILTERS,
                Param(
                    name="buckets",
                    kind="integer",
                    minimum=1,
                    maximum=500,
                    default=60,
                    help="In how many parts time is cut at most.",
                ),
            ),
            answer=items.SeriesAnswer,
        ),
        Operation(
            path="/api/overview",
            handler=api.overview,
            summary="Figures of spans by model, name, type or agent",
            params=(
                Param(
                    name="by",
                    kind="choice",
                    choices=get_args(SpanGroup),
                    default="name",
                    help="What the spans of a group share.",
                ),
                _FROM,
                _TO,
                LIMIT_PARAM,
            ),
            answer=items.OverviewAnswer,
        ),
        Operation(
            path="/api/health",
            handler=api.health,
            summary="How the server is",
            answer=items.HealthAnswer,
        ),
    ]


class _Traces:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_(self, request: Request, values: Values) -> Response:
        sort = values["sort"]
        filter_, partial = await self._filter(account_of(request), values)
        page = await self._page(
            values,
            TraceQuery(
                filter=filter_,
                sort=sort,
                descending=values["order"] == "desc",
                limit=values["limit"],
            ),
        )
        return json_reply(items.TraceList(*_listed(page, sort), partial))

    async def show(self, request: Request, values: Values) -> Response:
        trace = await self._store.get_trace(account_of(request), _key(values))
        if trace is None:
            raise _no_trace()
        return json_reply(items.trace_item(trace))

    async def spans(self, request: Request, values: Values) -> Response:
        account, key = account_of(request), _key(values)
        page = await self._store.trace_spans(
            account,
            key,
            after=parse_cursor(values["after"], SpanPosition),
            since=values["since"],
            limit=values["limit"],
        )
        if not page.spans and await self._store.get_trace(account, key) is None:
            raise _no_trace()
        next_cursor = None
        if page.has_next:
            last = page.spans[-1]
            next_cursor = to_cursor(SpanPosition(last.start_ns, last.id, last.trace_id))
        return json_reply(items.skeleton(page, next_cursor=next_cursor))

    async def span(self, request: Request, values: Values) -> Response:
        return json_reply(items.span_item(await self._span(request, values)))

    async def payload(self, request: Request, values: Values) -> Response:
        payload = _payload(await self._span(request, values), values["field"])
        return json_reply(items.piece(payload, values["offset"], values["length"]))

    async def download(self, request: Request, values: Values) -> Response:
        field = values["field"]
        payload = _payload(await self._span(request, values), field)
        headers = {
            # Never shown as a page, whatever a producer wrote.
            "content-disposition": f'attachment; filename="{field}.json"',
            "x-content-type-options": "nosniff",
        }
        return Response(payload, media_type="application/json", headers=headers)

    async def conversation(self, request: Request, values: Values) -> Response:
        session = values["session"]
        page = await self._page(
            values,
            TraceQuery(
                filter=TraceFilter(account=account_of(request), facets=(("session", (session,)),)),
                descending=False,
                limit=values["limit"],
            ),
        )
        return json_reply(items.Conversation(session, *_listed(page, "start")))

    async def facets(self, request: Request, values: Values) -> Response:
        filter_ = TraceFilter(
            account=account_of(request), from_ns=values["from"], to_ns=values["to"]
        )
        facet = values["facet"]
        found = await self._store.facet_values(filter_, _FACETS[facet], limit=values["limit"])
        return json_reply(
            items.FacetList(facet, [items.FacetItem(one.value, one.traces) for one in found])
        )

    async def series(self, request: Request, values: Values) -> Response:
        filter_, partial = await self._filter(account_of(request), values)
        series = await self._store.series(filter_, buckets=values["buckets"])
        buckets = []
        for place, figures in series.buckets:
            start_ns = series.from_ns + place * series.bucket_ns
            buckets.append(
                items.BucketItem(
                    format_timestamp(start_ns), str(start_ns), items.figure_item(figures)
                )
            )
        return json_reply(
            items.SeriesAnswer(
                str(series.bucket_ns), items.figure_item(series.total), buckets, partial
            )
        )

    async def overview(self, request: Request, values: Values) -> Response:
        found = await self._store.overview(
            account_of(request),
            from_ns=values["from"],
            to_ns=values["to"],
            group_by=values["by"],
            limit=values["limit"],
        )
        return json_reply(
            items.OverviewAnswer(
                [
                    items.GroupItem(one.value, items.figure_item(one.figures))
                    for one in found.groups
                ],
                found.spans,
                None if found.since_ns is None else format_timestamp(found.since_ns),
                found.is_partial,
            )
        )

    async def health(self, _request: Request, _values: Values) -> Response:
        health = await self._store.health()
        return json_reply(
            items.HealthAnswer(
                status="ok" if health.ok else "failing",
                version=VERSION,
                spans=health.spans,
                waiting=health.waiting,
                waiting_bytes=health.waiting_bytes,
                size_bytes=health.size_bytes,
                free_bytes=health.free_bytes,
                unsummarized=health.unsummarized,
                unindexed=health.unindexed,
            )
        )

    async def _filter(self, account: str, values: Values) -> tuple[TraceFilter, bool]:
        """Return what is asked for, and whether more traces may hold the text."""
        filter_ = _filter(account, values)
        if not values["text"]:
            return filter_, False
        try:
            texts = parse_texts(values["text"])
        except ValueError:
            detail = Detail(("query", "text"), "text is too short between its quotes", "range")
            raise InvalidRequestError(422, [detail]) from None
        found = await self._store.search_traces(
            SearchQuery(
                account=account,
                texts=texts,
                # A trace's spans start no earlier than it does.
                from_ns=values["from"],
                descending=True,
                limit=TEXT_TRACES_MAX,
                time_max_s=TEXT_TIME_MAX_S,
            )
        )
        keys = dict.fromkeys(bytes.fromhex(trace_hex(id_)) for id_ in found.trace_ids)
        named = msgspec.structs.replace(filter_, traces=tuple(keys))
        return named, found.through is not None

    async def _page(self, values: Values, query: TraceQuery) -> TracePage:
        after = parse_cursor(values["after"], TracePosition)
        before = parse_cursor(values["before"], TracePosition, name="before")
        if after is not None and before is not None:
            raise RequestError(422, "INVALID_CURSOR", "after is given too", loc=("query", "before"))
        for name, cursor in (("after", after), ("before", before)):
            if cursor is not None and cursor.sort != query.sort:
                raise RequestError(
                    400, "INVALID_CURSOR", "belongs to another order", loc=("query", name)
                )
        return await self._store.list_traces(
            msgspec.structs.replace(query, after=after, before=before)
        )

    async def _span(self, request: Request, values: Values) -> SpanRow:
        row = await self._store.trace_span(account_of(request), _key(values), values["span_id"])
        if row is None:
            raise RequestError(404, "SPAN_NOT_FOUND", "no span of this trace has this id")
        return row


def _filter(account: str, values: Values) -> TraceFilter:
    facets: list[tuple[Facet, tuple[str, ...]]] = [
        (facet, values[name]) for name, facet in _FACETS.items() if values[name]
    ]
    if values["has_error"]:
        facets.append(("has_error", ("true",)))
    return TraceFilter(
        account=account,
        from_ns=values["from"],
        to_ns=values["to"],
        facets=tuple(facets),
        min_duration_ns=values["min_duration_ns"],
        max_duration_ns=values["max_duration_ns"],
        min_tokens=values["min_tokens"],
        min_cost_usd=values["min_cost_usd"],
    )


def _listed(
    page: TracePage, sort: TraceSort
) -> tuple[list[items.TraceItem], str | None, str | None]:
    """Return the traces of a page, and the cursors of the next and the previous."""
    traces = page.traces
    return (
        [items.trace_item(trace) for trace in traces],
        _cursor(traces[-1], sort) if page.has_next and traces else None,
        _cursor(traces[0], sort) if page.has_previous and traces else None,
    )


def _cursor(trace: Trace, sort: TraceSort) -> str:
    return to_cursor(TracePosition(sort, trace.summary.sort_value(sort), trace.key))


def _key(values: Values) -> bytes:
    return bytes.fromhex(trace_hex(values["trace_id"]))


def _payload(row: SpanRow, field: str) -> bytes:
    payload: bytes | None = getattr(row, field)
    if payload is None:
        raise RequestError(404, "PAYLOAD_NOT_FOUND", f"the span has no {field}")
    return payload


def _no_trace() -> RequestError:
    return RequestError(404, "TRACE_NOT_FOUND", "no trace has this id")
