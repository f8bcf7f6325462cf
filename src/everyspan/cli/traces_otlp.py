"""Stored spans as OTLP in JSON, for `traces export --format otlp`.

T1  What a span says is decided by the encoder of the SDK's OTLP destination (`otlp` §4): this only
    reads the SGP span object, and writes protobuf as JSON.
T2  A line is one ExportTraceServiceRequest; memory is bounded by one line.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from msgspec import Raw
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from everyspan.cli.connection import ReaderError
from everyspan.model.record import NS_MAX, SpanRecord
from everyspan.model.span import SPAN_ERROR_KEY, TASK_ID_KEY, SpanStatus
from everyspan.processors import otlp_wire as wire
from everyspan.processors.otlp_span import SpanEncoder
from everyspan.server.timestamps import parse_timestamp

LINE_SPANS_MAX = 100
LINE_BYTES_MAX = 4 << 20
"""Of protobuf (`otlp:B5`); one span has at most a quarter of it (`otlp:B6`)."""

_IDS = ("traceId", "spanId", "parentSpanId")
_NULL = b"null"


class _Error(msgspec.Struct):
    type: str = "Error"
    message: str = ""
    category: str = "unknown"


class _Metadata(msgspec.Struct):
    task_id: str | None = msgspec.field(default=None, name=TASK_ID_KEY)
    error: Raw = msgspec.field(default=Raw(_NULL), name=SPAN_ERROR_KEY)


class _Item(msgspec.Struct):
    """What an SGP span object holds that OTLP can say."""

    id: str
    trace_id: str
    name: str
    start_timestamp: str
    end_timestamp: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    type: str | None = None
    status: str | None = None
    input: Raw = Raw(_NULL)
    output: Raw = Raw(_NULL)
    metadata: Raw = Raw(_NULL)
    obs_trace_id: str | None = None
    obs_span_id: str | None = None


_decode_item = msgspec.json.Decoder(_Item).decode


def otlp_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a request for every LINE_SPANS_MAX span objects, or sooner where they are large.

    Raises:
        ReaderError: A server sent something else than a span.
    """
    encoder = SpanEncoder(name="export", agent_name=None, openinference=False)
    spans: list[bytes] = []
    size = 0
    for line in lines:
        span = encoder.encode(_record(line))
        if spans and (len(spans) >= LINE_SPANS_MAX or size + len(span) > LINE_BYTES_MAX):
            yield _request(spans)
            spans, size = [], 0
        spans.append(span)
        size += len(span)
    if spans:
        yield _request(spans)


def _record(line: bytes) -> SpanRecord:
    try:
        item = _decode_item(line)
        start_ns = parse_timestamp(item.start_timestamp)
        end_ns = None if item.end_timestamp is None else parse_timestamp(item.end_timestamp)
    except (msgspec.MsgspecError, ValueError) as reason:
        raise ReaderError(f"the server sent a span that cannot be read: {reason}") from None
    status = item.status or SpanStatus.SUCCESS
    task_id, error = _said(item.metadata)
    record = SpanRecord(
        is_end=end_ns is not None,
        id=item.id,
        trace_id=item.trace_id,
        parent_id=item.parent_id,
        name=item.name,
        start_ns=min(start_ns, NS_MAX),
        end_ns=end_ns,
        input=_payload(item.input),
        output=_payload(item.output),
        data=_payload(item.metadata),
        status=status,
        type=item.type,
        task_id=task_id,
        group_id=item.group_id,
        error=None if status == SpanStatus.SUCCESS else error,
        size_bytes=len(line),
        offered_s=0.0,
    )
    if item.obs_trace_id is not None:
        record.obs = (item.obs_trace_id, item.obs_span_id or "")
    record.tidy()
    return record


def _said(metadata: Raw) -> tuple[str | None, tuple[str, str, str] | None]:
    """Return the task's id and the error that stand in the metadata of a span."""
    try:
        said = msgspec.json.decode(metadata, type=_Metadata | None)
        error = None if said is None else msgspec.json.decode(said.error, type=_Error | None)
    except msgspec.MsgspecError:
        # Somebody else's members of these names: they are data.
        return None, None
    if said is None or error is None:
        return None if said is None else said.task_id, None
    return said.task_id, (error.type, error.message, error.category)


def _payload(value: Raw) -> bytes | None:
    payload = bytes(value)
    return None if payload == _NULL else payload


def _request(spans: list[bytes]) -> bytes:
    packed = wire.request(
        # The service of a span is not known here: what it says of its agent is in its data.
        resource=b"",
        scope=wire.scope(name=b"everyspan", version=version("everyspan").encode()),
        spans=spans,
    )
    message = ExportTraceServiceRequest.FromString(packed)
    request: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        # OTLP's own rule: ids are hex, where protobuf's is base64 (`otlp:J1`).
        span |= {name: b64decode(span[name]).hex() for name in _IDS if name in span}
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()
