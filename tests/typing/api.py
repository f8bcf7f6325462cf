"""Every public name as its users write it, for mypy: what is promised of types is checked here.

Nothing of this runs. `tests/test_public_names.py` demands that each name of `everyspan.__all__`
comes here; a `type: ignore` below says that a wrong use is seen, since an unused one is an error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import everyspan
from everyspan import adk
from everyspan.clock import Clock
from everyspan.testing import Capture, FakeClock, capture


def start() -> None:
    everyspan.configure()
    everyspan.configure("http://127.0.0.1:5003", linger_ms=50.5, batch_size=100, mask=True)
    everyspan.configure(everyspan.InMemoryTracingProcessor(), Log(), AsyncLog())
    everyspan.configure(lingr_ms=5)  # type: ignore[call-arg]
    everyspan.configure(5)  # type: ignore[arg-type]
    config = everyspan.SGPTracingProcessorConfig(sgp_api_key="key", sgp_account_id="account")
    assert_type(config.sgp_base_url, str | None)
    configs: list[everyspan.TracingProcessorConfig] = [config]
    everyspan.set_tracing_processor_configs(configs)
    everyspan.add_tracing_processor_config(config)
    everyspan.SGPAsyncTracingProcessor(config)
    everyspan.SGPSyncTracingProcessor(config)
    agentex = everyspan.AgentexTracingProcessorConfig()
    everyspan.configure(config, agentex)
    everyspan.AgentexAsyncTracingProcessor(agentex)
    everyspan.AgentexSyncTracingProcessor(agentex)
    file = everyspan.FileTracingProcessorConfig(Path("spans.jsonl"), rotate_bytes=None)
    everyspan.configure(file)
    everyspan.FileTracingProcessor(file)
    console = everyspan.ConsoleTracingProcessorConfig(sys.stdout, payload_chars=0)
    everyspan.configure(console)
    everyspan.ConsoleTracingProcessor(console)
    everyspan.ConsoleTracingProcessorConfig(2)  # type: ignore[arg-type]
    otlp = everyspan.OTLPTracingProcessorConfig(
        "http://127.0.0.1:4318", {"authorization": "Bearer key"}, compression="zstd"
    )
    everyspan.configure(otlp)
    everyspan.OTLPTracingProcessor(otlp)
    everyspan.OTLPTracingProcessorConfig(headers=lambda: {"x-api-key": "key"}, pending_spans=True)
    everyspan.OTLPTracingProcessorConfig(compression="br")  # type: ignore[arg-type]
    for processor in everyspan.get_async_tracing_processors():
        assert_type(processor, everyspan.AsyncTracingProcessor | everyspan.SyncTracingProcessor)
    assert_type(
        everyspan.get_sync_tracing_processors(),
        list[everyspan.AsyncTracingProcessor | everyspan.SyncTracingProcessor],
    )


def spans() -> None:
    with everyspan.span("turn", input={"q": 1}, type=everyspan.SpanType.AGENT_WORKFLOW) as turn:
        assert_type(turn, everyspan.Span)
        turn.output = object()
        turn.status = everyspan.SpanStatus.ERROR
        assert_type(turn.id, str)
        assert_type(turn.parent_id, str | None)
        assert_type(turn.start_time, datetime)
        assert_type(turn.end_time, datetime | None)
        assert_type(turn.model_dump(), dict[str, Any])
        assert_type(turn.model_copy(deep=True), everyspan.Span)
        assert_type(everyspan.Span.model_validate({}), everyspan.Span)
        everyspan.set_span_error(turn, ValueError(), category="application")
        assert_type(everyspan.get_span_error(turn), dict[str, Any] | None)
        assert_type(everyspan.SPAN_ERROR_KEY, str)
        everyspan.span("inner", parent=turn)
        with everyspan.use_span(turn) as used:
            assert_type(used, everyspan.Span)
    everyspan.use_span("turn")  # type: ignore[arg-type]
    everyspan.span()  # type: ignore[call-arg]
    assert_type(everyspan.current_span(), everyspan.Span | None)
    everyspan.register(complex, str)


async def spans_async() -> None:
    async with everyspan.span("turn") as turn:
        assert_type(turn, everyspan.Span)


async def facade(updates: AsyncIterator[int]) -> None:
    async with adk.tracing.span("t", "step", input={"q": 1}, task_id="task") as span:
        assert_type(span, everyspan.Span | None)
    async with adk.tracing.turn_span(trace_id="t", name="turn") as turn:
        assert_type(turn, adk.TurnSpan)
        turn.output = {"response": "hello"}
        turn.record_usage(adk.TurnUsage(input_tokens=1), cost_usd=0.5)
        turn.record_usage({"input_tokens": 1})
    started = await adk.tracing.start_span("t", "step", parent_id=None)
    assert_type(started, everyspan.Span | None)
    assert_type(await adk.tracing.end_span("t", started), everyspan.Span)  # type: ignore[arg-type]
    async for update in adk.trace_stream(updates, "t"):
        assert_type(update, int)
    adk.create_langgraph_tracing_handler("t", parent_span_id=None)
    adk.TracingModule(adk.TracingService(everyspan.AsyncTracer()))


@everyspan.traced
def plain(n: int, *, text: str = "") -> list[int]:
    return [n]


@everyspan.traced(name="named", type=everyspan.SpanType.CUSTOM)
async def coroutine(n: int) -> str:
    return str(n)


@everyspan.traced
def generator(n: int) -> Iterator[int]:
    yield n


@everyspan.traced
async def async_generator(n: int) -> AsyncIterator[int]:
    yield n


async def traced_functions_keep_their_types() -> None:
    assert_type(plain(1, text="x"), list[int])
    plain("1")  # type: ignore[arg-type]
    assert_type(await coroutine(1), str)
    for item in generator(1):
        assert_type(item, int)
    async for item in async_generator(1):
        assert_type(item, int)


def context(headers: dict[str, str]) -> None:
    assert_type(everyspan.inject(headers), MutableMapping[str, str])
    parent = everyspan.extract([(b"traceparent", b"")])
    assert_type(parent, everyspan.RemoteParent | None)
    everyspan.span("turn", parent=parent)
    carried = everyspan.carry(plain)
    assert_type(carried(1), list[int])


def traces() -> None:
    trace = everyspan.Tracer().trace("id")
    assert_type(trace, everyspan.Trace)
    with trace.span("turn") as turn:
        assert_type(turn, everyspan.Span)
    opened = trace.start_span("step", parent_id=turn.id)
    assert_type(trace.end_span(opened), everyspan.Span)


async def traces_async() -> None:
    trace = everyspan.AsyncTracer().trace("id")
    assert_type(trace, everyspan.AsyncTrace)
    async with trace.span("turn") as turn:
        assert_type(turn, everyspan.Span)
    assert_type(await trace.start_span("step"), everyspan.Span)


def ends() -> None:
    assert_type(everyspan.flush(timeout=5), everyspan.FlushResult)
    result = everyspan.shutdown()
    assert_type(result.ok and result.safe, bool)
    assert_type(result.left["sgp"]["timeout"], int)
    books = everyspan.stats()
    assert_type(books, everyspan.Stats)
    for destination in books.destinations:
        assert_type(destination, everyspan.DestinationStats)
        assert_type(destination.dropped["queue full"], int)
    assert_type(books.residual, int)


async def ends_async() -> None:
    assert_type(await everyspan.aflush(5), everyspan.FlushResult)
    assert_type(await everyspan.ashutdown(), everyspan.FlushResult)
    assert_type(await everyspan.shutdown_default_span_queue(), everyspan.FlushResult)


@everyspan.job
def script(n: int) -> str:
    return str(n)


@everyspan.job(timeout=5)
async def activity(n: int) -> str:
    return str(n)


async def jobs_keep_types() -> None:
    assert_type(script(1), str)
    assert_type(await activity(1), str)
    with everyspan.job() as job:
        pass
    assert_type(job.result, everyspan.FlushResult | None)
    async with everyspan.job(timeout=1) as job:
        pass
    everyspan.job(5)  # type: ignore[call-overload]


async def queues(processors: Sequence[everyspan.AsyncTracingProcessor]) -> None:
    queue = everyspan.AsyncSpanQueue(batch_size=10, linger_ms=5.0, clock=FakeClock())
    assert_type(everyspan.get_default_span_queue(), everyspan.AsyncSpanQueue)
    span = everyspan.Span(name="x", trace_id="t", start_ns=1)
    queue.enqueue(everyspan.SpanEventType.END, span, processors)
    assert_type(queue.dropped_spans + queue.depth + queue.max_size, int)
    assert_type(await queue.flush(5), everyspan.FlushResult)
    assert_type(queue.stats(), everyspan.Stats)


class Log(everyspan.SyncTracingProcessor):
    """A user's processor."""

    def on_span_start(self, span: everyspan.Span) -> None: ...

    def on_span_end(self, span: everyspan.Span) -> None: ...


class AsyncLog(everyspan.AsyncTracingProcessor):
    """A user's processor that awaits."""

    async def on_span_start(self, span: everyspan.Span) -> None: ...

    async def on_span_end(self, span: everyspan.Span) -> None: ...

    async def on_spans_end(self, spans: Sequence[everyspan.Span]) -> None: ...


def errors(error: Exception) -> None:
    if isinstance(error, everyspan.ExportError):
        assert_type(error.reason, str)
    bad: ValueError = everyspan.SettingsError("x")
    ours: everyspan.EverySpanError = everyspan.SettingsError("x")
    raise bad from ours


def logs(handler: logging.Handler) -> None:
    handler.addFilter(everyspan.TraceContextFilter(default=None))


async def tests(everyspan_capture: Capture) -> None:
    with capture(mask=True) as captured:
        assert_type(captured.spans, list[everyspan.Span])
        assert_type(captured.one("turn"), everyspan.Span)
        assert_type(captured.tree(), list[str])
    async with capture() as captured:
        assert_type(captured, Capture)
    clock: Clock = FakeClock()
    assert_type(clock.monotonic(), float)
