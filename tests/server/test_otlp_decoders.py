"""OTLP bodies in protobuf and in JSON: what is taken, what refuses a span, what a request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from everyspan.errors import RequestError
from everyspan.server import otlp_json, otlp_protobuf
from everyspan.server.otlp_span import (
    GROUPS_MAX,
    SPAN_ID_REFUSED,
    TRACE_ID_REFUSED,
    VALUES_MAX,
    VALUES_REFUSED,
    OtlpSpan,
    SpanRefusal,
)
from tests.server.otlp_requests import (
    PARENT,
    SPAN,
    TRACE,
    any_value,
    field,
    make_event,
    make_request,
    make_span,
    pairs,
    read_both,
    to_json,
    to_protobuf,
)

Items = list[OtlpSpan | SpanRefusal]


def items_of(found: Iterator[OtlpSpan | SpanRefusal | None]) -> Items:
    return [item for item in found if item is not None]


def from_json(request: object) -> Items:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return items_of(otlp_json.read_spans(body))


def from_protobuf(body: bytes) -> Items:
    return items_of(otlp_protobuf.read_spans(body))


def refusals_of(items: Items) -> list[str]:
    return [str(item) for item in items if isinstance(item, SpanRefusal)]


def test_both_encodings_say_the_same() -> None:
    """otlp:J1, J2, J3: every field of a span, its resource and its scope."""
    span = make_span(
        {"a": 1, "b": [1.5, float("nan"), None, {"c": b"\xff"}], "big": -(2**63)},
        parentSpanId=PARENT,
        kind=4,
        events=[make_event("e", {"x": True})],
        links=[{"traceId": TRACE, "spanId": PARENT, "attributes": pairs({"y": "z"})}],
        status={"code": 2, "message": "m"},
        droppedAttributesCount=1,
        droppedEventsCount=2,
        droppedLinksCount=3,
    )
    request = make_request(span, resource={"service.name": "s"}, scope={"name": "l"})
    (item,) = read_both(request)
    assert isinstance(item, OtlpSpan)
    assert (item.trace_id, item.id, item.parent_id) == (TRACE, SPAN, PARENT)
    assert item.attributes == {"a": 1, "b": [1.5, "NaN", None, {"c": "/w=="}], "big": -(2**63)}
    assert (item.kind, item.status, item.message, item.dropped) == (4, 2, "m", (1, 2, 3))
    assert item.origin.resource == {"service.name": "s"}


@pytest.mark.parametrize(
    "request_",
    [{}, {"resourceSpans": []}, {"resourceSpans": [{}]}, {"resourceSpans": [{"scopeSpans": [{}]}]}],
)
def test_requests_without_spans(request_: dict[str, Any]) -> None:
    """otlp:H7: they are none that cannot be decoded."""
    assert read_both(request_) == []
    assert from_json(b"") == from_protobuf(b"") == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"traceId": "0" * 32}, TRACE_ID_REFUSED),
        ({"traceId": TRACE[:-2]}, TRACE_ID_REFUSED),
        ({"traceId": ""}, TRACE_ID_REFUSED),
        ({"traceId": ...}, TRACE_ID_REFUSED),
        ({"spanId": "0" * 16}, SPAN_ID_REFUSED),
        ({"spanId": SPAN + "00"}, SPAN_ID_REFUSED),
        ({"spanId": ...}, SPAN_ID_REFUSED),
    ],
)
def test_a_span_without_ids_is_refused_alone(fields: dict[str, Any], reason: str) -> None:
    """otlp:H6."""
    good = make_span(spanId="1" * 16)
    refused, taken = read_both(make_request(make_span(**fields), good))
    assert refused == reason
    assert isinstance(taken, OtlpSpan)


@pytest.mark.parametrize("parent_id", ["", "00", PARENT + "00", "0" * 16])
def test_a_parent_that_is_none_costs_the_span_nothing(parent_id: str) -> None:
    """otlp:H6."""
    (item,) = read_both(make_request(make_span(parentSpanId=parent_id)))
    assert isinstance(item, OtlpSpan)
    assert item.parent_id is None


# Protobuf ------------------------------------------------------------------------------------


def test_the_protobuf_runtime_is_the_fast_one() -> None:
    assert otlp_protobuf.RUNTIME == "upb"


def test_a_body_of_logs_parses_as_spans_without_ids() -> None:
    """otlp:H7: so each is refused."""
    logs = ExportLogsServiceRequest()
    record = logs.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value = "hello"
    record.severity_text = "INFO"
    assert refusals_of(from_protobuf(logs.SerializeToString())) == [TRACE_ID_REFUSED]


def test_fields_may_come_in_any_order_and_in_parts() -> None:
    """What follows the spans belongs to them, and occurrences of a message are one."""
    span = field(1, bytes.fromhex(TRACE)) + field(2, bytes.fromhex(SPAN))
    scope_spans = field(2, span) + field(1, field(1, b"lib")) + b"\x20\x07"  # And one unknown.
    pair = ExportTraceServiceRequest().resource_spans.add().resource.attributes.add()
    pair.key, pair.value.int_value = "a", 1
    first = field(1, pair.SerializeToString())
    pair.key = "b"
    resource_spans = (
        field(2, scope_spans) + field(1, first) + field(1, field(1, pair.SerializeToString()))
    )
    (item,) = from_protobuf(field(1, resource_spans))
    assert isinstance(item, OtlpSpan)
    assert (item.origin.scope_name, item.origin.resource) == ("lib", {"a": 1, "b": 1})


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"\x00",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a" + b"\xff" * 11,
        b"\x0b\x0c",
        b"\x0d\x00",
        b"\x09\x00",
        b"<html></html>",
        b'{"resourceSpans": []}',
    ],
)
def test_what_is_no_protobuf_refuses_the_request(body: bytes) -> None:
    """otlp:H7."""
    with pytest.raises(RequestError) as raised:
        from_protobuf(body)
    assert (raised.value.status, raised.value.code) == (400, "INVALID_PROTOBUF")


def test_a_body_cut_anywhere_refuses_the_request_or_ends_between_two_fields() -> None:
    """otlp:H7: and raises nothing else."""
    body = to_protobuf(make_request(make_span({"a": "b"}), make_span(), resource={"c": 1}))
    outcomes = set()
    for size in range(len(body)):
        try:
            outcomes.add(len(from_protobuf(body[:size])))
        except RequestError as error:
            outcomes.add(error.status)
    assert outcomes == {0, 400}


def test_invalid_utf_8_refuses_the_request() -> None:
    """otlp:H7."""
    body = to_protobuf(make_request(make_span(name="name!"))).replace(b"name!", b"\xff\xfe\xfd..")
    with pytest.raises(RequestError, match="no OTLP protobuf"):
        from_protobuf(body)


IDS = field(1, bytes.fromhex(TRACE)) + field(2, bytes.fromhex(SPAN))


def in_request(*spans: bytes) -> bytes:
    return field(1, field(2, b"".join(field(2, span) for span in spans)))


def nested_in_protobuf(depth: int, *, padding: int = 0) -> bytes:
    value = b"\x18\x01"
    for _ in range(depth):
        value = field(5, field(1, value))
    attribute = field(1, b"k") + field(2, value)
    return in_request(IDS + field(5, b"x" * padding) + field(9, attribute))


def nested_in_json(depth: int) -> bytes:
    value = '{"arrayValue":{"values":[' * depth + "{}" + "]}}" * depth
    span = make_span(attributes=[{"key": "k", "value": {"newValue": "here"}}])
    return to_json(make_request(span)).replace(b'{"newValue": "here"}', value.encode())


@pytest.mark.parametrize(
    "read",
    [
        lambda depth: from_json(nested_in_json(depth)),
        lambda depth: from_protobuf(nested_in_protobuf(depth)),
        # Counted before it is parsed.
        lambda depth: from_protobuf(nested_in_protobuf(depth, padding=70_000)),
    ],
)
def test_deep_values_are_read_so_far_and_then_refuse_the_request(
    read: Callable[[int], Items],
) -> None:
    """otlp:H7, P4."""
    (item,) = read(30)
    assert isinstance(item, OtlpSpan)
    for depth in (60, 10_000):
        with pytest.raises(RequestError) as raised:
            read(depth)
        assert raised.value.status == 400


def test_a_span_of_too_many_values_is_refused_alone() -> None:
    """P4: counted before it is parsed, which takes many times its bytes."""
    refused, taken = from_protobuf(in_request(IDS + b"\x4a\x00" * (VALUES_MAX + 1), IDS))
    assert str(refused) == VALUES_REFUSED
    assert isinstance(taken, OtlpSpan)
    with pytest.raises(RequestError, match="a resource holds more"):
        from_protobuf(field(1, field(1, b"\x0a\x00" * (VALUES_MAX + 1))))

    huge = make_span(attributes=[{}] * (VALUES_MAX + 1))
    refused, taken = from_json(make_request(huge, make_span()))
    assert str(refused) == VALUES_REFUSED
    assert isinstance(taken, OtlpSpan)


# JSON ----------------------------------------------------------------------------------------


def span_from_json(**fields: Any) -> OtlpSpan:
    (item,) = from_json(make_request(make_span(**fields)))
    assert isinstance(item, OtlpSpan), item
    return item


def test_ids_in_json_are_hex_in_any_case() -> None:
    """otlp:J1: read as base64, as protobuf's own JSON has them, they would be 24 wrong bytes."""
    item = span_from_json(traceId=TRACE.upper(), spanId=SPAN.upper(), parentSpanId=PARENT.upper())
    assert (item.trace_id, item.id, item.parent_id) == (TRACE, SPAN, PARENT)
    for text in (TRACE[:-1] + "g", TRACE[:-1] + " ", TRACE[:-1] + "٣"):
        assert refusals_of(from_json(make_request(make_span(traceId=text)))) == [TRACE_ID_REFUSED]


@pytest.mark.parametrize("text", ["AP/+", "AP_-"])
def test_bytes_in_json_are_base64(text: str) -> None:
    """otlp:J1."""
    item = span_from_json(attributes=[{"key": "b", "value": {"bytesValue": text}}])
    assert item.attributes == {"b": "AP/+"}


@pytest.mark.parametrize("time", [1767323045123456000, "1767323045123456000"])
def test_integers_in_json_are_text_or_numbers(time: int | str) -> None:
    """otlp:J2."""
    value = {"key": "n", "value": {"intValue": time}}
    item = span_from_json(startTimeUnixNano=time, attributes=[value], droppedEventsCount="3")
    assert item.start_ns == item.attributes["n"] == 1767323045123456000
    assert item.dropped == (0, 3, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), (1, 1.0), ("0.5", 0.5)],
)
def test_doubles_in_json_may_be_text(value: object, expected: object) -> None:
    """otlp:J2."""
    item = span_from_json(attributes=[{"key": "d", "value": {"doubleValue": value}}])
    assert item.attributes == {"d": expected}


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        (3, 2, (3, 2)),
        ("SPAN_KIND_CLIENT", "STATUS_CODE_ERROR", (3, 2)),
        ("SPAN_KIND_NEW", "STATUS_CODE_OK", (0, 0)),
        (None, None, (0, 0)),
    ],
)
def test_enums_in_json_are_numbers_or_names(
    kind: object, status: object, expected: tuple[int, int]
) -> None:
    """otlp:J3."""
    item = span_from_json(kind=kind, status={"code": status})
    assert (item.kind, item.status) == expected


def test_only_lower_camel_case_is_known_in_json() -> None:
    """otlp:J3: other fields are ignored."""
    item = span_from_json(
        start_time_unix_nano="5", startTimeUnixNano=..., whatever={"a": [1, {}]}, flags=257
    )
    assert item.start_ns == 0


def test_null_in_json_is_absence() -> None:
    """otlp:J4."""
    names = (
        "name kind parentSpanId startTimeUnixNano endTimeUnixNano attributes events links status"
    )
    nothing = dict.fromkeys([*names.split(), "droppedAttributesCount"])
    item = span_from_json(**nothing)
    assert (item.parent_id, item.name, item.start_ns, item.attributes) == (None, "", 0, {})
    for nulls in ({"resourceSpans": None}, {"resourceSpans": [{"resource": None}]}):
        assert from_json(nulls) == []
    assert from_json({"resourceSpans": [{"scopeSpans": [{"scope": None, "spans": None}]}]}) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"stringValue": "a", "intValue": 1}, "a"),
        ({"intValue": 1, "stringValue": "a"}, 1),
        ({"stringValue": None, "intValue": 1}, 1),
        ({"newValue": "b", "intValue": 1}, 1),
        ({"newValue": "b"}, None),
        (None, None),
        ({"arrayValue": {}}, []),
        ({"kvlistValue": {"values": [{"key": "a"}]}}, {"a": None}),
    ],
)
def test_of_several_values_the_first_known_wins(value: object, expected: object) -> None:
    """otlp:J4."""
    assert span_from_json(attributes=[{"key": "k", "value": value}]).attributes == {"k": expected}


@pytest.mark.parametrize(
    "fields",
    [
        {"attributes": {"a": "b"}},
        {"attributes": [None]},
        {"attributes": [{"key": 5}]},
        {"attributes": [{"key": "k", "value": "bare"}]},
        {"attributes": [{"key": "k", "value": {"intValue": "abc"}}]},
        {"attributes": [{"key": "k", "value": {"intValue": 1.5}}]},
        {"attributes": [{"key": "k", "value": {"intValue": True}}]},
        {"attributes": [{"key": "k", "value": {"intValue": 2**63}}]},
        {"attributes": [{"key": "k", "value": {"intValue": "9" * 5_000}}]},
        {"attributes": [{"key": "k", "value": {"boolValue": "true"}}]},
        {"attributes": [{"key": "k", "value": {"stringValue": 1}}]},
        {"attributes": [{"key": "k", "value": {"doubleValue": "much"}}]},
        {"attributes": [{"key": "k", "value": {"bytesValue": "!"}}]},
        {"attributes": [{"key": "k", "value": {"arrayValue": []}}]},
        {"attributes": [{"key": "k", "value": {"kvlistValue": {"values": [1]}}}]},
        {"attributes": [{"key": "k", "value": {"arrayValue": {"values": {}}}}]},
        {"name": 5},
        {"startTimeUnixNano": "soon"},
        {"startTimeUnixNano": 1e300},
        {"events": [5]},
        {"status": "ERROR"},
    ],
)
def test_a_wrong_type_in_json_refuses_its_span_alone(fields: dict[str, Any]) -> None:
    """otlp:J4, H6."""
    bad = make_span() | fields
    refused, taken = from_json(make_request(bad, make_span(spanId="1" * 16)))
    assert str(refused) == otlp_json.TYPE_REFUSED
    assert isinstance(taken, OtlpSpan)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"[]",
        b'"text"',
        b"{} {}",
        b'{"resourceSpans": {}}',
        b'{"resourceSpans": [5]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [5]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [null]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "\xff"}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "\\ud800"}]}]}]}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "k", "value": 1}]}}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"scope": []}]}]}',
        b'{"resourceSpans": ' + b"[" * 100_000,
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"x": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}]}]}]}",
    ],
)
def test_what_is_no_otlp_json_refuses_the_request(body: bytes) -> None:
    """otlp:H7: invalid UTF-8 and lone surrogates as well."""
    with pytest.raises(RequestError) as raised:
        from_json(body)
    assert (raised.value.status, raised.value.code) == (400, "INVALID_JSON")


def test_a_huge_body_of_tiny_objects_is_refused_before_it_is_decoded() -> None:
    """P4: as objects it would take many times its bytes."""
    body = b'{"resourceSpans": [' + b"{}," * otlp_json.OBJECTS_MAX + b"{}]}"
    with pytest.raises(RequestError) as raised:
        from_json(body)
    assert raised.value.status == 413


def test_a_large_body_is_read_as_a_small_one_is() -> None:
    """What is looked at first, for its size, changes nothing."""
    text = "x" * (5 * 1024 * 1024)
    items = read_both(make_request(make_span({"t": text})))
    assert [item.attributes for item in items if isinstance(item, OtlpSpan)] == [{"t": text}]
    bad = to_json(make_request(make_span({"t": text}))).replace(b'"spans": [', b'"spans": [5, ')
    with pytest.raises(RequestError):
        from_json(bad)


def test_resources_and_scopes_are_counted() -> None:
    """P4: each costs microseconds."""
    many = GROUPS_MAX
    unknown = field(15, b"x" * 20)
    for body in (field(1, unknown) * (many + 1), field(1, field(2, unknown) * many)):
        with pytest.raises(RequestError) as raised:
            from_protobuf(body)
        assert raised.value.code == "TOO_MANY_GROUPS"
    requests: list[dict[str, Any]] = [
        {"resourceSpans": [{}] * (many + 1)},
        {"resourceSpans": [{"scopeSpans": [{}] * many}]},
    ]
    for request in requests:
        with pytest.raises(RequestError) as raised:
            from_json(request)
        assert raised.value.code == "TOO_MANY_GROUPS"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tiny: field(1, field(2, tiny)),  # Empty spans, or numbers unknown here.
        lambda tiny: field(1, tiny + field(2, b"")),
        lambda tiny: tiny,
    ],
)
@pytest.mark.parametrize("tiny", [b"\x78\x01", b"\x7a\x00", b"\x12\x00"])
def test_tiny_fields_are_not_walked_over_for_ever(
    tiny: bytes, wrap: Callable[[bytes], bytes]
) -> None:
    """P4: millions of them fit into a body."""
    with pytest.raises(RequestError) as raised:
        from_protobuf(wrap(tiny * 150_000))
    assert raised.value.code in ("TOO_MANY_FIELDS", "TOO_MANY_GROUPS")
    from_protobuf(wrap(tiny * 5_000))


def test_values_helper_says_what_it_should() -> None:
    """The tests' own encoder, against OpenTelemetry's classes."""
    message = ExportTraceServiceRequest.FromString(to_protobuf(make_request(make_span({"a": 1}))))
    span = message.resource_spans[0].scope_spans[0].spans[0]
    assert (span.trace_id.hex(), span.attributes[0].value.int_value) == (TRACE, 1)
    assert any_value(b"\xff") == {"bytesValue": "/w=="}
