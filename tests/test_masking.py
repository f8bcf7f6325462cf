"""P9: a secret that a span holds leaves the process nowhere, on no path."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import everyspan
from everyspan.model.credentials import REDACTED
from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.records import make_span

SECRET = "sk-c4n4ryc4n4ryc4n4ryc4n4ry"
SECONDS_MAX = 20.0


@pytest.fixture(autouse=True)
def _nowhere_afterwards() -> Iterator[None]:
    yield
    everyspan.shutdown(SECONDS_MAX)
    everyspan.configure(everyspan.InMemoryTracingProcessor())
    everyspan.set_tracing_processor_configs([])


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that anybody logs, tracebacks too."""
    caplog.set_level(logging.DEBUG)
    return caplog


class Frail(RuntimeError):
    """What the agent's work raises: its text, and a local of its frame, tell the secret."""


def leak() -> None:
    """Record the secret in every place that a span has."""
    held = SECRET
    with (
        contextlib.suppress(Frail),
        everyspan.span(f"call {SECRET}", input={"text": SECRET}) as span,
    ):
        span.output = [{"key": SECRET}, {"password": "c4n4ry"}]
        span.data = {"headers": {"Authorization": "Bearer c4n4ryc4n4ry"}, "usage": {"a_tokens": 7}}
        span.type = SECRET
        raise Frail(f"refused: {held}")


def config(backend: FaultServer) -> SGPTracingProcessorConfig:
    return SGPTracingProcessorConfig("key", "account", backend.base_url)


def otlp(backend: FaultServer) -> everyspan.OTLPTracingProcessorConfig:
    return everyspan.OTLPTracingProcessorConfig(
        backend.base_url,
        {"x-key": SECRET},
        compression="none",
        openinference=True,
        pending_spans=True,
    )


def by_hand(path: tuple[str | int, ...], value: Any) -> Any:
    """A user's own mask."""
    return "gone" if isinstance(value, str) and "c4n4ry" in value else value


@pytest.mark.parametrize("destination", [config, otlp])
@pytest.mark.parametrize("mask", [True, by_hand])
def test_no_secret_reaches_the_wire_or_a_log(
    mask: Any,
    destination: Callable[[FaultServer], everyspan.TracingProcessorConfig],
    logged: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """P9: first try, retry, and the halves of a refused batch alike."""

    def script(request: Request) -> Answer:
        return faults.status((503, 422, 200)[min(request.number, 3) - 1])

    with FaultServer(script) as backend:
        everyspan.configure(destination(backend), mask=mask, linger_ms=0)
        leak()
        with everyspan.span("still open", input={"text": SECRET}):
            (left,) = everyspan.flush(SECONDS_MAX).left.values() or [{}]
            assert left in ({}, {"http 422": 1})
            everyspan.shutdown(SECONDS_MAX)
    assert backend.requests
    sent = b"".join(request.body for request in backend.requests)
    out, err = capfd.readouterr()
    for place in (sent.decode("utf-8", "replace"), logged.text, out, err, repr(everyspan.stats())):
        assert "c4n4ry" not in place


@pytest.mark.parametrize("mask", [True, by_hand])
def test_no_secret_reaches_a_file_a_console_or_agentex(
    mask: Any,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P9: all destinations of ours at once; each has the span, none the secret."""
    file, console = tmp_path / "spans.jsonl", io.StringIO()
    with FaultServer() as backend:
        monkeypatch.setenv("AGENTEX_BASE_URL", backend.base_url)
        everyspan.configure(
            everyspan.FileTracingProcessorConfig(file),
            everyspan.ConsoleTracingProcessorConfig(stream=console, payload_chars=10_000),
            everyspan.AgentexTracingProcessorConfig(),
            mask=mask,
            linger_ms=0,
            start_delay_ms=0,
        )
        leak()
        with everyspan.span("still open", input={"text": SECRET}):
            assert everyspan.flush(SECONDS_MAX)
            everyspan.shutdown(SECONDS_MAX)
    sent = b"".join(request.body for request in backend.requests).decode()
    for place in (file.read_text(), console.getvalue(), sent):
        assert "still open" in place
        assert "c4n4ry" not in place
    out, err = capfd.readouterr()
    assert "c4n4ry" not in logged.text + out + err


def test_what_is_left_of_the_span_is_still_of_use() -> None:
    """P9: counts, keys and the rest of a text stay."""
    with FaultServer() as backend:
        everyspan.configure(config(backend), mask=True, linger_ms=0)
        leak()
        assert everyspan.flush(SECONDS_MAX)
    (item,) = backend.requests[0].spans
    assert item["name"] == f"call {REDACTED}"
    assert item["input"] == {"text": REDACTED}
    assert item["output"] == {"items": [{"key": REDACTED}, {"password": REDACTED}]}
    assert item["metadata"]["headers"] == {"Authorization": REDACTED}
    assert item["metadata"]["usage"] == {"a_tokens": 7}
    assert item["metadata"]["error_message"] == f"refused: {REDACTED}"
    assert item["metadata"]["error_type"] == "Frail"
    assert item["status"] == "ERROR"


class Seen(everyspan.AsyncTracingProcessor):
    """A user's processor: keeps what it is given as text."""

    def __init__(self) -> None:
        self.text: list[str] = []

    async def on_span_start(self, span: everyspan.Span) -> None:
        self.text.append(json.dumps(span.model_dump(mode="json")))

    async def on_span_end(self, span: everyspan.Span) -> None:
        self.text.append(json.dumps(span.model_dump(mode="json")))


def test_every_destination_gets_the_masked_span_and_the_mask_runs_once() -> None:
    """P9: a user's processor and memory too; each on a thread of its own."""
    asked: list[Any] = []

    def mask(path: tuple[str | int, ...], value: Any) -> Any:
        asked.append(path)
        return by_hand(path, value)

    first, second, memory = Seen(), Seen(), everyspan.InMemoryTracingProcessor()
    everyspan.configure(first, second, memory, mask=mask, linger_ms=0)
    leak()
    assert everyspan.flush(SECONDS_MAX)
    assert len(first.text) == len(second.text) == 2
    assert "c4n4ry" not in repr([first.text, second.text, [s.model_dump() for s in memory.spans]])
    # Once for the START and once for the END.
    assert asked.count(("name",)) == 2


def test_the_start_and_the_abandoned_span_are_masked() -> None:
    """P9: what is written before a span ends, and when the process ends first."""
    with FaultServer() as backend:
        everyspan.configure(config(backend), mask=True, linger_ms=0, start_delay_ms=0)
        with everyspan.span("open", input={"text": SECRET}) as span:
            assert everyspan.flush(SECONDS_MAX)
            span.data = {"password": "c4n4ry"}
            everyspan.shutdown(SECONDS_MAX)
    sent = b"".join(request.body for request in backend.requests)
    assert sent.count(b"open") >= 1
    assert b"c4n4ry" not in sent


async def test_a_queue_of_the_users_and_a_direct_call_obey_the_mask_in_force() -> None:
    """P9: on every path."""
    with FaultServer() as backend:
        everyspan.configure(everyspan.InMemoryTracingProcessor(), mask=True)
        processor = SGPAsyncTracingProcessor(config(backend))
        span = make_span("a", input={"text": SECRET})
        await processor.on_span_end(span)
        queue = AsyncSpanQueue(linger_ms=0)
        queue.enqueue("end", make_span("b", input={"text": SECRET}), [processor])
        assert await queue.shutdown(SECONDS_MAX)
        await processor.shutdown()
    assert [item["input"] for request in backend.requests for item in request.spans] == [
        {"text": REDACTED}
    ] * 2


def test_a_span_is_masked_as_was_said_when_it_was_recorded() -> None:
    """P9: configuring anew without a mask does not unmask what waits."""
    release = False

    def script(request: Request) -> Answer:
        return faults.status(200 if release else 503)

    with FaultServer(script) as backend:
        everyspan.configure(config(backend), mask=True, linger_ms=60_000)
        leak()
        release = True
        everyspan.configure(everyspan.InMemoryTracingProcessor())
        assert everyspan.flush(SECONDS_MAX)
    assert backend.requests
    assert all(b"c4n4ry" not in request.body for request in backend.requests)


def test_a_mask_that_raises_hides_the_field_and_itself(
    logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """P9: an error's text and traceback may show what was to be hidden."""

    def mask(path: tuple[str | int, ...], value: Any) -> Any:
        raise ValueError(f"cannot mask {value}")

    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory, mask=mask, linger_ms=0)
    leak()
    assert everyspan.flush(SECONDS_MAX)
    (span,) = memory.spans
    assert "c4n4ry" not in repr(span.model_dump())
    assert "mask raised ValueError" in logged.text
    assert "c4n4ry" not in logged.text + "".join(capfd.readouterr())
