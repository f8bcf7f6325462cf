"""OTLP requests for tests: written once, as OTLP JSON, and sent in either encoding."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from everyspan.server import otlp_json, otlp_protobuf
from everyspan.server.otlp_mapping import Mapper
from everyspan.server.otlp_span import OtlpSpan, SpanRefusal
from everyspan.server.row import SpanRow
from tests.server.rows import END_NS, START_NS

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = "00f067aa0ba902b7"
NOW_NS = 1_767_400_000_000_000_000

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}


class Bytes(bytes):
    """Marks bytes for `any_value`."""


def any_value(value: object) -> dict[str, Any]:
    """Return an AnyValue."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value))
        return {"doubleValue": text or value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": pairs(value)}}
    assert isinstance(value, Sequence)
    return {"arrayValue": {"values": [any_value(item) for item in value]}}


def pairs(attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return attributes as OTLP has them."""
    return [{"key": key, "value": any_value(value)} for key, value in attributes.items()]


def make_span(attributes: Mapping[str, object] | None = None, /, **fields: Any) -> dict[str, Any]:
    """Return a completed root span; a field given as `...` is left out."""
    defaults = {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "n",
        "startTimeUnixNano": str(START_NS),
        "endTimeUnixNano": str(END_NS),
        "attributes": pairs(attributes or {}),
    }
    return {name: value for name, value in (defaults | fields).items() if value is not ...}


def make_event(name: str, attributes: Mapping[str, object]) -> dict[str, Any]:
    """Return an event at the span's start."""
    return {"timeUnixNano": str(START_NS), "name": name, "attributes": pairs(attributes)}


def make_request(
    *spans: dict[str, Any],
    resource: Mapping[str, object] | None = None,
    scope: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a request with these spans."""
    scope_spans = {"scope": dict(scope or {}), "spans": list(spans)}
    return {
        "resourceSpans": [
            {"resource": {"attributes": pairs(resource or {})}, "scopeSpans": [scope_spans]}
        ]
    }


def to_json(request: dict[str, Any]) -> bytes:
    """Return a request in OTLP JSON."""
    return json.dumps(request).encode()


def to_protobuf(request: dict[str, Any]) -> bytes:
    """Return a request in protobuf, encoded by OpenTelemetry's own classes."""
    return ParseDict(_with_base64(request), ExportTraceServiceRequest()).SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message, its length always in four bytes."""
    size = len(content)
    length = [size >> shift & 0x7F | 0x80 for shift in (0, 7, 14)] + [size >> 21]
    return bytes([number << 3 | 2, *length]) + content


def _with_base64(node: Any, key: str = "") -> Any:
    """Protobuf's own JSON has ids in base64."""
    if isinstance(node, dict):
        return {name: _with_base64(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_base64(item) for item in node]
    if key in ("traceId", "spanId", "parentSpanId"):
        return base64.b64encode(bytes.fromhex(node)).decode()
    return node


def read_both(request: dict[str, Any]) -> list[OtlpSpan | str]:
    """Return the spans of a request, or why one is refused; the same from both encodings."""
    found = []
    for items in (
        otlp_protobuf.read_spans(to_protobuf(request)),
        otlp_json.read_spans(to_json(request)),
    ):
        spans = [item for item in items if item is not None]
        found.append([str(item) if isinstance(item, SpanRefusal) else item for item in spans])
    from_protobuf, from_json = found
    assert list(map(_comparable, from_protobuf)) == list(map(_comparable, from_json))
    return from_protobuf


def _comparable(item: OtlpSpan | str) -> Any:
    if isinstance(item, str):
        return item
    origin = item.origin
    fields = {name: getattr(item, name) for name in item.__struct_fields__ if name != "origin"}
    return fields, origin.resource, origin.scope_name, origin.scope_version


def rows_of(request: dict[str, Any]) -> list[SpanRow]:
    """Return the rows of a request whose spans are all taken."""
    mapper = Mapper("a", NOW_NS)
    rows = []
    for item in read_both(request):
        assert isinstance(item, OtlpSpan), item
        rows.append(mapper.to_row(item))
    return rows


def row_of(attributes: Mapping[str, object] | None = None, /, **fields: Any) -> SpanRow:
    """Return the row of one span."""
    (row,) = rows_of(make_request(make_span(attributes, **fields)))
    return row


def data_of(row: SpanRow) -> dict[str, Any]:
    """Return a row's metadata, parsed."""
    assert row.metadata is not None
    data: dict[str, Any] = json.loads(row.metadata)
    return data
