"""Traces by the original's names: their constructors, their blocks, whom their spans go to."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pydantic
import pytest

import everyspan
from everyspan import AsyncTrace, AsyncTracer, SettingsError, SpanStatus, Trace, Tracer
from tests.recording import Recording, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as recording:
        yield recording


def test_a_span_started_by_hand_is_not_the_current_one(recording: Recording) -> None:
    trace = Tracer().trace("t")
    span = trace.start_span(
        "x", parent_id="p", input=1, data={"k": 1}, task_id="task", type="TRACER"
    )
    assert everyspan.current_span() is None
    span.output = 2
    assert trace.end_span(span) is span
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id, kept.task_id, kept.type) == ("t", "p", "task", "TRACER")
    assert (kept.input, kept.output, kept.data) == (1, 2, {"k": 1})


def test_an_end_time_that_is_set_stays(recording: Recording) -> None:
    """trace:T5."""
    trace = Tracer().trace("t")
    span = trace.start_span("x")
    span.end_time = span.start_time + timedelta(seconds=1)
    trace.end_span(span)
    assert recording.one("x").end_time == span.start_time + timedelta(seconds=1)


@pytest.mark.parametrize("nothing", ["", None])
def test_a_trace_without_id_starts_no_span(nothing: str | None) -> None:
    """trace:T1."""
    with pytest.raises(ValueError, match="trace_id must not be empty"):
        Tracer().trace(nothing).start_span("x")


def test_a_span_may_start_and_end_on_different_threads(recording: Recording) -> None:
    span = Tracer().trace("t").start_span("x")
    thread = threading.Thread(target=Tracer().trace("t").end_span, args=(span,))
    thread.start()
    thread.join()
    assert recording.names == ["x"]
    assert everyspan.stats().open_spans == 0


def test_a_trace_uses_the_destinations_there_are_when_a_span_ends(recording: Recording) -> None:
    """trace:G4: the live list."""
    trace = Tracer().trace("t")
    later = everyspan.InMemoryTracingProcessor()
    everyspan.configure(later, linger_ms=0)
    trace.end_span(trace.start_span("x"))
    assert everyspan.flush(20)
    assert [span.name for span in later.spans] == ["x"]


def test_a_span_ended_again_is_a_later_version(recording: Recording) -> None:
    """P6: it keeps its place in the trace, and the backend keeps one row."""
    trace = Tracer().trace("t")
    span = trace.start_span("x")
    trace.end_span(span)
    span.output = "more"
    trace.end_span(span)
    assert [(s.id, s.output) for s in recording.spans] == [(span.id, None), (span.id, "more")]
    assert everyspan.stats().open_spans == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Tracer().trace(5), "trace_id must be text, got 5"),  # type: ignore[arg-type]
        (lambda: Tracer().trace("t").start_span(5), "name must be text, got 5"),  # type: ignore[arg-type]
        (lambda: Tracer().trace("t").start_span("x", parent_id=5), "parent_id must be text, got 5"),  # type: ignore[arg-type]
        (lambda: Tracer().trace("t").end_span("x"), "span must be a Span, got 'x'"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_argument_by_hand_is_named(call: Any, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        call()
    assert str(caught.value) == text


# -- blocks


def test_a_block_is_a_span_of_its_trace(recording: Recording) -> None:
    """trace:T3: with the fields it was given; it is the current span, not the child of one."""
    with everyspan.span("outer"), Tracer().trace("t").span("x", task_id="task") as span:
        assert everyspan.current_span() is span
        with everyspan.span("inner"):
            span.output = {"n": 1}
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id, kept.task_id, kept.output) == (
        "t",
        None,
        "task",
        {"n": 1},
    )
    assert recording.one("inner").parent_id == span.id


async def test_an_async_block_is_a_span_of_its_trace(recording: Recording) -> None:
    async with AsyncTracer().trace("t").span("x", "p", {"q": 1}, {"k": 2}) as span:
        span.output = 3
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id) == ("t", "p")
    assert (kept.input, kept.output, kept.data) == ({"q": 1}, 3, {"k": 2})


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no"), SpanStatus.ERROR), (asyncio.CancelledError(), SpanStatus.CANCELED)],
)
async def test_what_leaves_a_block_is_recorded_and_raised_again(
    recording: Recording, error: BaseException, status: SpanStatus
) -> None:
    """trace:T6, E3: the original's facade recorded neither (trace:D17)."""
    with pytest.raises(type(error)), Tracer().trace("t").span("sync"):
        raise error
    with pytest.raises(type(error)):
        async with AsyncTracer().trace("t").span("async"):
            raise error
    for name in ("sync", "async"):
        kept = recording.one(name)
        assert (kept.status, kept.end_time is None) == (status, False)
        assert kept.data["__error__"]["type"] == type(error).__name__


@pytest.mark.parametrize("nothing", ["", None])
async def test_a_block_of_a_trace_without_id_does_nothing(
    recording: Recording, nothing: str | None
) -> None:
    """trace:T1: it yields None."""
    with Tracer().trace(nothing).span("x") as span:
        assert span is None
    async with AsyncTracer().trace(nothing).span("x") as span:
        assert span is None
    assert recording.spans == []


async def test_the_async_twins_start_and_end(recording: Recording) -> None:
    trace = AsyncTracer(client=None).trace(trace_id="t")
    span = await trace.start_span("x", input=1)
    assert await trace.end_span(span) is span
    assert recording.names == ["x"]


def test_a_payload_that_is_no_plain_value_is_dumped_at_start(recording: Recording) -> None:
    """trace:T4: the agent may go on to index it; what is plain is not copied."""

    class Question(pydantic.BaseModel):
        text: str

    plain = {"k": 1}
    with Tracer().trace("t").span("x", input=Question(text="?"), data=plain) as span:
        assert span.input == {"text": "?"}
        assert span.data is plain


# -- who gets the spans


async def test_a_trace_may_have_processors_and_a_queue_of_its_own(recording: Recording) -> None:
    """trace:Q20: one START and one END of the same id, and the process's destinations see none."""
    own = AsyncMock()
    queue = everyspan.AsyncSpanQueue(linger_ms=0)
    trace = AsyncTrace(processors=[own], client=None, trace_id="t", span_queue=queue)
    async with trace.span("x") as span:
        pass
    assert await queue.shutdown()
    (started,), (ended,) = own.on_spans_start.call_args.args[0], own.on_spans_end.call_args.args[0]
    assert started.id == ended.id == span.id
    assert recording.spans == []


async def test_a_trace_with_processors_alone_uses_the_queue_of_the_process(
    recording: Recording,
) -> None:
    own = everyspan.InMemoryTracingProcessor()
    async with AsyncTrace([own], None, "t").span("x"):
        pass
    with Trace([own], None, "t").span("y"):
        pass
    assert recording.spans == []
    assert [span.name for span in own.spans] == ["x", "y"]


def test_a_sync_processor_need_not_say_so_by_its_class(recording: Recording) -> None:
    """trace:D24: a mock, as the original's tests use; it is called on a thread of ours."""
    own, threads = MagicMock(), []
    own.on_span_start.side_effect = lambda _: threads.append(threading.current_thread())
    with Trace(processors=[own], client=MagicMock(), trace_id="t").span("x", task_id="k") as span:
        pass
    assert everyspan.flush(20)
    assert own.on_span_end.call_args.args[0].id == span.id
    assert own.on_span_end.call_args.args[0].task_id == "k"
    assert threads != [threading.current_thread()]


async def test_no_processors_means_nothing_is_enqueued() -> None:
    """trace:T7."""
    queue = MagicMock()
    async with AsyncTrace(processors=[], client=None, trace_id="t", span_queue=queue).span("x"):
        pass
    queue.enqueue.assert_not_called()


async def test_a_queue_that_raises_stops_no_agent(caplog: pytest.LogCaptureFixture) -> None:
    """P2: the user's own queue."""
    queue = MagicMock()
    queue.enqueue.side_effect = RuntimeError("full")
    with caplog.at_level(logging.ERROR, "everyspan"):
        async with AsyncTrace([AsyncMock()], None, "t", queue).span("x") as span:
            pass
    assert span.end_time is not None
    assert "could not hand over the start of a span" in caplog.text


def test_the_registered_destinations_are_those_a_trace_has(recording: Recording) -> None:
    """trace:G4."""
    assert everyspan.get_async_tracing_processors() == [recording.memory]
    assert everyspan.get_sync_tracing_processors() == [recording.memory]
    assert Tracer().trace("t").processors == [recording.memory]
    with Trace(everyspan.get_sync_tracing_processors(), None, "t").span("x"):
        pass
    assert recording.names == ["x"], "one destination, one delivery"


# -- reading


async def test_spans_are_read_through_the_client() -> None:
    """trace §5: what the client gives is what the caller gets."""
    client = MagicMock()
    trace = Tracer(client).trace("t")
    assert trace.get_span("s") is client.spans.retrieve.return_value
    assert trace.list_spans() is client.spans.list.return_value
    client.spans.retrieve.assert_called_once_with("s")
    client.spans.list.assert_called_once_with(trace_id="t")
    client = AsyncMock()
    twin = AsyncTracer(client).trace("t")
    assert await twin.get_span("s") is client.spans.retrieve.return_value
    assert await twin.list_spans() is client.spans.list.return_value


async def test_without_a_client_it_says_what_to_do() -> None:
    for method in ("get_span", "list_spans"):
        arguments = ("s",) if method == "get_span" else ()
        with pytest.raises(SettingsError, match=f"{method} reads from the AgentEx API: give"):
            getattr(Tracer().trace("t"), method)(*arguments)
        with pytest.raises(SettingsError, match=f"{method} reads from the AgentEx API: give"):
            await getattr(AsyncTracer().trace("t"), method)(*arguments)


def test_a_queue_that_is_none_is_named() -> None:
    with pytest.raises(SettingsError, match="span_queue must be an AsyncSpanQueue, got 5"):
        AsyncTracer().trace("t", span_queue=5)  # type: ignore[arg-type]


async def test_the_default_queue_goes_on_after_its_shutdown(recording: Recording) -> None:
    """trace §3: as the original's, whose next user makes a new one; registered names stay."""
    with everyspan.span("before"):
        pass
    queue = everyspan.get_default_span_queue()
    assert await everyspan.shutdown_default_span_queue(20)
    assert recording.memory.spans[0].name == "before"
    with everyspan.span("after"):
        pass
    assert everyspan.get_default_span_queue() is not queue
    assert everyspan.flush(20)
    assert [span.name for span in recording.memory.spans] == ["before", "after"]
