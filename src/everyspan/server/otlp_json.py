"""OTLP in JSON: bodies to spans, one at a time (`otlp` §1, JSON).

This is not protobuf's own mapping: ids are hex (J1), 64-bit integers text or numbers (J2), enums
numbers or names (J3), null is absence (J4). The outer levels are cut into raw texts and each
span is decoded by itself, so that a body takes little memory beside itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from everyspan.errors import RequestError
from everyspan.server.otlp_span import (
    GROUPS_MAX,
    KINDS,
    STATUS_ERROR,
    VALUE_DEPTH_MAX,
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

OBJECTS_MAX = 4_000_000
"""In a body over _BIG_BODY_BYTES; chosen: a span of ten attributes has 22 in a thousand bytes."""
_BIG_BODY_BYTES = 4 * 1024 * 1024
_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_INT64 = range(-(2**63), 2**63)
_T = TypeVar("_T")

TYPE_REFUSED = "a field of a span has the wrong type"


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[Raw] | None = None


class _ResourceSpans(msgspec.Struct, rename="camel"):
    resource: Raw = Raw(b"null")
    scope_spans: list[Raw] | None = None


class _ScopeSpans(msgspec.Struct, rename="camel"):
    scope: Raw = Raw(b"null")
    spans: list[Raw] | None = None


class _Anything(msgspec.Struct, gc=False):
    pass


class _Objects(msgspec.Struct, rename="camel"):
    """Takes little memory, and refuses lists of anything but objects."""

    resource_spans: list[_Anything] | None = None
    scope_spans: list[_Anything] | None = None
    spans: list[_Anything] | None = None


class _Pair(msgspec.Struct, gc=False):
    key: str = ""
    value: dict[str, Any] | None = None


_Pairs = list[_Pair] | None


class _Resource(msgspec.Struct):
    attributes: _Pairs = None


class _Scope(msgspec.Struct):
    name: str | None = None
    version: str | None = None


class _Event(msgspec.Struct, rename="camel"):
    time_unix_nano: int | str | None = None
    name: str | None = None
    attributes: _Pairs = None


class _Link(msgspec.Struct, rename="camel"):
    trace_id: str | None = None
    span_id: str | None = None
    attributes: _Pairs = None


class _Status(msgspec.Struct):
    code: int | str | None = None
    message: str | None = None


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    kind: int | str | None = None
    start_time_unix_nano: int | str | None = None
    end_time_unix_nano: int | str | None = None
    attributes: _Pairs = None
    dropped_attributes_count: int | str | None = None
    events: list[_Event] | None = None
    dropped_events_count: int | str | None = None
    links: list[_Link] | None = None
    dropped_links_count: int | str | None = None
    status: _Status | None = None


_decode_objects = msgspec.json.Decoder(_Objects).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_resource_spans = msgspec.json.Decoder(_ResourceSpans).decode
_decode_scope_spans = msgspec.json.Decoder(_ScopeSpans).decode
_decode_resource = msgspec.json.Decoder(_Resource | None).decode
_decode_scope = msgspec.json.Decoder(_Scope | None).decode
_decode_span = msgspec.json.Decoder(_Span).decode


def read_spans(body: bytes) -> Iterator[OtlpSpan | SpanRefusal | None]:
    """Yield the spans of an ExportTraceServiceRequest in order, and why some are refused.

    None stands for nothing: it is yielded where much was read without a span, to let others run.

    Raises:
        RequestError: 400; it cannot be decoded (`otlp:H7`). 413; it has too many objects or groups.
    """
    if not body:
        return  # A request without spans, as in protobuf.
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise _undecodable("the body is not UTF-8") from None
    if len(body) > _BIG_BODY_BYTES and body.count(b"{") > OBJECTS_MAX:
        raise RequestError(413, "TOO_MANY_OBJECTS", f"the body holds over {OBJECTS_MAX} objects")
    request = _outer(_decode_request, body, "the body")
    groups = len(request.resource_spans or ())
    for resource_text in request.resource_spans or ():
        yield None
        resource_spans = _outer(_decode_resource_spans, resource_text, "resourceSpans")
        resource = _outer(_decode_resource, resource_spans.resource, "resource")
        attributes = _common(resource and resource.attributes)
        groups += len(resource_spans.scope_spans or ())
        if groups > GROUPS_MAX:
            raise too_many_groups()
        for scope_text in resource_spans.scope_spans or ():
            yield None
            scope_spans = _outer(_decode_scope_spans, scope_text, "scopeSpans")
            scope = _outer(_decode_scope, scope_spans.scope, "scope") or _Scope()
            origin = OtlpOrigin(attributes, scope.name or "", scope.version or "")
            for span_text in scope_spans.spans or ():
                try:
                    yield _read_span(span_text, origin)
                except SpanRefusal as refusal:
                    yield refusal


def _outer(decode: Callable[[bytes | Raw], _T], text: bytes | Raw, what: str) -> _T:
    """Return what a part decodes to; what is wrong in it spoils the request."""
    try:
        if len(memoryview(text)) > _BIG_BODY_BYTES:
            _decode_objects(text)
        return decode(text)
    except msgspec.ValidationError:
        raise _undecodable(f"{what} has not the fields or types of OTLP") from None
    except RecursionError:
        raise _undecodable("the body nests too deep") from None
    except msgspec.DecodeError:
        raise _undecodable("the body is no JSON") from None


def _read_span(text: Raw, origin: OtlpOrigin) -> OtlpSpan:
    size = len(memoryview(text))
    if size > VALUES_MAX and bytes(text).count(b"{") > VALUES_MAX:
        raise SpanRefusal(VALUES_REFUSED)
    try:
        span = _decode_span(text)
    except msgspec.ValidationError:
        if bytes(memoryview(text)[:1]) != b"{":
            raise _undecodable("a span is no object") from None
        raise SpanRefusal(TYPE_REFUSED) from None
    except RecursionError:
        raise _undecodable("the body nests too deep") from None
    except msgspec.DecodeError:
        raise _undecodable("the body is no JSON") from None
    trace_id, span_id = _hex(span.trace_id), _hex(span.span_id)
    check_ids(trace_id, span_id)
    status = span.status or _Status()
    return OtlpSpan(
        origin=origin,
        trace_id=trace_id,
        id=span_id,
        parent_id=parent_or_none(_hex(span.parent_span_id)),
        name=span.name or "",
        kind=_kind(span.kind),
        start_ns=_count(span.start_time_unix_nano),
        end_ns=_count(span.end_time_unix_nano),
        attributes=_attributes(span.attributes),
        events=[
            OtlpEvent(_count(event.time_unix_nano), event.name or "", _attributes(event.attributes))
            for event in span.events or ()
        ],
        links=[
            OtlpLink(_hex(link.trace_id), _hex(link.span_id), _attributes(link.attributes))
            for link in span.links or ()
        ],
        status=_status(status.code),
        message=status.message or "",
        dropped=(
            _count(span.dropped_attributes_count),
            _count(span.dropped_events_count),
            _count(span.dropped_links_count),
        ),
    )


def _hex(text: str | None) -> str:
    return text.lower() if text and _HEX.fullmatch(text) else ""


def _count(value: int | str | None) -> int:
    return 0 if value is None else _integer(value)


def _integer(value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpanRefusal(TYPE_REFUSED)
    return value


def _kind(value: int | str | None) -> int:
    if isinstance(value, str):
        name = value.removeprefix("SPAN_KIND_").lower()
        return KINDS.index(name) if name in KINDS else 0
    return value or 0


def _status(value: int | str | None) -> int:
    if isinstance(value, str):
        return STATUS_ERROR if value == "STATUS_CODE_ERROR" else 0
    return value or 0


def _common(pairs: _Pairs) -> Attributes:
    try:
        return _attributes(pairs)
    except SpanRefusal:
        raise _undecodable("resource has not the fields or types of OTLP") from None


def _attributes(pairs: _Pairs) -> Attributes:
    return {pair.key: _value(pair.value, 0) for pair in pairs or ()}


def _value(value: object, depth: int) -> Any:
    """Return what an AnyValue says: its first known field does (J4)."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise SpanRefusal(TYPE_REFUSED)
    if depth > VALUE_DEPTH_MAX:
        raise _undecodable("the body nests too deep")
    for name, inner in value.items():
        read = _READERS.get(name)
        if read is not None and inner is not None:
            return read(inner, depth)
    return None


def _text(value: object, _depth: int) -> str:
    if not isinstance(value, str):
        raise SpanRefusal(TYPE_REFUSED)
    return value


def _boolean(value: object, _depth: int) -> bool:
    if not isinstance(value, bool):
        raise SpanRefusal(TYPE_REFUSED)
    return value


def _int64(value: object, _depth: int) -> int:
    number = _integer(value)
    if number not in _INT64:
        raise SpanRefusal(TYPE_REFUSED)
    return number


def _double(value: object, _depth: int) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise SpanRefusal(TYPE_REFUSED)
    try:
        return plain_float(float(value))
    except (ValueError, OverflowError):
        raise SpanRefusal(TYPE_REFUSED) from None


def _bytes(value: object, _depth: int) -> str:
    text = _text(value, _depth)
    try:
        padded = text.translate(_URL_SAFE) + "=" * (-len(text) % 4)
        return plain_bytes(base64.b64decode(padded, validate=True))
    except (binascii.Error, ValueError):
        raise SpanRefusal(TYPE_REFUSED) from None


def _array(value: object, depth: int) -> list[Any]:
    return [_value(item, depth + 1) for item in _members(value)]


def _object(value: object, depth: int) -> Attributes:
    found = {}
    for pair in _members(value):
        if not isinstance(pair, dict):
            raise SpanRefusal(TYPE_REFUSED)
        found[_text(pair.get("key") or "", depth)] = _value(pair.get("value"), depth + 1)
    return found


def _members(value: object) -> list[Any]:
    members = value.get("values") if isinstance(value, dict) else ()
    if members is None:
        return []
    if not isinstance(members, list):
        raise SpanRefusal(TYPE_REFUSED)
    return members


_URL_SAFE = str.maketrans("-_", "+/")
_READERS: dict[str, Callable[[Any, int], Any]] = {
    "stringValue": _text,
    "boolValue": _boolean,
    "intValue": _int64,
    "doubleValue": _double,
    "bytesValue": _bytes,
    "arrayValue": _array,
    "kvlistValue": _object,
}


def _undecodable(message: str) -> RequestError:
    return RequestError(400, "INVALID_JSON", message)
