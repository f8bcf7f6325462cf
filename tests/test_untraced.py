"""Sending spans makes none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import everyspan
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor, SyncTracingProcessor
from everyspan.testing import FaultServer
from everyspan.untraced import is_exporting, untraced
from tests.records import make_span

SECONDS_MAX = 20.0


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server
        everyspan.shutdown(SECONDS_MAX)
        everyspan.set_tracing_processor_configs([])


def sgp(server: FaultServer) -> everyspan.SGPTracingProcessorConfig:
    return everyspan.SGPTracingProcessorConfig(
        sgp_api_key="k", sgp_account_id="a", sgp_base_url=server.base_url
    )


@contextmanager
def instrumented(client: Any) -> Iterator[InMemorySpanExporter]:
    """OpenTelemetry watches a client as its instrumentations do: around the transport, unless told
    to look away by either of the two keys (opentelemetry-instrumentation, `utils`).
    """
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("httpx")
    kind = client.AsyncHTTPTransport
    inner = kind.handle_async_request

    async def watched(self: Any, request: Any) -> Any:
        keys = ("suppress_instrumentation", otel_context._SUPPRESS_INSTRUMENTATION_KEY)
        if any(map(otel_context.get_value, keys)):
            return await inner(self, request)
        with tracer.start_as_current_span(request.method):
            return await inner(self, request)

    kind.handle_async_request = watched
    try:
        yield kept
    finally:
        kind.handle_async_request = inner


def test_opentelemetry_sees_the_agents_requests_and_none_of_ours(server: FaultServer) -> None:
    """U2: whether the exporter sends, or somebody who awaits the processor."""

    async def agents_own() -> None:
        async with httpx2.AsyncClient() as client:
            await client.get(f"{server.base_url}/healthz")

    async def by_hand() -> None:
        processor = everyspan.SGPAsyncTracingProcessor(sgp(server))
        await processor.on_spans_end([make_span("by hand")])
        assert not is_exporting.get()
        await agents_own()
        await processor.shutdown()

    with instrumented(httpx2) as kept:
        everyspan.configure(sgp(server))
        with everyspan.span("turn"):
            asyncio.run(agents_own())
        assert everyspan.flush(SECONDS_MAX)
        asyncio.run(by_hand())
    assert len(server.spans) == 2
    assert [span.name for span in kept.get_finished_spans()] == ["GET", "GET"]


def test_what_a_users_processor_requests_is_its_authors_affair(server: FaultServer) -> None:
    """U2: it may be what brings spans to OpenTelemetry."""

    class Poster(AsyncTracingProcessor):
        async def on_span_start(self, span: Span) -> None:
            """Nothing."""

        async def on_span_end(self, span: Span) -> None:
            async with httpx.AsyncClient() as client:
                await client.post(f"{server.base_url}/elsewhere")

    with instrumented(httpx) as kept:
        everyspan.configure(Poster())
        with everyspan.span("turn"):
            pass
        assert everyspan.flush(SECONDS_MAX)
    assert [span.name for span in kept.get_finished_spans()] == ["POST"]


def test_a_traced_transport_does_not_record_our_requests(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U1: an agent that traces its HTTP client by patching it traces ours as well."""
    kind = httpx2.AsyncHTTPTransport
    traced = everyspan.traced(name="http")(kind.handle_async_request)
    monkeypatch.setattr(kind, "handle_async_request", traced)
    everyspan.configure(sgp(server), linger_ms=0)
    for _ in range(3):
        with everyspan.span("turn"):
            pass
        assert everyspan.flush(SECONDS_MAX)
    assert [span["name"] for span in server.spans.values()] == ["turn"] * 3
    stats = everyspan.stats()
    assert stats.untraced_spans == stats.destinations[0].requests == 3
    assert (stats.open_spans, stats.residual, stats.sampled_out_spans) == (0, 0, 0)


class Tracing(AsyncTracingProcessor):
    """Opens a span for every export: a feedback loop, were it recorded."""

    def __init__(self, opens: Callable[[], Any]) -> None:
        self.opens = opens
        self.names: list[str] = []

    async def on_span_start(self, span: Span) -> None:
        """Nothing."""

    async def on_span_end(self, span: Span) -> None:
        self.names.append(span.name)
        self.opens()
        # A task that the export starts is part of it.
        await asyncio.create_task(self._in_a_task())

    async def _in_a_task(self) -> None:
        async with everyspan.span("in a task"):
            pass


class SyncTracing(SyncTracingProcessor):
    """As `Tracing`."""

    def __init__(self, opens: Callable[[], Any]) -> None:
        self.opens = opens
        self.names: list[str] = []

    def on_span_start(self, span: Span) -> None:
        """Nothing."""

    def on_span_end(self, span: Span) -> None:
        self.names.append(span.name)
        self.opens()


def with_span() -> None:
    with everyspan.span("export"), everyspan.span("child"):
        pass


def by_hand() -> None:
    trace = everyspan.Tracer().trace("some trace")
    trace.end_span(trace.start_span("by hand"))


@pytest.mark.parametrize("opens", [with_span, by_hand, everyspan.traced(lambda: None)])
@pytest.mark.parametrize("kind", [Tracing, SyncTracing])
def test_a_processor_that_opens_spans_does_not_feed_itself(
    kind: Callable[[Callable[[], Any]], Any], opens: Callable[[], Any]
) -> None:
    """U1, P4: nor another destination; every span that is left out is counted."""
    processor, memory = kind(opens), everyspan.InMemoryTracingProcessor()
    everyspan.configure(processor, memory, linger_ms=0)
    try:
        for number in range(5):
            with everyspan.span(f"turn {number}"):
                pass
        assert everyspan.flush(SECONDS_MAX), "what is left out is no loss"
        stats = everyspan.stats()
        assert sorted(processor.names) == [f"turn {number}" for number in range(5)]
        assert len(memory.spans) == 5
        per_span = (2 if opens is with_span else 1) + (kind is Tracing)
        assert stats.untraced_spans == 5 * per_span
        assert (stats.open_spans, stats.residual) == (0, 0)
    finally:
        everyspan.shutdown(SECONDS_MAX)
        everyspan.set_tracing_processor_configs([])


def test_a_mask_that_opens_spans_does_not_feed_itself() -> None:
    """U1: it is called for every batch, as an exporter is."""
    memory, places = everyspan.InMemoryTracingProcessor(), []

    @everyspan.traced
    def mask(place: tuple[Any, ...], value: Any) -> Any:
        places.append(place)
        return value

    everyspan.configure(memory, mask=mask, linger_ms=0)
    try:
        with everyspan.span("turn", input={"a": 1}):
            pass
        assert everyspan.flush(SECONDS_MAX)
        assert everyspan.flush(SECONDS_MAX)
        assert [span.name for span in memory.spans] == ["turn"]
        assert everyspan.stats().untraced_spans == len(places) > 0
    finally:
        everyspan.shutdown(SECONDS_MAX)
        everyspan.set_tracing_processor_configs([])


def test_a_trace_with_processors_of_its_own_does_not_feed_itself() -> None:
    """U1: the original's way to say where spans go."""
    processors: list[Any] = []

    def opens() -> None:
        trace = everyspan.Trace(processors, trace_id="t")
        trace.end_span(trace.start_span("again"))

    processor = SyncTracing(opens)
    processors.append(processor)
    queue = everyspan.AsyncSpanQueue(linger_ms=0)
    queue.enqueue("end", make_span("a", name="first"), processors)
    assert queue.shutdown_sync(SECONDS_MAX)
    assert everyspan.flush(SECONDS_MAX)
    assert processor.names == ["first"]


def test_a_span_that_an_export_ends_and_did_not_open_is_recorded() -> None:
    """P1: a finalizer of the agent's may run there; a span is left out from its start or never."""
    memory = everyspan.InMemoryTracingProcessor()
    opened: list[Span] = []
    trace = everyspan.Tracer().trace("t")

    class Ending(Tracing):
        async def on_span_end(self, span: Span) -> None:
            while opened:
                trace.end_span(opened.pop())

    everyspan.configure(memory, Ending(with_span), linger_ms=0)
    try:
        opened.append(trace.start_span("the agent's"))
        with everyspan.span("turn"):
            pass
        assert everyspan.flush(SECONDS_MAX)
        assert everyspan.flush(SECONDS_MAX)
        assert {span.name for span in memory.spans} == {"turn", "the agent's"}
        assert everyspan.stats().untraced_spans == 0
    finally:
        everyspan.shutdown(SECONDS_MAX)
        everyspan.set_tracing_processor_configs([])


def test_the_block_of_a_coroutine_that_is_collected_touches_no_other_context() -> None:
    """U1: as at the end of a loop that was closed by hand."""

    async def exporting() -> None:
        with untraced(requests_too=True):
            await asyncio.sleep(60)

    coroutine = exporting()

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: coroutine.send(None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(begin())
    before = otel_context.get_current()
    coroutine.close()
    assert (is_exporting.get(), otel_context.get_current()) == (False, before)


@pytest.mark.parametrize("broken", ["no attributes", "raises"])
def test_an_opentelemetry_that_is_none_stops_no_export(
    broken: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2: half imported by another thread, or of another version."""
    module: Any = type(sys)("opentelemetry.context")
    if broken == "raises":
        module.set_value = lambda *_: 1 / 0
    monkeypatch.setitem(sys.modules, "opentelemetry.context", module)
    everyspan.configure(sgp(server))
    with everyspan.span("turn"):
        pass
    assert everyspan.flush(SECONDS_MAX)


def test_opentelemetry_is_never_loaded_for_it(server: FaultServer) -> None:
    """U2, P10: where nobody else uses it, it costs nothing."""
    program = f"""
import sys, everyspan
everyspan.configure(everyspan.SGPTracingProcessorConfig(
    sgp_api_key="k", sgp_account_id="a", sgp_base_url={server.base_url!r}))
with everyspan.span("turn"):
    pass
assert everyspan.flush(20)
print(*[name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""
