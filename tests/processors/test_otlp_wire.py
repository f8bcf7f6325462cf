"""Protobuf by hand: held against the runtime's own messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from everyspan.processors import otlp_wire as wire

VALUES = (
    st.text()
    | st.booleans()
    | st.integers(wire.INT_MIN, wire.INT_MAX)
    | st.floats()
    # Lengths that take one, two and three bytes.
    | st.sampled_from([127, 128, 16_383, 16_384, 100_000]).map(lambda size: "x" * size)
)
ATTRIBUTES = st.lists(st.tuples(st.text(max_size=200), VALUES), max_size=5)
TIMES = st.integers(0, 2**64 - 1)

SPANS = st.fixed_dictionaries(
    {
        "trace_id": st.binary(min_size=16, max_size=16),
        "span_id": st.binary(min_size=8, max_size=8),
        "trace_state": st.just("") | st.text(max_size=9),
        "parent_span_id": st.just(b"") | st.binary(min_size=8, max_size=8),
        "name": st.text(),
        "kind": st.integers(1, 5),
        "start_ns": TIMES,
        "end_ns": TIMES,
        "attributes": ATTRIBUTES,
        "events": st.lists(st.tuples(TIMES, st.text(), ATTRIBUTES), max_size=2),
        "status": st.none() | st.tuples(st.integers(1, 2), st.text()),
        "flags": st.integers(1, 2**32 - 1),
    }
)


def ours(key: str, value: Any) -> bytes:
    """A KeyValue by hand."""
    start = wire.key(key)
    if isinstance(value, bool):
        return wire.boolean(start, value=value)
    if isinstance(value, int):
        return wire.number(start, value)
    if isinstance(value, float):
        return wire.double(start, value)
    return wire.text(start, value.encode())


def theirs(key: str, value: Any) -> KeyValue:
    """The same by the runtime."""
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    return KeyValue(key=key, value=AnyValue(**{kinds[type(value)]: value}))


def our_span(spec: dict[str, Any]) -> bytes:
    spec = dict(spec)
    for name in ("trace_state", "name"):
        spec[name] = spec[name].encode()
    spec["attributes"] = [ours(*pair) for pair in spec["attributes"]]
    spec["events"] = [
        wire.event(time_ns=ns, name=name.encode(), attributes=[ours(*pair) for pair in pairs])
        for ns, name, pairs in spec["events"]
    ]
    status = spec.pop("status")
    if status is not None:
        spec["status"] = wire.status(code=status[0], message=status[1].encode())
    return wire.span(**spec)


def their_span(spec: dict[str, Any]) -> Span:
    status = spec["status"]
    return Span(
        **{name: spec[name] for name in ("trace_id", "span_id", "trace_state", "parent_span_id")},
        **{name: spec[name] for name in ("name", "kind", "flags")},
        start_time_unix_nano=spec["start_ns"],
        end_time_unix_nano=spec["end_ns"],
        attributes=[theirs(*pair) for pair in spec["attributes"]],
        events=[
            Span.Event(time_unix_nano=ns, name=name, attributes=[theirs(*pair) for pair in pairs])
            for ns, name, pairs in spec["events"]
        ],
        status=None if status is None else Status(code=status[0], message=status[1]),
    )


@given(resource=ATTRIBUTES, version=st.text(min_size=1), specs=st.lists(SPANS, max_size=4))
def test_a_request_is_the_runtimes_byte_for_byte(
    resource: list[tuple[str, Any]], version: str, specs: list[dict[str, Any]]
) -> None:
    """otlp:B1, §6 line 17: whatever spans hold."""
    body = wire.request(
        resource=wire.resource([ours(*pair) for pair in resource]),
        scope=wire.scope(name=b"everyspan", version=version.encode()),
        spans=[our_span(spec) for spec in specs],
    )
    message = ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=[theirs(*pair) for pair in resource]),
                scope_spans=[
                    ScopeSpans(
                        scope=InstrumentationScope(name="everyspan", version=version),
                        spans=[their_span(spec) for spec in specs],
                    )
                ],
            )
        ]
    )
    assert body == message.SerializeToString()
    # Compared as text, since NaN is equal to nothing.
    assert str(ExportTraceServiceRequest.FromString(body)) == str(message)


@given(refused=st.integers(wire.INT_MIN, wire.INT_MAX), message=st.text())
def test_a_partial_success_is_read(refused: int, message: str) -> None:
    """otlp:B4: a count below zero counts nothing."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = refused
    response.partial_success.error_message = message
    read = wire.partial_success(response.SerializeToString())
    assert read == (max(0, refused), message.encode())


@given(body=st.binary(max_size=40))
def test_an_answer_that_is_none_is_read_as_nothing_or_as_something(body: bytes) -> None:
    """P1: garbage never raises."""
    refused, message = wire.partial_success(body)
    assert refused >= 0
    assert isinstance(message, bytes)


@pytest.mark.parametrize("body", [b"", b"{}", b"\x0a", b"\x0a\x05ab", b"\x0b", b"\xff" * 12])
def test_an_answer_without_a_partial_success_refuses_nothing(body: bytes) -> None:
    """otlp:B4."""
    assert wire.partial_success(body) == (0, b"")
