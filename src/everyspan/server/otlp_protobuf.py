"""OTLP in protobuf: bodies to spans, one at a time.

The outer three levels (request, resource, scope) are walked by hand, and each span is parsed by
itself by the protobuf runtime. So a body of any shape takes little memory beside itself (parsed
whole, 64 MiB of empty spans would take gigabytes), and others can run between two spans.

The runtime is upb, written in C; the one in pure Python is a hundred times slower and refused.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from everyspan.errors import RequestError
from everyspan.server.otlp_span import (
    GROUPS_MAX,
    VALUES_MAX,
    VALUES_REFUSED,
    Attributes,
    OtlpEvent,
    OtlpLink,
    OtlpOrigin,
    OtlpSpan,
    SpanRefusal,
    check_ids,
    parent_or_none,
    plain_bytes,
    plain_float,
    too_many_groups,
)

RUNTIME = api_implementation.Type()

_RESOURCE_SPANS = 1
_RESOURCE, _SCOPE_SPANS = 1, 2
_SCOPE, _SPANS = 1, 2
_COUNTED_BYTES = 64 * 1024
"""A span below this cannot hold more than VALUES_MAX values."""
FIELD_BYTES_MIN = 16
FIELDS_FREE = 10_000
"""Outside of spans a message may have so many fields, and one more for each FIELD_BYTES_MIN of its
bytes. A span with its ids takes twice that; millions of empty ones would cost half a minute."""
_DEPTH_MAX = 100
_REST_EVERY = 1_000
_PAUSE = -1

_NESTED: dict[str, dict[int, str]] = {
    "span": {9: "pair", 11: "event", 13: "link"},
    "event": {3: "pair"},
    "link": {4: "pair"},
    "resource": {1: "pair"},
    "scope": {3: "pair"},
    "pair": {2: "value"},
    "value": {5: "list", 6: "object"},
    "list": {1: "value"},
    "object": {1: "pair"},
}
"""Of each message: the fields that hold messages, by number, and which."""


def read_spans(body: bytes) -> Iterator[OtlpSpan | SpanRefusal | None]:
    """Yield the spans of an ExportTraceServiceRequest in order, and why some are refused.

    None stands for nothing: it is yielded where much was read without a span, to let others run.

    Raises:
        RequestError: 400; it cannot be decoded (`otlp:H7`). 413; it has too many groups.
    """
    try:
        yield from _read_request(body)
    except DecodeError:
        raise RequestError(400, "INVALID_PROTOBUF", "the body is no OTLP protobuf") from None


def _read_request(body: bytes) -> Iterator[OtlpSpan | SpanRefusal | None]:
    groups = 0
    for number, start, end in _outer_fields(body, 0, len(body)):
        if number != _RESOURCE_SPANS:
            yield from _rest(number)
            continue
        groups += 1
        if groups > GROUPS_MAX:
            raise too_many_groups()
        # Whatever order the fields come in, what is common to the spans is read first.
        resource = yield from _gather(body, start, end, _RESOURCE, "resource")
        attributes = _attributes(Resource.FromString(resource).attributes)
        for inner, scope_start, scope_end in _outer_fields(body, start, end):
            if inner != _SCOPE_SPANS:
                yield from _rest(inner)
                continue
            groups += 1
            if groups > GROUPS_MAX:
                raise too_many_groups()
            packed = yield from _gather(body, scope_start, scope_end, _SCOPE, "scope")
            scope = InstrumentationScope.FromString(packed)
            origin = OtlpOrigin(attributes, scope.name, scope.version)
            for field, span_start, span_end in _outer_fields(body, scope_start, scope_end):
                if field != _SPANS:
                    yield from _rest(field)
                    continue
                try:
                    yield _read_span(body, span_start, span_end, origin)
                except SpanRefusal as refusal:
                    yield refusal


def _rest(number: int) -> Iterator[None]:
    if number == _PAUSE:
        yield None


def _read_span(body: bytes, start: int, end: int, origin: OtlpOrigin) -> OtlpSpan:
    if end - start > _COUNTED_BYTES:
        _count(body, start, end, "span", VALUES_MAX)
    span = Span.FromString(body[start:end])
    trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
    check_ids(trace_id, span_id)
    return OtlpSpan(
        origin=origin,
        trace_id=trace_id,
        id=span_id,
        parent_id=parent_or_none(span.parent_span_id.hex()),
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=[
            OtlpEvent(event.time_unix_nano, event.name, _attributes(event.attributes))
            for event in span.events
        ],
        links=[
            OtlpLink(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
            for link in span.links
        ],
        status=span.status.code,
        message=span.status.message,
        dropped=(
            span.dropped_attributes_count,
            span.dropped_events_count,
            span.dropped_links_count,
        ),
    )


def _attributes(pairs: Any) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    # Nesting is bounded: the runtime has parsed it.
    if text := value.string_value:  # Most values: one look instead of two.
        return text
    which = value.WhichOneof("value")
    if which is None:
        return None
    read = _READERS.get(which)
    return getattr(value, which) if read is None else read(getattr(value, which))


_READERS: dict[str, Any] = {
    "double_value": plain_float,
    "bytes_value": plain_bytes,
    "array_value": lambda array: [_value(item) for item in array.values],
    "kvlist_value": lambda pairs: _attributes(pairs.values),
    # An index into a table that only profiles have.
    "string_value_strindex": lambda _: None,
}
"""By kind of value; one that is not here is plain as it is."""


def _gather(
    body: bytes, start: int, end: int, wanted: int, kind: str
) -> Generator[None, None, bytes]:
    """Return a message field's bytes; all its occurrences are one message, says protobuf."""
    found = []
    for number, at, to in _outer_fields(body, start, end):
        if number == wanted:
            found.append(body[at:to])
        yield from _rest(number)
    message = b"".join(found)
    if len(message) > _COUNTED_BYTES:
        try:
            _count(message, 0, len(message), kind, VALUES_MAX)
        except SpanRefusal:
            raise RequestError(
                400, "TOO_MANY_VALUES", f"a {kind} holds more than {VALUES_MAX} values"
            ) from None
    return message


def _count(body: bytes, start: int, end: int, kind: str, budget: int, depth: int = 0) -> int:
    """Return how much of a budget of values a message leaves.

    Raises:
        SpanRefusal: It holds more.
        DecodeError: It nests deeper than the runtime allows.
    """
    if depth > _DEPTH_MAX:
        raise DecodeError
    nested = _NESTED[kind]
    for number, at, to in _fields(body, start, end):
        inner = nested.get(number)
        if inner is None:
            continue
        budget -= 1
        if budget < 0:
            raise SpanRefusal(VALUES_REFUSED)
        if to > at:
            budget = _count(body, at, to, inner, budget, depth + 1)
    return budget


def _outer_fields(body: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield what `_fields` does.

    Raises:
        RequestError: 413; there are more fields than spans could have.
    """
    left = FIELDS_FREE + (end - start) // FIELD_BYTES_MIN
    for field in _fields(body, start, end):
        if field[0] == _PAUSE:
            left -= _REST_EVERY
            if left < 0:
                raise RequestError(413, "TOO_MANY_FIELDS", "the body has too many tiny fields")
        yield field


def _fields(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field that has a length; now and then a _PAUSE.

    Raises:
        DecodeError: This is no message.
    """
    count = 0
    while at < end:
        count += 1
        if count % _REST_EVERY == 0:
            yield _PAUSE, at, at
        tag, at = _varint(body, at, end)
        kind = tag & 7
        if tag < 8:
            raise DecodeError  # No field has the number 0.
        if kind == 2:
            size, at = _varint(body, at, end)
            if size > end - at:
                raise DecodeError
            yield tag >> 3, at, at + size
            at += size
        elif kind == 0:
            _, at = _varint(body, at, end)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        else:
            raise DecodeError
    if at > end:
        raise DecodeError


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DecodeError
