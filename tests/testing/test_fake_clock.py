"""`FakeClock`: time goes on when a test says so, for a whole queue."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from everyspan import AsyncSpanQueue, InMemoryTracingProcessor, SpanEventType
from everyspan.clock import Clock
from everyspan.errors import SettingsError
from everyspan.testing import FakeClock
from tests.records import make_span
from tests.waiting import settle, until, wait_until


def test_time_goes_on_when_told() -> None:
    clock: Clock = FakeClock(time_ns=5)
    assert (clock.monotonic(), clock.time_ns()) == (0.0, 5)
    assert isinstance(clock, FakeClock)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.time_ns()) == (1.5, 1_500_000_005)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", None, True])
def test_time_never_goes_back(seconds: Any) -> None:
    with pytest.raises(SettingsError, match="time goes on"):
        FakeClock().advance(seconds)


async def test_what_is_due_is_called_earliest_first() -> None:
    clock, loop = FakeClock(), asyncio.get_running_loop()
    called: list[object] = []
    for delay_s in (3.0, 1.0, 2.0, 9.0):
        clock.call_at(loop, delay_s, partial(called.append, delay_s))
    clock.call_at(loop, 1.5, partial(called.append, "cancelled")).cancel()
    await settle()
    assert called == []
    clock.advance(3.0)
    await settle()
    assert called == [1.0, 2.0, 3.0]
    clock.call_at(loop, 2.5, partial(called.append, "at once"))
    await settle()
    assert called == [1.0, 2.0, 3.0, "at once"]


def test_a_loop_that_is_closed_waits_for_nothing() -> None:
    clock, loop = FakeClock(), asyncio.new_event_loop()
    clock.call_at(loop, 1.0, lambda: None)
    loop.close()
    clock.advance(2.0)


async def test_a_queue_lingers_by_it() -> None:
    """trace:Q24: a span waits its linger for company, to the second."""
    clock, memory = FakeClock(), InMemoryTracingProcessor()
    queue = AsyncSpanQueue(linger_ms=60_000, clock=clock)
    queue.enqueue(SpanEventType.END, make_span("a"), [memory])
    await settle()
    clock.advance(59.0)
    queue.enqueue(SpanEventType.END, make_span("b"), [memory])
    await settle()
    assert memory.spans == []
    clock.advance(1.0)
    await until(lambda: [span.id for span in memory.spans] == ["a", "b"])
    assert queue.stats().residual == 0
    assert await queue.shutdown(20)


def test_it_rules_the_exporters_thread_too() -> None:
    """P3: nobody runs a loop here."""
    clock, memory = FakeClock(), InMemoryTracingProcessor()
    queue = AsyncSpanQueue(linger_ms=60_000, clock=clock)
    queue.enqueue(SpanEventType.END, make_span("a"), [memory])
    # Whether the thread has come to wait by now or not.
    clock.advance(60.0)
    wait_until(lambda: memory.spans)
    assert queue.shutdown_sync(20)


def test_a_thread_that_looks_while_time_passes_misses_nothing() -> None:
    """Threads: the lane reads the clock, time is advanced, the lane asks to be woken."""
    clock, memory = FakeClock(), InMemoryTracingProcessor()
    queue = AsyncSpanQueue(linger_ms=1_000, clock=clock)
    for n in range(200):
        queue.enqueue(SpanEventType.END, make_span(f"s{n}"), [memory])
        clock.advance(1.0)
    wait_until(lambda: len(memory.spans) == 200)
    assert queue.stats().residual == 0
    assert queue.shutdown_sync(20)
