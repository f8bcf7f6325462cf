"""Processors that an agent calls by hand, from code that cannot await."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import everyspan
from everyspan import pipeline
from everyspan.processors.builtin import SyncFace
from everyspan.testing import FaultServer, faults
from tests.records import T0_NS, make_span
from tests.waiting import wait_until

OFF = ("DISABLE_SCALE_TRACING", "EVERYSPAN_DISABLED", "OTEL_SDK_DISABLED")
AGENTEX = everyspan.AgentexTracingProcessorConfig()


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is registered, before and after."""
    for name in (*OFF, "AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START", "AGENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield
    everyspan.shutdown(20)
    everyspan.configure(everyspan.InMemoryTracingProcessor())
    everyspan.set_tracing_processor_configs([])


def sgp_config(backend: FaultServer) -> everyspan.SGPTracingProcessorConfig:
    """As whom to deliver to this backend."""
    return everyspan.SGPTracingProcessorConfig("key", "account", backend.base_url)


def test_a_span_handed_over_is_delivered_by_the_processs_queue() -> None:
    """`trace` §4, D23: nothing is registered; `shutdown` waits for the answer."""
    with FaultServer() as backend:
        processor = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        assert isinstance(processor, everyspan.SyncTracingProcessor)
        processor.on_span_start(make_span("a", end_ns=None))
        processor.on_span_end(make_span("a", output={"x": 1}))
        processor.shutdown()
        (version,) = backend.rows["a"]
        assert version["output"] == {"x": 1}
        assert version["metadata"]["__everyspan__"]["total"] == 1
        (books,) = everyspan.stats().destinations
        assert (books.name, books.delivered, books.residual) == ("sgp", 1, 0)


def test_an_agentex_span_is_created_and_with_starts_on_updated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`trace:A1`, `A2`."""
    with FaultServer() as backend:
        monkeypatch.setenv("AGENTEX_BASE_URL", backend.base_url)
        processor = everyspan.AgentexSyncTracingProcessor(AGENTEX)
        processor.on_span_start(make_span("a", end_ns=None))
        processor.on_span_end(make_span("a"))
        processor.shutdown()
        monkeypatch.setenv("AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START", "0")
        processor = everyspan.AgentexSyncTracingProcessor(AGENTEX)
        span = make_span("b", end_ns=None)
        processor.on_span_start(span)
        wait_until(lambda: "b" in backend.spans)
        wait_until(lambda: sum(d.start_writes for d in everyspan.stats().destinations) == 1)
        span.end_ns = T0_NS + 1
        processor.on_span_end(span)
        processor.shutdown()
        assert backend.calls == [("POST", 200), ("POST", 200), ("PATCH", 200)]


@pytest.mark.parametrize("register", ["configure", "set", "add"])
def test_registered_it_is_the_destination_itself(register: str) -> None:
    """One lane, whether a span comes from the tracer or by hand; no copy of it is made."""
    with FaultServer() as backend:
        processor = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        what: Any = processor
        match register:
            case "configure":
                everyspan.configure(what)
            case "set":
                everyspan.set_tracing_processor_configs([what])
            case "add":
                everyspan.add_tracing_processor_config(what)
        with everyspan.span("traced"):
            pass
        processor.on_span_end(make_span("by hand"))
        assert everyspan.flush(20)
        (books,) = everyspan.stats().destinations
        assert (books.delivered, len(backend.rows)) == (2, 2)
        assert all(len(versions) == 1 for versions in backend.rows.values())


@pytest.mark.parametrize("switch", OFF)
def test_switched_off_it_does_nothing(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    """`trace` §2: DISABLE_SCALE_TRACING and its like make the sync path a no-op."""
    monkeypatch.setenv(switch, "true")
    with FaultServer() as backend:
        processor = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        processor.on_span_start(make_span("a"))
        processor.on_span_end(make_span("a"))
        processor.shutdown()
        assert backend.requests == []
        assert everyspan.stats().destinations == ()


@pytest.mark.parametrize("what", [None, 7, "span", object(), {"id": "a"}])
@pytest.mark.filterwarnings("error")
def test_what_is_no_span_raises_nothing(what: Any, caplog: pytest.LogCaptureFixture) -> None:
    """P2, D24: and what comes after it is delivered."""
    with FaultServer() as backend:
        processor = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        processor.on_span_start(what)
        processor.on_span_end(what)
        processor.on_span_end(make_span("good"))
        processor.shutdown()
        assert [*backend.rows] == ["good"]
        assert everyspan.stats().residual == 0


def test_a_backend_that_hangs_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """D23, D24: an answer that never comes, refused connections: calls return, threads live on."""
    with FaultServer(faults.hang()) as hanging, FaultServer() as backend:
        stuck = everyspan.SGPSyncTracingProcessor(sgp_config(hanging))
        healthy = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        for number in range(500):
            stuck.on_span_end(make_span(f"s{number}"))
            healthy.on_span_end(make_span(f"s{number}"))
        wait_until(lambda: len(backend.rows) == 500)
        result = everyspan.shutdown(0.1)
        assert sum(result.left["sgp"].values()) == 500


def test_many_threads_and_shutdown_while_they_run() -> None:
    """P1, P3: every span that was handed over is delivered, once."""
    with FaultServer() as backend:
        processor = everyspan.SGPSyncTracingProcessor(sgp_config(backend))

        def work(name: str) -> None:
            for number in range(100):
                processor.on_span_end(make_span(f"{name}-{number}"))
            processor.shutdown()

        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(backend.rows) == 400
        assert everyspan.stats().residual == 0


def test_spans_handed_over_last_are_sent_as_the_process_ends() -> None:
    """P2, D23: nobody called `shutdown`."""
    script = """
import sys, everyspan
processor = everyspan.SGPSyncTracingProcessor(
    everyspan.SGPTracingProcessorConfig("k", "a", sys.argv[1]))
processor.on_span_end(everyspan.Span(id="last", name="s", trace_id="t", start_ns=1, end_ns=2))
"""
    with FaultServer() as backend:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, backend.base_url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [*backend.rows] == ["last"]


def test_a_face_has_no_lane_of_its_own() -> None:
    """The registry holds what delivers, not what hands over."""
    with FaultServer() as backend:
        face = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        everyspan.configure(face)
        assert isinstance(face, SyncFace)
        assert pipeline.current().processors == (face.destination,)


def test_a_trace_of_its_own_reaches_the_destination_behind_a_face() -> None:
    """P1: also what ends last before a shutdown, which a second hand-over would lose."""
    with FaultServer() as backend:
        face = everyspan.SGPSyncTracingProcessor(sgp_config(backend))
        queue = everyspan.AsyncSpanQueue(linger_ms=60_000)
        for number in range(50):
            queue.enqueue("end", make_span(f"s{number}"), [face])
        assert queue.shutdown_sync(20)
        assert len(backend.rows) == 50
        (books,) = queue.stats().destinations
        assert (books.name, books.delivered) == ("sgp", 50)
        assert everyspan.stats().destinations == ()
