"""The OTLP endpoint for traces (`otlp` §1) over a store.

O1  200 after the last commit (P8); a request of any size is stored in chunks of at most
    CHUNK_SPANS, and may be repeated: the rows are the same (`otlp:H8`).
O2  What cannot be decoded is found out before anything is stored (`otlp:H7`).
O3  Nothing here keeps the event loop for longer than a few milliseconds, but one huge span.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.errors import RequestError
from everyspan.server.account import account_of
from everyspan.server.body import Bodies
from everyspan.server.ingest import Ingest
from everyspan.server.otlp_mapping import Mapper
from everyspan.server.otlp_refusals import Refusals
from everyspan.server.otlp_reply import JSON, PROTOBUF, media_type, success
from everyspan.server.otlp_span import SPAN_ID_REFUSED, TRACE_ID_REFUSED, OtlpSpan, SpanRefusal
from everyspan.server.row import SpanRow

TRACES_PATH = "/v1/traces"
LANGFUSE_PATH = "/api/public/otel/v1/traces"
"""Where the SDK of Langfuse sends."""
INFO_PATH = "/v1/info"
OTHER_SIGNALS = ("/v1/metrics", "/v1/logs")
OTLP_PATHS = (TRACES_PATH, f"{TRACES_PATH}/", LANGFUSE_PATH, *OTHER_SIGNALS)
"""Where errors are worded as OTLP does."""

CHUNK_SPANS = 1_000
CHUNK_BYTES = 4 * 1024 * 1024
REFUSED_MAX = 10_000
"""Spans of one request; what holds more of them is no trace, and an empty span is two bytes."""
_SLICE_S = 0.004

_Read = Callable[[bytes], Iterator[OtlpSpan | SpanRefusal | None]]
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def otlp_routes(
    ingest: Ingest, bodies: Bodies, refusals: Refusals, clock: Clock = SYSTEM_CLOCK
) -> list[BaseRoute]:
    """Return the routes of the endpoint, and what clients of it ask for besides."""
    traces = _Traces(ingest, bodies, refusals, clock)
    return [
        *(
            Route(path, traces.export, methods=["POST"])
            for path in (TRACES_PATH, f"{TRACES_PATH}/", LANGFUSE_PATH)
        ),
        *(Route(path, _other_signal, methods=_METHODS) for path in OTHER_SIGNALS),
        Route(INFO_PATH, _info, methods=["GET"]),
    ]


class _Traces:
    def __init__(self, ingest: Ingest, bodies: Bodies, refusals: Refusals, clock: Clock) -> None:
        self._ingest = ingest
        self._bodies = bodies
        self._refusals = refusals
        self._clock = clock

    async def export(self, request: Request) -> Response:
        """POST /v1/traces: insert or complete spans."""
        read = _reader(request)
        refused: Counter[str] = Counter()
        async with self._bodies.read(request) as body:
            stored = await self._store(body, read, account_of(request), refused)
        for reason, count in refused.items():
            self._refusals.add(reason, count)
        reasons = "; ".join(refused)
        if refused and not stored:
            if refused.keys() & {TRACE_ID_REFUSED, SPAN_ID_REFUSED}:
                reasons += " (a body of logs or metrics looks like this)"
            raise RequestError(400, "ALL_REFUSED", f"no span was taken: {reasons}")
        return success(request, refused=refused.total(), reason=reasons)

    async def _store(self, body: bytes, read: _Read, account: str, refused: Counter[str]) -> int:
        """Return how many spans were stored; count the refused ones."""
        mapper = Mapper(account, self._clock.time_ns())
        chunks = _chunks(_resting(read(body)), mapper, refused)
        first = await anext(chunks, None)
        if first is None:
            return 0
        second = await anext(chunks, None)
        if second is None:
            await self._upsert(first)
            return len(first)
        # More than one chunk: the rest is only looked at (O2), and then all of it decoded again,
        # since as rows it may take many times the memory of the body.
        del first, second
        refused.clear()
        async for item in _resting(read(body)):
            if isinstance(item, SpanRefusal):
                _count(item, refused)
        stored = 0
        async for rows in _chunks(_resting(read(body)), mapper, Counter()):
            await self._upsert(rows)
            stored += len(rows)
        return stored

    async def _upsert(self, rows: list[SpanRow]) -> None:
        # An exporter can mend nothing: what its links lack costs no span.
        await self._ingest.upsert(rows, foreign_parents=True, cut_cycles=True)


async def _chunks(
    items: AsyncIterator[OtlpSpan | SpanRefusal], mapper: Mapper, refused: Counter[str]
) -> AsyncIterator[list[SpanRow]]:
    """Yield the rows of spans, 1 to CHUNK_SPANS or about CHUNK_BYTES at a time."""
    rows: list[SpanRow] = []
    size = 0
    async for item in items:
        if isinstance(item, SpanRefusal):
            _count(item, refused)
            continue
        row = mapper.to_row(item)
        rows.append(row)
        size += row.payload_bytes
        if len(rows) == CHUNK_SPANS or size >= CHUNK_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _count(refusal: SpanRefusal, refused: Counter[str]) -> None:
    refused[str(refusal)] += 1
    if refused.total() > REFUSED_MAX:
        raise RequestError(
            400, "ALL_REFUSED", f"more than {REFUSED_MAX} spans were refused: {refusal}"
        )


async def _resting(
    items: Iterator[OtlpSpan | SpanRefusal | None],
) -> AsyncIterator[OtlpSpan | SpanRefusal]:
    """Yield what is decoded, and let others run now and then (O3)."""
    now = asyncio.get_running_loop().time
    until_s = now() + _SLICE_S
    for item in items:
        if item is not None:
            yield item
        if now() > until_s:
            await asyncio.sleep(0)
            until_s = now() + _SLICE_S


def _reader(request: Request) -> _Read:
    """Return what decodes a body of this request's type.

    Raises:
        RequestError: 415.
    """
    sent = media_type(request)
    if sent == PROTOBUF:
        # Loaded with the first request that needs it: a twentieth of a second.
        from everyspan.server import otlp_protobuf

        return otlp_protobuf.read_spans
    if sent == JSON:
        from everyspan.server import otlp_json

        return otlp_json.read_spans
    if sent.startswith("application/grpc"):
        message = f"gRPC is not spoken here: send OTLP over HTTP to {TRACES_PATH}"
    else:
        message = f"content-type must be {PROTOBUF} or {JSON}"
    raise RequestError(415, "UNSUPPORTED_MEDIA_TYPE", message)


async def _other_signal(_request: Request) -> Response:
    # Not 415 or 501, which some exporters would try again.
    raise RequestError(404, "NOT_FOUND", f"traces only: send them to {TRACES_PATH}")


async def _info(request: Request) -> Response:
    """GET /v1/info: what the SDK of logfire asks before it sends, and prints."""
    return JSONResponse({"project_name": "everyspan", "project_url": str(request.base_url)})
