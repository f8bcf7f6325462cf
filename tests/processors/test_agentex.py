"""The AgentEx destination, against a strict server on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.config import load_settings
from everyspan.delivery.backlog import Batch
from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.ledger import DestinationStats
from everyspan.model.record import Part, SpanRecord
from everyspan.model.span import Span, SpanStatus
from everyspan.model.span_error import set_span_error
from everyspan.processors.agentex import (
    AgentexAsyncTracingProcessor,
    AgentexTracingProcessorConfig,
    encode_span,
)
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.records import T0_NS, end, make_span, start
from tests.serving import serving
from tests.waiting import wait_until

VARIABLES = (
    *("AGENTEX_BASE_URL", "AGENTEX_SDK_API_KEY", "AGENT_API_KEY", "AGENTEX_CUSTOM_HEADERS"),
    "AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START",
)
CONFIG = AgentexTracingProcessorConfig()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once: the draw of the jitter is 0."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A backend that behaves, and to which the environment points."""
    with FaultServer() as backend:
        monkeypatch.setenv("AGENTEX_BASE_URL", backend.base_url)
        yield backend


def make_processor(backend: FaultServer | None = None) -> AgentexAsyncTracingProcessor:
    """A processor for this backend, else for that of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        if backend is not None:
            patch.setenv("AGENTEX_BASE_URL", backend.base_url)
        return AgentexAsyncTracingProcessor(CONFIG)


def export(processor: AgentexAsyncTracingProcessor, batch: Batch) -> dict[int, ExportError]:
    """Export on a loop of its own."""
    return dict(asyncio.run(processor.export(batch)))


def write(backend: FaultServer, record: SpanRecord, *, is_started: bool = False) -> None:
    """Write one record; raise what it failed with."""
    batch = Batch([], [record]) if record.is_end else Batch([record], [])
    batch.started = {record} if is_started else ()
    for error in export(make_processor(backend), batch).values():
        raise error


class Sender:
    """A queue of the exporter thread and its AgentEx destination."""

    def __init__(self, backend: FaultServer, **settings: Any) -> None:
        self.processor = make_processor(backend)
        self.queue = AsyncSpanQueue(settings=load_settings(linger_ms=0, **settings), own_homes=True)

    def start(self, span: Span) -> None:
        """Say that a span began."""
        self.queue.enqueue("start", span, [self.processor])

    def end(self, *spans: Span) -> None:
        """Say that spans ended."""
        for span in spans:
            self.queue.enqueue("end", span, [self.processor])

    @property
    def stats(self) -> DestinationStats:
        """The books of the destination."""
        (stats,) = self.queue.stats().destinations
        assert stats.residual == 0
        return stats


def body_of(record: SpanRecord, **flags: Any) -> dict[str, Any]:
    """The body as written."""
    options: dict[str, Any] = {"is_update": False, "names_task": True, "name": "agentex"} | flags
    body: dict[str, Any] = json.loads(encode_span(record, **options))
    return body


# -- the wire


def test_an_end_is_one_post_of_the_ten_fields(backend: FaultServer) -> None:
    """`trace:A1`, `A4`, `agx` §5: nulls included, nothing more."""
    write(backend, end("s1", input={"q": 1}, output=[{"a": 2}], task_id="k"))
    (request,) = backend.requests
    assert (request.method, request.path) == ("POST", "/spans")
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "name": "step",
        "start_time": "2025-10-09T08:53:20.000000+00:00",
        "end_time": "2025-10-09T08:53:21.000000+00:00",
        "id": "s1",
        "trace_id": "trace-1",
        "parent_id": None,
        "input": {"q": 1},
        "output": [{"a": 2}],
        "data": None,
        "task_id": "k",
    }


def test_a_patch_is_what_is_known_without_the_id() -> None:
    """`trace:A4`: no id, no null."""
    body = body_of(end("s1", output={"a": 1}), is_update=True)
    assert body == {
        "name": "step",
        "start_time": "2025-10-09T08:53:20.000000+00:00",
        "end_time": "2025-10-09T08:53:21.000000+00:00",
        "trace_id": "trace-1",
        "output": {"a": 1},
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({}, {}),
        ({"a": 1}, {"a": 1}),
        ([], []),
        ([{"a": 1}, {}], [{"a": 1}, {}]),
        ([1, 2], {"items": [1, 2]}),
        ([{"a": 1}, 2], {"items": [{"a": 1}, 2]}),
        ([{}, []], {"items": [{}, []]}),
        ("text", {"input": "text"}),
        (0, {"input": 0}),
        (False, {"input": False}),
    ],
)
def test_payloads_are_what_the_api_takes(value: object, expected: Any) -> None:
    """`agx` §2, §7, D18: an object, an array of objects, or null."""
    body = body_of(end("a", input=value, output=value))
    for field in ("input", "output"):
        renamed = {field: expected["input"]} if expected and "input" in expected else expected
        assert body[field] == renamed


@pytest.mark.parametrize("data", [None, {}, {"a": 1}, [], [{"a": 1}], ["x"], "x", 0])
def test_data_is_an_object_that_an_update_can_merge(backend: FaultServer, data: Any) -> None:
    """`agx` §3: whatever it is at start and at end; an array would make every update a 500."""
    for id, first in (("a", None), ("b", {"b": 1}), ("c", [{"b": 1}])):
        write(backend, start(id, data=first))
        write(backend, end(id, data=data), is_started=True)
        stored = backend.spans[id]["data"] or {}
        if isinstance(data, list):
            assert stored["items"] == data
        elif data is not None:
            assert stored.items() >= (data if isinstance(data, dict) else {"data": data}).items()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, {}),
        ({"k": 1, "usage": {"input_tokens": 3}}, {"k": 1, "usage": {"input_tokens": 3}}),
        ([{"a": 1}], {"items": [{"a": 1}]}),
        ("x", {"data": "x"}),
    ],
)
def test_the_completeness_record_joins_the_data(data: Any, expected: dict[str, Any]) -> None:
    """P11: whatever the data is; an array becomes `items` (decision 030)."""
    record = end("a", data=data)
    record.part, record.ordinal, record.closes = Part("p-1", "trace-1"), 2, True
    record.part.total, record.part.losses = 2, {"agentex": {"queue full": 1}, "sgp": {"x": 9}}
    record.revision = 1
    ours = {"p": "p-1", "rev": 1, "n": 2, "total": 2, "dropped": {"queue full": 1}}
    assert body_of(record)["data"] == {**expected, "__everyspan__": ours}


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"type": "TOOL"}, {"__span_type__": "TOOL"}),
        ({"type": "TOOL", "data": {"__span_type__": "X", "a": 1}}, {"__span_type__": "TOOL"}),
        ({"data": {"__span_type__": "X"}}, {"__span_type__": "X"}),
        ({"type": "TOOL", "data": [{"a": 1}]}, {"__span_type__": "TOOL", "items": [{"a": 1}]}),
        ({"type": "TOOL", "data": {"b": {"__span_type__": 1}}}, {"b": {"__span_type__": 1}}),
        ({"status": SpanStatus.ERROR}, {"__error__": {"type": "Error", "message": ""}}),
        (
            {"status": SpanStatus.CANCELED, "data": []},
            {"__error__": {"type": "CancelledError", "message": ""}, "items": []},
        ),
    ],
)
def test_what_has_no_field_is_in_the_data_once(
    fields: dict[str, Any], data: dict[str, Any]
) -> None:
    """`agx` §2, §7: type and error; a name comes once, whoever wrote it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    raw = encode_span(end("a", **fields), is_update=False, names_task=True, name="agentex")
    written = json.loads(raw, object_pairs_hook=once)["data"]
    assert {**written, **data} == written


def test_an_error_is_where_the_original_has_it() -> None:
    """`trace` §6."""
    span = make_span("a", data={"k": 1})
    set_span_error(span, ValueError("lost the key"))
    data = body_of(end("a", data=span.data, status=span.status))["data"]
    assert data == {
        "k": 1,
        "__error__": {"type": "ValueError", "message": "lost the key", "category": "unknown"},
    }


@pytest.mark.parametrize("field", ["name", "id", "trace_id", "parent_id", "task_id"])
@pytest.mark.parametrize("value", ["\ud800", "a/b?c#d", "..", "%2F", "ä b", 7, b"x", ("t",)])
def test_odd_names_and_ids_are_stored_and_found_again(
    backend: FaultServer, field: str, value: Any
) -> None:
    """P5: also where an id is part of a path."""
    fields: dict[str, Any] = {"id": "odd", field: value}
    write(backend, start(**fields))
    write(backend, end(**fields, output={"done": 1}), is_started=True)
    (stored,) = backend.spans.values()
    assert stored["output"] == {"done": 1}
    assert isinstance(stored[field], str)


@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ),
    has_part=st.booleans(),
)
def test_whatever_an_agent_records_is_a_valid_span(payload: Any, has_part: bool) -> None:
    """P5, `agx` §2."""
    record = end("a", input=payload, output=payload, data=payload)
    record.part = Part("p", "trace-1") if has_part else None
    body = body_of(record)
    for field in ("input", "output", "data"):
        value = body[field]
        items = value if isinstance(value, list) else [value]
        assert value is None or all(isinstance(item, dict) for item in items)


def test_a_payload_too_deep_to_look_at_is_wrapped() -> None:
    """P5: nothing is decoded that is not known to be shallow."""
    record = end("a")
    record.input = b"[{" + b'"a":[' * 3000 + b"]" * 3000 + b"}]"
    assert encode_span(record, is_update=False, names_task=True, name="a").count(b'{"items":[') == 1


# -- who it is


def test_whom_it_speaks_for(backend: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`agx` §1: no header without a key; the agent's key is read for every request."""
    processor = make_processor()

    async def main() -> None:
        await processor.on_span_end(make_span("before"))
        monkeypatch.setenv("AGENT_API_KEY", "agent-key")
        await processor.on_span_end(make_span("after"))

    asyncio.run(main())
    before, after = backend.requests
    assert "authorization" not in before.headers
    assert "x-agent-api-key" not in before.headers
    assert after.headers["x-agent-api-key"] == "agent-key"
    assert before.connection == after.connection


def test_keys_and_headers_of_the_environment(
    backend: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`agx` §1: a bearer token, and lines `Name: value`; what is no header is ignored."""
    monkeypatch.setenv("AGENTEX_SDK_API_KEY", "sdk-key")
    monkeypatch.setenv("AGENT_API_KEY", "bad\tkéy")
    monkeypatch.setenv("AGENTEX_CUSTOM_HEADERS", "X-Team: a: b\n\nsecretline\nB ad: 1\nx-y:z")
    write(backend, end("a"))
    (request,) = backend.requests
    assert request.headers["authorization"] == "Bearer sdk-key"
    assert (request.headers["x-team"], request.headers["x-y"]) == ("a: b", "z")
    assert "x-agent-api-key" not in request.headers
    assert not any("kéy" in text or "secretline" in text for text in caplog.messages)


@pytest.mark.parametrize("url", [None, "", "localhost:5003", "ftp://x"])
def test_without_an_address_it_is_the_local_server(
    url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`agx` §1: a bad one of the environment falls back."""
    if url is not None:
        monkeypatch.setenv("AGENTEX_BASE_URL", url)
    assert AgentexAsyncTracingProcessor(CONFIG).base_url == "http://localhost:5003"


# -- START and END


def test_by_default_a_start_sends_nothing(backend: FaultServer) -> None:
    """`trace:A1`: one create a span, never an update."""
    processor = make_processor()

    async def main() -> None:
        await processor.on_spans_start([make_span("a"), make_span("b")])
        await processor.on_spans_end([make_span("a"), make_span("b")])

    asyncio.run(main())
    assert backend.calls == [("POST", 200)] * 2


@pytest.mark.parametrize("falsy", ["0", "FALSE", "Off", " no "])
def test_with_starts_on_an_end_is_an_update(
    backend: FaultServer, monkeypatch: pytest.MonkeyPatch, falsy: str
) -> None:
    """`trace:A2`, `A3`: the variable is read at construction alone."""
    monkeypatch.setenv("AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START", falsy)
    processor = make_processor()
    monkeypatch.delenv("AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START")

    async def main() -> None:
        await processor.on_span_start(make_span("a", input={"q": 1}))
        await processor.on_span_end(make_span("a", output={"r": 2}))

    asyncio.run(main())
    assert backend.calls == [("POST", 200), ("PATCH", 200)]
    assert (backend.spans["a"]["input"], backend.spans["a"]["output"]) == ({"q": 1}, {"r": 2})


def test_switching_starts_on_midway_changes_nothing(
    backend: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trace:A3`."""
    processor = make_processor()
    monkeypatch.setenv("AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START", "0")
    asyncio.run(processor.on_span_start(make_span("a")))
    asyncio.run(processor.on_span_end(make_span("a")))
    assert backend.calls == [("POST", 200)]


def test_the_lane_knows_whose_start_was_sent(backend: FaultServer) -> None:
    """DESIGN, START records: a PATCH after a START, a POST where there was none."""
    sender = Sender(backend, start_delay_ms=0)
    sender.start(span := make_span("begun", end_ns=None, input={"q": 1}))
    assert sender.queue.flush_sync(20)
    wait_until(lambda: backend.spans)
    assert backend.spans["begun"]["end_time"] is None
    span.end_ns, span.output = T0_NS + 1, {"r": 1}
    sender.end(span, make_span("other"))
    assert sender.queue.shutdown_sync(20)
    assert sorted(backend.calls) == [("PATCH", 200), ("POST", 200), ("POST", 200)]
    assert backend.spans["begun"]["output"] == {"r": 1}
    assert (sender.stats.delivered, sender.stats.start_writes) == (2, 1)


def test_a_span_that_ends_before_its_delay_is_sent_once(backend: FaultServer) -> None:
    """DESIGN, START records."""
    sender = Sender(backend, start_delay_ms=60_000)
    sender.start(span := make_span("a"))
    sender.end(span)
    assert sender.queue.shutdown_sync(20)
    assert backend.calls == [("POST", 200)]


# -- idempotent under retry: END's values are stored each time


def lose(*numbers: int, stores: bool = True) -> Callable[[Request], Answer]:
    """Lose the replies to these requests, or the requests themselves."""
    lost = faults.lose_reply() if stores else faults.reset_after_body()
    return lambda request: lost if request.number in numbers else faults.ok()


@pytest.mark.parametrize("lost", [(1,), (1, 2), (1, 2, 3)])
def test_the_reply_to_an_end_is_lost(no_backoff: None, lost: tuple[int, ...]) -> None:
    """P6, `agx:A1`: "exists" proves nothing, a PATCH follows, and only its 200 counts."""
    with FaultServer(lose(*lost)) as backend:
        sender = Sender(backend)
        sender.end(make_span("a", output={"r": 1}, data={"k": 1}))
        assert sender.queue.shutdown_sync(20)
        assert backend.spans["a"]["output"] == {"r": 1}
        assert backend.calls[-1] == ("PATCH", 200)
        assert sender.stats.delivered == 1


@pytest.mark.parametrize("stores", [True, False])
@pytest.mark.parametrize("lost", [(1,), (2,), (1, 2), (1, 3), (2, 3), (1, 2, 3, 4)])
def test_replies_to_starts_and_ends_are_lost(
    no_backoff: None, lost: tuple[int, ...], stores: bool
) -> None:
    """P6, D5: whichever reply or request is lost, the END's values stand at the end."""
    with FaultServer(lose(*lost, stores=stores)) as backend:
        sender = Sender(backend, start_delay_ms=0)
        sender.start(span := make_span("a", end_ns=None, input={"q": 1}, data={"k": 0}))
        wait_until(lambda: backend.requests)
        span.end_ns, span.output, span.data = T0_NS + 5000, {"r": 1}, {"k": 1}
        sender.end(span)
        assert sender.queue.shutdown_sync(20)
        stored = backend.spans["a"]
        assert (stored["output"], stored["data"]["k"]) == ({"r": 1}, 1)
        assert stored["end_time"] is not None
        assert stored["data"]["__everyspan__"]["n"] == 1
        assert (sender.stats.delivered, sender.stats.dropped_total) == (1, 0)


def test_a_start_never_overwrites_what_is_there(backend: FaultServer) -> None:
    """D5: another process has ended the span already, or this one's START is late."""
    write(backend, end("a", output={"r": 1}))
    stored = dict(backend.spans["a"])
    write(backend, start("a", input={"old": 1}))
    assert backend.calls == [("POST", 200), ("POST", 400)]
    assert backend.spans["a"] == stored


def test_a_start_here_and_an_end_elsewhere(backend: FaultServer) -> None:
    """`trace:S1`: two processes, two queues."""
    here, elsewhere = Sender(backend, start_delay_ms=0), Sender(backend)
    here.start(make_span("a", end_ns=None, input={"q": 1}, data={"k": 0, "mine": 1}))
    assert here.queue.flush_sync(20)
    wait_until(lambda: backend.spans)
    elsewhere.end(make_span("a", input={"q": 1}, output={"r": 1}, data={"k": 1}))
    assert elsewhere.queue.shutdown_sync(20)
    here.queue.shutdown_sync(20)
    assert backend.calls[:3] == [("POST", 200), ("POST", 400), ("PATCH", 200)]
    data = backend.spans["a"]["data"]
    assert (data["k"], data["mine"]) == (1, 1)
    # The end of the first process marks the span as abandoned there, and must not reach this row.
    assert "abandoned" not in data["__everyspan__"]
    assert backend.spans["a"]["output"] == {"r": 1}


def test_a_start_that_never_arrived_is_made_up_for(backend: FaultServer) -> None:
    """`trace:A3`, `agx` §5: a PATCH answered 404 becomes a POST."""
    write(backend, end("a", output={"r": 1}), is_started=True)
    assert backend.calls == [("PATCH", 404), ("POST", 200)]
    assert backend.spans["a"]["output"] == {"r": 1}


def test_an_end_that_comes_again_changes_nothing(backend: FaultServer) -> None:
    """P6."""
    record = end("a", output={"r": 1}, data={"k": {"deep": 1}})
    write(backend, record)
    stored = json.dumps(backend.spans["a"])
    for is_started in (False, True, False):
        write(backend, record, is_started=is_started)
    assert json.dumps(backend.spans["a"]) == stored


@pytest.mark.parametrize("lost", [(), (1,), (1, 2), (1, 2, 3), (2, 3)])
@pytest.mark.parametrize("stores", [True, False])
def test_the_last_version_of_an_end_wins(
    no_backoff: None, lost: tuple[int, ...], stores: bool
) -> None:
    """P6, K3: an agent that ends a span again means the last; no retry of an older one wins."""
    with FaultServer(lose(*lost, stores=stores)) as backend:
        sender = Sender(backend)
        span = make_span("a")
        for number in range(5):
            span.output = {"r": number}
            sender.end(span)
        assert sender.queue.shutdown_sync(20)
        assert backend.spans["a"]["output"] == {"r": 4}
        assert (sender.stats.delivered, sender.stats.dropped_total) == (5, 0)


def test_a_backend_that_contradicts_itself_is_asked_again_later() -> None:
    """P4: two copies of a database that differ, for instance; no endless to and fro."""

    def script(request: Request) -> Answer:
        if request.method == "PATCH":
            return faults.status(404)
        return faults.status(400, body=b'{"message":"Item already exists"}')

    with FaultServer(script) as backend:
        with pytest.raises(RetryableExportError, match="exists, and that it does not"):
            write(backend, end("a"))
        assert len(backend.requests) <= 4


def test_two_hundred_spans_and_every_tenth_reply_lost(no_backoff: None) -> None:
    """P1, P6: STARTs on, at most 64 at once; the books balance, every END stands."""
    with FaultServer(
        lambda r: faults.lose_reply() if r.number % 10 == 3 else faults.ok()
    ) as backend:
        sender = Sender(backend, start_delay_ms=0)
        spans = [make_span(f"s{n}", end_ns=None, data={"k": 0}) for n in range(200)]
        for span in spans:
            sender.start(span)
        for span in spans:
            span.end_ns, span.data = T0_NS + 1, {"k": 1}
            sender.end(span)
            assert sender.stats.residual == 0
        assert sender.queue.shutdown_sync(30)
        assert len(backend.spans) == 200
        assert all(s["data"]["k"] == 1 and s["end_time"] for s in backend.spans.values())
        assert (sender.stats.delivered, sender.stats.dropped_total) == (200, 0)
        assert backend.connections < len(backend.requests)


# -- a backend in trouble


def test_outcomes_are_by_position() -> None:
    """D7: each span has its own, STARTs before ENDs; the good ones are stored."""

    def script(request: Request) -> Answer:
        statuses = {"bad": 422, "busy": 503, "lost": 401}
        status = statuses.get(request.json["id"])
        return faults.ok() if status is None else faults.status(status)

    with FaultServer(script) as backend:
        batch = Batch([start("busy"), start("s")], [end("a"), end("bad"), end("b"), end("lost")])
        failed = export(make_processor(backend), batch)
        assert {position: error.reason for position, error in failed.items()} == {
            0: "http 503",
            3: "http 422",
            5: "http 401",
        }
        assert sorted(backend.spans) == ["a", "b", "s"]


def test_a_direct_batch_is_bounded_and_shares_connections(backend: FaultServer) -> None:
    """D7: 300 spans, at most 64 requests at once, over connections that stay."""
    processor = make_processor()

    async def main() -> None:
        for first in (0, 150):
            await processor.on_spans_end([make_span(f"s{n}") for n in range(first, first + 150)])
        await processor.close()

    asyncio.run(main())
    assert len(backend.spans) == 300
    assert backend.connections <= 64
    assert processor.connections() <= 64


def test_a_lane_hands_over_single_spans_and_paces_them() -> None:
    """DESIGN, concurrency: the ceiling is 64 requests; a setting lowers it."""
    with FaultServer(faults.hang()) as backend:
        few = Sender(backend, concurrency=2)
        few.end(*[make_span(f"s{n}") for n in range(20)])
        wait_until(lambda: len(backend.requests) == 2)
        assert few.stats.in_flight == 2
        few.queue.shutdown_sync(0)
    with FaultServer() as backend:
        sender = Sender(backend)
        sender.end(*[make_span(f"s{n}") for n in range(500)])
        assert sender.queue.shutdown_sync(30)
        assert sender.stats.requests == len(backend.requests) == 500
        assert backend.connections <= 64


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_span_that_is_refused_costs_only_itself(status: int) -> None:
    """P5."""

    def script(request: Request) -> Answer:
        return faults.status(status) if request.json["id"] == "s7" else faults.ok()

    with FaultServer(script) as backend:
        sender = Sender(backend)
        sender.end(*[make_span(f"s{n}") for n in range(20)])
        result = sender.queue.shutdown_sync(20)
        assert dict(result.left["agentex"]) == {f"http {status}": 1}
        assert len(backend.spans) == 19
        assert (sender.stats.delivered, sender.stats.rejected_total) == (19, 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (faults.html(), "not the backend"),
        (faults.status(200, body=b""), "no span in the answer"),
        (faults.half_reply(), "connection broke"),
        (faults.status(401), "http 401"),
        (faults.status(403), "http 403"),
        (faults.status(429), "http 429"),
        (faults.status(500, body=b"\xff\xfe"), "http 500"),
        (faults.status(500, body=b'{"message":' + b"[" * 60_000), "http 500"),
        (faults.lose_reply(), "connection broke"),
    ],
)
def test_trouble_that_passes_costs_no_span(
    no_backoff: None, answer: Answer, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P1: nobody said that the span is stored, so it is sent again, and no loss is logged."""
    with FaultServer([answer] * 3 + [faults.ok()]) as backend:
        with pytest.raises(ExportError) as caught:
            write(backend, end("probe"))
        assert not isinstance(caught.value, PermanentExportError)
        assert caught.value.reason == reason
        sender = Sender(backend)
        with caplog.at_level(logging.WARNING):
            sender.end(*[make_span(f"s{n}") for n in range(5)])
            assert sender.queue.shutdown_sync(20)
        assert sorted({*backend.spans} - {"probe"}) == [f"s{n}" for n in range(5)]
        assert not any("lost" in message for message in caplog.messages)


def test_a_huge_answer_is_none_of_our_memory(no_backoff: None) -> None:
    """P4: 20 MB of echo; the status counts."""
    huge = faults.status(200, body=b'{"id":"' + b"x" * 20_000_000 + b'"}')
    with FaultServer(huge) as backend:
        write(backend, end("a"))
        assert len(backend.requests) == 1


def test_retry_after_holds_the_whole_destination() -> None:
    """DESIGN: 429 with 120 s: the others are not even tried, and a flush says why."""
    with FaultServer(faults.status(429, retry_after=120)) as backend:
        sender = Sender(backend, concurrency=1)
        sender.end(*[make_span(f"s{n}") for n in range(5)])
        wait_until(lambda: sender.stats.queued == 5 and backend.requests)
        result = sender.queue.flush_sync(0.2)
        assert dict(result.left["agentex"]) == {"http 429": 1, "not sent yet": 4}
        assert len(backend.requests) == 1
        sender.queue.shutdown_sync(0)


def test_a_server_that_is_down_keeps_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1, P2: they wait, with the reason, and go on when it is given up."""
    monkeypatch.setenv("AGENTEX_BASE_URL", "http://127.0.0.1:9")
    processor, queue = AgentexAsyncTracingProcessor(CONFIG), AsyncSpanQueue(own_homes=True)
    for number in range(50):
        queue.enqueue("end", make_span(f"s{number}"), [processor])
    wait_until(lambda: "cannot connect" in queue.flush_sync(0).left["agentex"])
    result = queue.shutdown_sync(0)
    assert sum(result.left["agentex"].values()) == 50
    (stats,) = queue.stats().destinations
    assert (stats.dropped_total, stats.residual) == (50, 0)


def test_a_task_that_the_backend_does_not_know_costs_nothing() -> None:
    """`agx` §3: upstream's foreign key makes it a 500 for ever; the task moves into the data."""
    refusal = b'{"message":"violates foreign key constraint","code":500,"data":null}'

    def script(request: Request) -> Answer:
        known = request.json["task_id"] in (None, "known")
        return faults.ok() if known else faults.status(500, body=refusal)

    with FaultServer(script) as backend:
        sender = Sender(backend)
        sender.end(make_span("a", task_id="known"), make_span("b", task_id="?", data={"k": 1}))
        assert sender.queue.shutdown_sync(20)
        assert backend.spans["a"]["task_id"] == "known"
        assert backend.spans["b"]["task_id"] is None
        assert backend.spans["b"]["data"]["__task_id__"] == "?"
        assert backend.spans["b"]["data"]["k"] == 1


def test_a_wrong_key_is_retried_until_registration_sets_it(
    no_backoff: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`agx` §1: spans of an agent that is not registered yet are not lost."""

    def script(request: Request) -> Answer:
        known = request.headers.get("x-agent-api-key") == "right"
        return faults.ok() if known else faults.status(401)

    with FaultServer(script) as backend:
        sender = Sender(backend)
        sender.end(make_span("early"))
        backend.wait_for(requests=1)
        monkeypatch.setenv("AGENT_API_KEY", "right")
        assert sender.queue.shutdown_sync(20)
        assert "early" in backend.spans


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (503, RetryableExportError),
        (413, BatchTooLargeError),
        (422, BatchRefusedError),
        (302, DestinationRefusedError),
    ],
)
def test_whoever_awaits_it_directly_gets_our_errors(status: int, kind: type[Exception]) -> None:
    """And the spans beside the bad one are stored."""

    def script(request: Request) -> Answer:
        return faults.status(status) if request.json["id"] == "bad" else faults.ok()

    with FaultServer(script) as backend:
        processor = make_processor(backend)
        with pytest.raises(kind):
            asyncio.run(processor.on_spans_end([make_span(n) for n in ("a", "bad", "b")]))
        assert sorted(backend.spans) == ["a", "b"]


# -- a client for each loop


def test_a_loop_has_one_client_that_keeps_connections(backend: FaultServer) -> None:
    """`trace:L1`, `L2`, `L4`: none at construction, the same for a loop, one-off outside."""
    processor = make_processor()
    assert not processor._http._clients

    async def main() -> object:
        client = processor.client
        assert processor.client is client
        await processor.on_span_end(make_span("a"))
        await processor.on_span_end(make_span("b"))
        assert processor.client is client
        return client

    assert asyncio.run(main()) is not asyncio.run(main())
    first, second, *_ = backend.requests
    assert first.connection == second.connection
    assert processor.client is not processor.client


def test_loops_that_end_leave_no_client(backend: FaultServer) -> None:
    """`trace:L3`, `L5`: neither by their address nor by an open connection."""
    processor = make_processor()
    for number in range(5):
        asyncio.run(processor.on_span_end(make_span(f"s{number}")))
    gc.collect()
    assert len(processor._http._clients) == 0


def test_two_loops_alive_at_once_share_nothing(backend: FaultServer) -> None:
    """D14, `trace:L1`: turns taken by two loops; each keeps its own connection."""
    processor = make_processor()
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    for number in range(6):
        loops[number % 2].run_until_complete(processor.on_span_end(make_span(f"s{number}")))
    assert backend.connections == 2
    for loop in loops:
        loop.run_until_complete(processor.close())
        loop.close()
    assert len(backend.spans) == 6


# -- our own server


def test_our_server_gets_complete_traces(no_backoff: None) -> None:
    """`agx:A2`, P11: STARTs and ENDs by this API; read back by it, and complete."""
    with serving() as base_url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTEX_BASE_URL", base_url)
        processor = AgentexAsyncTracingProcessor(CONFIG)
        queue = AsyncSpanQueue(
            settings=load_settings(linger_ms=0, start_delay_ms=0), own_homes=True
        )
        spans = [make_span(f"s{n}", end_ns=None, input={"n": n}) for n in range(30)]
        for span in spans:
            queue.enqueue("start", span, [processor])
        wait_until(lambda: queue.stats().destinations[0].start_writes > 10)
        for number, span in enumerate(spans):
            span.end_ns, span.output = T0_NS + 10**9, {"n": number}
            span.data = [{"n": number}] if number % 2 else {"n": number}
            queue.enqueue("end", span, [processor])
        assert queue.shutdown_sync(20)
        with urllib.request.urlopen(f"{base_url}/spans?trace_id=trace-1&limit=1000") as reply:
            stored = json.load(reply)
    assert {span["id"]: span["output"] for span in stored} == {s.id: s.output for s in spans}
    records = [span["data"]["__everyspan__"] for span in stored]
    assert sorted(record["n"] for record in records) == [*range(1, 31)]
    assert [record["total"] for record in records if "total" in record] == [30]
    assert {span["data"].get("n", 0) % 2 for span in stored} == {0}
