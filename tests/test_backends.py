"""What becomes of spans when the backend misbehaves: a real one on loopback, the whole path."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from everyspan.config import load_settings
from everyspan.ledger import DestinationStats
from everyspan.processors.builtin import BuiltinProcessor
from everyspan.processors.otlp import OTLPTracingProcessor, OTLPTracingProcessorConfig
from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.records import make_span
from tests.waiting import wait_until

SPANS = 200


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once: the draw of the jitter is 0."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)


class Sender:
    """A queue of the exporter thread and its destination, SGP unless said otherwise."""

    def __init__(self, backend: FaultServer, kind: str = "sgp", **settings: Any) -> None:
        self.processor: BuiltinProcessor
        if kind == "otlp":
            self.processor = OTLPTracingProcessor(
                OTLPTracingProcessorConfig(backend.base_url, compression="none")
            )
        else:
            self.processor = SGPAsyncTracingProcessor(
                SGPTracingProcessorConfig("key", "account", backend.base_url)
            )
        self.queue = AsyncSpanQueue(settings=load_settings(**settings), own_homes=True)

    def send(self, count: int = SPANS, **fields: Any) -> list[str]:
        """Record spans; return their ids."""
        ids = [f"s{number}" for number in range(count)]
        for id in ids:
            self.queue.enqueue("end", make_span(id, **fields), [self.processor])
        return ids

    @property
    def stats(self) -> DestinationStats:
        """The books of the destination."""
        (stats,) = self.queue.stats().destinations
        assert stats.residual == 0
        return stats


@pytest.mark.parametrize("kind", ["sgp", "otlp"])
def test_a_backend_that_loses_replies_has_one_row_a_span(no_backoff: None, kind: str) -> None:
    """P6: every tenth reply is lost after the spans were stored; nothing is lost or doubled."""
    draw = random.Random(20_251_124)
    with FaultServer(
        lambda _: faults.lose_reply() if draw.random() < 0.1 else faults.ok()
    ) as backend:
        sender = Sender(backend, kind, batch_size=5, linger_ms=1)
        ids = sender.send(500)
        assert sender.queue.shutdown_sync(20)
        assert sorted(backend.rows) == sorted(ids)
        # What was sent again is the same version, so that an upsert changes nothing.
        assert any(len(versions) > 1 for versions in backend.rows.values())
        assert all(v == versions[0] for versions in backend.rows.values() for v in versions)
        assert (sender.stats.delivered, sender.stats.dropped_total) == (500, 0)
        assert sender.stats.requests == len(backend.batches)


@pytest.mark.parametrize(("kind", "names_it"), [("sgp", True), ("sgp", False), ("otlp", False)])
def test_a_span_that_is_refused_costs_only_itself(kind: str, names_it: bool) -> None:
    """P5: 422 for one of 200: 199 delivered, 1 rejected with its reason."""

    def script(request: Request) -> Answer:
        bad = [n for n, item in enumerate(request.spans) if item["id"] == "s123"]
        if not bad:
            return faults.ok()
        return faults.refuse(*bad) if names_it else faults.refuse()

    with FaultServer(script) as backend:
        sender = Sender(backend, kind, linger_ms=60_000)
        ids = sender.send()
        result = sender.queue.shutdown_sync(20)
        assert not result
        assert {name: dict(left) for name, left in result.left.items()} == {kind: {"http 422": 1}}
        assert sorted(backend.rows) == sorted({*ids} - {"s123"})
        assert (sender.stats.delivered, dict(sender.stats.rejected)) == (199, {"http 422": 1})
        assert len(backend.batches) == 2 if names_it else len(backend.batches) <= 4 * 7.7 + 8


@pytest.mark.parametrize("kind", ["sgp", "otlp"])
def test_a_body_that_is_too_large_is_split(kind: str) -> None:
    """413: halves may pass, and a span that is too large by itself is rejected alone."""

    def script(request: Request) -> Answer:
        return faults.status(413 if len(request.body) > 60_000 else 200)

    with FaultServer(script) as backend:
        sender = Sender(backend, kind, linger_ms=60_000)
        ids = sender.send(input="x" * 2_000)
        sender.queue.enqueue("end", make_span("big", input="x" * 80_000), [sender.processor])
        sender.queue.shutdown_sync(20)
        assert sorted(backend.rows) == sorted(ids)
        assert dict(sender.stats.rejected) == {"http 413": 1}


def test_a_backend_that_never_answers_holds_up_nobody() -> None:
    """P2, P4: `enqueue` never waits; `shutdown(2)` returns in time and says what was left, why."""
    with FaultServer(faults.hang()) as backend:
        # Only whole batches leave before the shutdown.
        sender = Sender(backend, batch_size=10, linger_ms=60_000)
        longest_s = 0.0
        for number in range(SPANS):
            span = make_span(f"s{number}")
            before_s = time.monotonic()
            sender.queue.enqueue("end", span, [sender.processor])
            longest_s = max(longest_s, time.monotonic() - before_s)
        assert longest_s < 0.25
        wait_until(lambda: len(backend.batches) == 4)
        before_s = time.monotonic()
        result = sender.queue.shutdown_sync(2)
        assert time.monotonic() - before_s < 2.3
        assert not result
        assert dict(result.left["sgp"]) == {"no answer yet": 40, "not sent yet": 160}
        assert dict(sender.stats.dropped) == {"shutdown": 200}


async def test_an_awaited_shutdown_returns_in_time_too() -> None:
    """P4: on a loop that the backend shares."""
    with FaultServer(faults.hang()) as backend:
        sender = Sender(backend)
        sender.send()
        before_s = time.monotonic()
        result = await sender.queue.shutdown(0.2)
        assert time.monotonic() - before_s < 0.7
        assert sum(result.left["sgp"].values()) == SPANS


def test_a_field_that_cannot_be_encoded_costs_only_itself() -> None:
    """P5, trace:D6: 200 delivered, that field marked."""

    class Unshowable:
        def __repr__(self) -> str:
            raise ValueError("never")

    with FaultServer() as backend:
        sender = Sender(backend, linger_ms=60_000)
        sender.send(SPANS - 1, input={"fine": 1})
        bad = make_span("bad", input={"fine": 1, "bad": Unshowable()})
        sender.queue.enqueue("end", bad, [sender.processor])
        assert sender.queue.shutdown_sync(20)
        assert (len(backend.rows), len(backend.batches)) == (SPANS, 1)
        (row,) = backend.rows["bad"]
        assert row["input"]["fine"] == 1
        assert "Unshowable" in str(row["input"]["bad"])


def test_a_backend_in_trouble_gets_everything_in_the_end(no_backoff: None) -> None:
    """P1: every way to fail in turn, then recovery."""
    trouble = [
        faults.status(500),
        faults.status(503, retry_after=0),
        faults.status(429),
        faults.reset_after_body(),
        faults.status(408),
        faults.status(401),
        faults.status(502, body=b"<html>"),
        faults.status(501, headers={"x-should-retry": "true"}),
    ]
    with FaultServer([*trouble, faults.ok()]) as b:
        sender = Sender(b, batch_size=20, linger_ms=0)
        ids = sender.send()
        assert sender.queue.shutdown_sync(20)
        assert sorted(b.rows) == sorted(ids)
        assert sender.stats.delivered == SPANS


def test_retry_after_is_obeyed_and_a_flush_does_not_break_it() -> None:
    """DESIGN: the batch is parked; what is left is said with its reason."""
    with FaultServer(faults.status(503, retry_after=120)) as backend:
        sender = Sender(backend, linger_ms=0)
        sender.send(1)
        wait_until(lambda: backend.batches)
        result = sender.queue.flush_sync(0.3)
        assert dict(result.left["sgp"]) == {"http 503": 1}
        assert len(backend.batches) == 1
        sender.queue.shutdown_sync(0)


def test_connections_are_kept_and_used_again() -> None:
    """The second of the three things that went wrong."""
    with FaultServer() as backend:
        sender = Sender(backend, batch_size=5, linger_ms=0, concurrency=4)
        for _ in range(20):
            sender.send(25)
            assert sender.queue.flush_sync(10)
        assert sender.queue.shutdown_sync(10)
        assert len(backend.batches) >= 20
        assert backend.connections == sender.stats.connections <= 4


@pytest.mark.parametrize("stop", [True, False])
def test_nothing_is_left_on_the_callers_loop(stop: bool, recwarn: pytest.WarningsRecorder) -> None:
    """No task, no connection, no warning: the queue's home was the caller's loop."""
    with FaultServer() as backend:
        config = SGPTracingProcessorConfig("key", "account", backend.base_url)
        processor, queue = SGPAsyncTracingProcessor(config), AsyncSpanQueue(linger_ms=0)

        async def main() -> None:
            for number in range(10):
                queue.enqueue("end", make_span(f"s{number}"), [processor])
                await asyncio.sleep(0)
            assert await (queue.shutdown(10) if stop else queue.flush(10))
            if stop:
                assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert len(backend.rows) == 10
        assert queue.shutdown_sync(10)
    assert [str(warning.message) for warning in recwarn] == []
