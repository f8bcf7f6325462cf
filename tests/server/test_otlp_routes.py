"""The OTLP endpoint of a running server (`otlp` §1), and of one whose store is busy or failing."""

from __future__ import annotations

import asyncio
import gzip
import sys
import zlib
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from everyspan.errors import StoreBusyError, StoreError
from everyspan.model.ids import new_id
from everyspan.model.w3c import span_hex, trace_hex
from everyspan.server import otlp_routes
from everyspan.server.app import create_app
from everyspan.server.body import BODY_BYTES_MAX
from everyspan.server.otlp_refusals import LOG_EVERY_S, Refusals
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.testing import FakeClock
from tests.server.otlp_requests import (
    JSON,
    PARENT,
    PROTOBUF,
    SPAN,
    TRACE,
    make_request,
    make_span,
    to_json,
    to_protobuf,
)
from tests.server.rows import make_item
from tests.server.test_app import failing_store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TRACES = "/v1/traces"


def _status_class() -> Any:
    """Return google.rpc.Status, of which only the numbers and kinds of its fields matter."""
    file = descriptor_pb2.FileDescriptorProto(name="status.proto", package="t", syntax="proto3")
    message = file.message_type.add(name="Status")
    kind = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="code", number=1, type=kind.TYPE_INT32, label=kind.LABEL_OPTIONAL)
    message.field.add(name="message", number=2, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Status"))


STATUS = _status_class()
BOTH = [(PROTOBUF, to_protobuf), (JSON, to_json)]
both_encodings = pytest.mark.parametrize(("headers", "encode"), BOTH, ids=["protobuf", "json"])


def stored(http: httpx2.Client, trace_id: str = TRACE) -> list[dict[str, Any]]:
    reply = http.post("/v5/spans/search", json={"trace_ids": [trace_id]})
    items: list[dict[str, Any]] = reply.json()["items"]
    return items


def status_of(reply: httpx2.Response) -> tuple[int, str]:
    """Return code and message of a Status, in the encoding that the reply names."""
    if reply.headers["content-type"] == "application/json":
        body = reply.json()
        assert set(body) == {"code", "message"}
        return body["code"], body["message"]
    assert reply.headers["content-type"] == "application/x-protobuf"
    message = STATUS.FromString(reply.content)
    return message.code, message.message


@both_encodings
def test_a_span_is_stored_before_the_reply(
    http: httpx2.Client, headers: dict[str, str], encode: Any
) -> None:
    """P8, otlp:H8: and success says nothing more."""
    request = make_request(make_span({"gen_ai.operation.name": "chat"}, name="chat m"))
    reply = http.post(TRACES, content=encode(request), headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (200, headers["content-type"])
    assert reply.content == (b"{}" if headers is JSON else b"")
    (span,) = stored(http)
    assert (span["id"], span["name"], span["type"]) == (SPAN, "chat m", "COMPLETION")


def test_both_encodings_make_the_same_rows(base_url: str) -> None:
    """otlp:J1, F1: one request, two accounts."""
    request = make_request(
        make_span({"a": [1, {"b": "c"}], "n": 2**62}, kind=3, status={"code": 2, "message": "m"}),
        resource={"service.name": "s"},
    )
    found = []
    for headers, encode in BOTH:
        account = {"x-selected-account-id": new_id()}
        with httpx2.Client(base_url=base_url, headers=account) as http:
            http.post(TRACES, content=encode(request), headers=headers)
            (span,) = stored(http)
            found.append({name: value for name, value in span.items() if name != "account_id"})
    assert found[0] == found[1]


@pytest.mark.parametrize("path", [TRACES, "/v1/traces/", "/api/public/otel/v1/traces"])
def test_every_path_answers_itself(http: httpx2.Client, path: str) -> None:
    """otlp:H3: no redirect, which exporters take for success."""
    request = to_json(make_request(make_span()))
    reply = http.post(path, content=request, headers=JSON, follow_redirects=False)
    assert reply.status_code == 200
    assert len(stored(http)) == 1
    reply = http.get(path, follow_redirects=False)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert status_of(reply)[0] == 12


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("zstd", zstd.compress),
        ("identity", bytes),
    ],
)
def test_compressed_bodies(http: httpx2.Client, encoding: str, pack: Any) -> None:
    """`otlp` §1: the collector and some SDKs compress by default."""
    body = pack(to_protobuf(make_request(make_span())))
    reply = http.post(TRACES, content=body, headers=PROTOBUF | {"content-encoding": encoding})
    assert reply.status_code == 200
    assert len(stored(http)) == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"resourceSpans": []}'])
def test_nothing_is_success(http: httpx2.Client, body: bytes) -> None:
    """`otlp` §1: the exporter for Python sends zero bytes for no spans."""
    assert http.post(TRACES, content=body, headers=JSON).content == b"{}"
    assert http.post(TRACES, content=b"", headers=PROTOBUF).content == b""


@both_encodings
def test_spans_refused_one_by_one(
    http: httpx2.Client, headers: dict[str, str], encode: Any
) -> None:
    """otlp:H5, H6: one of ten; the others are stored, and the reply counts it."""
    spans = [make_span(spanId=f"{n:016x}") for n in range(10)]
    reply = http.post(TRACES, content=encode(make_request(*spans)), headers=headers)
    assert reply.status_code == 200
    assert len(stored(http)) == 9
    if headers is JSON:
        partial = reply.json()["partialSuccess"]
        count, text = int(partial["rejectedSpans"]), partial["errorMessage"]
    else:
        message = ExportTraceServiceResponse.FromString(reply.content).partial_success
        count, text = message.rejected_spans, message.error_message
    assert (count, text) == (1, "a span id is not 8 bytes, or all zero")


@both_encodings
def test_when_every_span_is_refused_the_request_is(
    http: httpx2.Client, headers: dict[str, str], encode: Any
) -> None:
    """otlp:H7."""
    body = encode(make_request(make_span(spanId="0" * 16)))
    reply = http.post(TRACES, content=body, headers=headers)
    assert reply.status_code == 400
    assert "no span was taken: a span id is not 8 bytes" in status_of(reply)[1]


def test_a_body_of_logs_is_told_so(http: httpx2.Client) -> None:
    """otlp:H7."""
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "hello"
    reply = http.post(TRACES, content=logs.SerializeToString(), headers=PROTOBUF)
    assert reply.status_code == 400
    assert "a body of logs or metrics looks like this" in status_of(reply)[1]


@both_encodings
@pytest.mark.parametrize(
    ("path", "more", "body", "status", "text"),
    [
        (TRACES, {}, b"garbage", 400, "the body is no"),
        (TRACES, {"content-encoding": "gzip"}, b"garbage", 400, "content-encoding"),
        (TRACES, {"content-encoding": "gzip, gzip"}, b"", 415, "gzip, deflate, zstd"),
        (TRACES, {"content-encoding": "br"}, b"", 415, "gzip, deflate, zstd"),
        ("/v1/logs", {}, b"", 404, "traces only: send them to /v1/traces"),
        ("/v1/metrics", {}, b"", 404, "traces only: send them to /v1/traces"),
        (TRACES, {"x-selected-account-id": "a" * 300}, b"", 400, "the account has more"),
        (TRACES, {"host": "evil.example"}, b"", 403, "does not go by that name"),
    ],
)
def test_every_refusal_is_a_status_in_the_requests_encoding(
    http: httpx2.Client,
    headers: dict[str, str],
    encode: Any,
    path: str,
    more: dict[str, str],
    body: bytes,
    status: int,
    text: str,
) -> None:
    """`otlp` §1, H7."""
    del encode
    reply = http.post(path, content=body, headers=headers | more)
    assert (reply.status_code, reply.headers["content-type"]) == (status, headers["content-type"])
    code, message = status_of(reply)
    assert code > 0
    assert text in message


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("application/grpc", "gRPC is not spoken here: send OTLP over HTTP to /v1/traces"),
        ("application/grpc+proto", "/v1/traces"),
        ("text/plain", "application/x-protobuf or application/json"),
        ("", "application/x-protobuf or application/json"),
    ],
)
def test_other_media_types_are_refused_in_json(
    http: httpx2.Client, content_type: str, text: str
) -> None:
    """`otlp` §1."""
    reply = http.post(TRACES, content=b"x", headers={"content-type": content_type})
    assert reply.status_code == 415
    assert text in status_of(reply)[1]


def test_parameters_of_the_media_type_are_ignored(http: httpx2.Client) -> None:
    """`otlp` §1."""
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    reply = http.post(TRACES, content=to_json(make_request(make_span())), headers=headers)
    assert (reply.status_code, reply.json()) == (200, {})


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_a_bomb_is_refused(http: httpx2.Client, encoding: str, pack: Any) -> None:
    """`otlp` §1, P4: by its size after decompression."""
    body = pack(bytes(BODY_BYTES_MAX + 1))
    assert len(body) < 100_000
    reply = http.post(TRACES, content=body, headers=JSON | {"content-encoding": encoding})
    assert (reply.status_code, status_of(reply)[0]) == (413, 8)
    assert http.get("/healthz").status_code == 200


def test_the_same_request_twice_makes_one_row_a_span(http: httpx2.Client) -> None:
    """P6, otlp:H8."""
    body = to_protobuf(make_request(make_span(), make_span(spanId="1" * 16)))
    for _ in range(2):
        assert http.post(TRACES, content=body, headers=PROTOBUF).status_code == 200
    assert len(stored(http)) == 2


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_pending_span_and_the_real_one_are_one_row(
    http: httpx2.Client, is_reversed: bool
) -> None:
    """otlp:F5: in either order, completed."""
    marks = {"logfire.span_type": "pending_span", "logfire.pending_parent_id": PARENT}
    pending = make_span(
        marks, spanId="2" * 16, parentSpanId=SPAN, endTimeUnixNano=make_span()["startTimeUnixNano"]
    )
    versions = [pending, make_span({"done": True}, parentSpanId=PARENT)]
    for version in reversed(versions) if is_reversed else versions:
        http.post(TRACES, content=to_json(make_request(version)), headers=JSON)
    (span,) = stored(http)
    assert (span["id"], span["parent_id"], span["status"]) == (SPAN, PARENT, "SUCCESS")
    assert span["end_timestamp"]
    assert span["metadata"]["attributes"] == {"done": True}


def test_children_come_before_parents_and_from_another_protocol(http: httpx2.Client) -> None:
    """otlp:F2: a parent that an everyspan or SGP producer writes later, by its own id."""
    trace_id, parent_id = new_id(), new_id()
    child = make_span(traceId=trace_hex(trace_id), parentSpanId=span_hex(parent_id))
    other = make_span(traceId=trace_hex(trace_id), spanId="3" * 16, parentSpanId=SPAN)
    for span in (other, child):
        reply = http.post(TRACES, content=to_json(make_request(span)), headers=JSON)
        assert reply.status_code == 200
    item = make_item(id=parent_id, trace_id=trace_id, name="parent")
    assert http.put("/v5/spans/batch", json={"items": [item]}).status_code == 200
    # By the id in any form the trace is one.
    for text in (trace_id, trace_hex(trace_id)):
        spans = {span["id"]: span.get("parent_id") for span in stored(http, text)}
        assert spans == {"3" * 16: SPAN, SPAN: span_hex(parent_id), parent_id: None}
    # And the other way round: a child over SGP below a span that came over OTLP.
    item = make_item(id="below", trace_id=trace_id, parent_id=SPAN)
    assert http.put("/v5/spans/batch", json={"items": [item]}).status_code == 200

    for text in (trace_id, trace_hex(trace_id)):
        table = http.get(f"/api/traces/{text}/spans").json()["spans"]
        ids = table["id"]
        # A number is the place of a parent that is here.
        parents = [None if place is None else ids[place] for place in table["parent"]]
        assert dict(zip(ids, parents, strict=True)) == {
            parent_id: None,
            SPAN: parent_id,
            "3" * 16: SPAN,
            "below": SPAN,
        }


def test_parents_in_a_circle_cost_no_span(http: httpx2.Client) -> None:
    """otlp:H5, P5: exporters cannot mend them; the link that closes the circle is left out."""
    a, b, c = "a" * 16, "b" * 16, "c" * 16
    first = make_request(make_span(spanId=a, parentSpanId=a), make_span(spanId=b, parentSpanId=c))
    second = make_request(make_span(spanId=c, parentSpanId=b))
    for request in (first, second):
        reply = http.post(TRACES, content=to_json(request), headers=JSON)
        assert (reply.status_code, reply.json()) == (200, {})
    spans = {span["id"]: span.get("parent_id") for span in stored(http)}
    assert spans == {a: None, b: c, c: None}


def test_other_signals_are_refused_whatever_the_method(http: httpx2.Client) -> None:
    """`otlp` §1: 404, which nobody tries again."""
    for path in ("/v1/metrics", "/v1/logs"):
        for method in ("GET", "POST", "PUT"):
            reply = http.request(method, path)
            assert reply.status_code == 404
            assert "traces only" in status_of(reply)[1]


def test_logfire_is_told_where_it_is(http: httpx2.Client, base_url: str) -> None:
    """`otlp` §2: it asks before it sends."""
    assert http.get("/v1/info").json() == {
        "project_name": "everyspan",
        "project_url": f"{base_url}/",
    }


# Many spans ----------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_routes, "CHUNK_SPANS", 4)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("count", [1, 4, 5, 8, 23])
@both_encodings
async def test_a_request_of_any_size_is_stored_in_chunks(
    tmp_path: Path, count: int, headers: dict[str, str], encode: Any
) -> None:
    """otlp:H8: no limit; refused ones are counted once."""
    store = SqliteStore(tmp_path / "spans.db")
    bad = make_span(traceId="0" * 32)
    spans = [make_span(spanId=f"{n + 1:016x}") for n in range(count)]
    async with _client(create_app(store)) as client:
        body = encode(make_request(bad, *spans, bad))
        reply = await client.post(TRACES, content=body, headers=headers)
        health = await store.health()
    await store.close()
    assert (reply.status_code, health.spans) == (200, count)
    if headers is JSON:
        assert reply.json()["partialSuccess"]["rejectedSpans"] == "2"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("headers", "tail"), [(PROTOBUF, b"\x0b"), (JSON, b"}")])
async def test_what_is_wrong_at_the_end_is_found_before_the_start_is_stored(
    tmp_path: Path, headers: dict[str, str], tail: bytes
) -> None:
    """otlp:H7: 400 means that nothing was stored."""
    store = SqliteStore(tmp_path / "spans.db")
    request = make_request(*(make_span(spanId=f"{n + 1:016x}") for n in range(20)))
    body = (to_json(request) if headers is JSON else to_protobuf(request)) + tail
    async with _client(create_app(store)) as client:
        reply = await client.post(TRACES, content=body, headers=headers)
        health = await store.health()
    await store.close()
    assert (reply.status_code, health.spans) == (400, 0)


@both_encodings
async def test_spans_that_are_none_end_a_request(headers: dict[str, str], encode: Any) -> None:
    """P4: the millionth span without ids is not read."""
    spans = [{"name": "x" * 20}] * 30_000
    bad = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    async with _client(create_app(failing_store(AssertionError("asked")))) as client:
        reply = await client.post(TRACES, content=encode(bad), headers=headers)
    assert reply.status_code == 400
    assert "more than 10000 spans were refused" in status_of(reply)[1]


async def test_a_large_request_lets_others_run(tmp_path: Path) -> None:
    """H4, P4: the loop is held for a slice at a time, not for the whole of it."""
    store = SqliteStore(tmp_path / "spans.db")
    spans = [make_span({"t": "x" * 500}, spanId=f"{n + 1:016x}") for n in range(3_000)]
    body = to_protobuf(make_request(*spans))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with _client(create_app(store)) as client:
        others = asyncio.create_task(count_turns())
        reply = await client.post(TRACES, content=body, headers=PROTOBUF)
        others.cancel()
    await store.close()
    assert reply.status_code == 200
    assert turns > 20


def _client(app: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost")


# Stores that do not take it --------------------------------------------------------------------


@both_encodings
@pytest.mark.parametrize(
    ("error", "after_s"),
    [
        (StoreBusyError("7 writes wait", retry_after_s=1.0), "1"),
        (StoreBusyError("7 writes wait", retry_after_s=0.1), "1"),
        (StoreBusyError("7 writes wait", retry_after_s=30.0), "2"),
        (StoreError("the store failed: disk full at /secret"), "2"),
    ],
)
async def test_a_store_that_cannot_asks_to_come_back_soon(
    headers: dict[str, str], encode: Any, error: StoreError, after_s: str
) -> None:
    """otlp:H1, H2: 503, and no longer than an exporter keeps a batch."""
    async with _client(create_app(failing_store(error))) as client:
        body = encode(make_request(make_span()))
        reply = await client.post(TRACES, content=body, headers=headers)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, after_s)
    code, message = status_of(reply)
    assert code == 14
    assert "secret" not in message


async def test_a_defect_is_a_status_with_the_number_of_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A3, otlp:H1: 500 is for defects alone."""
    async with _client(create_app(failing_store(ZeroDivisionError("hunter2")))) as client:
        reply = await client.post(TRACES, content=to_json(make_request(make_span())), headers=JSON)
    assert reply.status_code == 500
    assert status_of(reply) == (13, f"internal error (request {reply.headers['x-request-id']})")
    assert "hunter2" not in caplog.text + reply.text


# What was refused ------------------------------------------------------------------------------


def test_refusals_are_counted_and_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """otlp:H5, P4: exporters do not say what they are told."""
    clock = FakeClock()
    refusals = Refusals(clock)
    for _ in range(3):
        refusals.add("no id", 2)
    refusals.add("too much", 1)
    assert refusals.spans == {"no id": 6, "too much": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "spans refused: no id (2 so far)",
        "spans refused: too much (1 so far)",
    ]
    clock.advance(LOG_EVERY_S)
    refusals.add("no id", 1)
    assert caplog.records[-1].getMessage() == "spans refused: no id (7 so far)"
