"""A loop that does not come round while spans wait is named, with the place where it is stuck."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from everyspan.config import load_settings
from everyspan.delivery.lane import NEVER_S
from everyspan.home import Home, ThreadHome
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor, Processor, SyncTracingProcessor
from everyspan.processors.memory import InMemoryTracingProcessor
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.queue.watch import LOOK_EVERY_S, STUCK_S
from everyspan.testing import FakeClock
from tests.records import make_span
from tests.waiting import until, wait_until

SECONDS_MAX = 20.0


class Blocked(SyncTracingProcessor):
    """Holds its thread until it is let go."""

    def __init__(self) -> None:
        self.is_in = threading.Event()
        self.go = threading.Event()

    def on_span_start(self, span: Span) -> None:
        """Nothing."""

    def on_span_end(self, span: Span) -> None:
        secret = "s3cret"
        self.is_in.set()
        self.go.wait(SECONDS_MAX)
        assert secret


class BlockedLoop(AsyncTracingProcessor):
    """Blocks the loop it runs on, as code does that forgets to await."""

    def __init__(self) -> None:
        self.blocked = Blocked()

    async def on_span_start(self, span: Span) -> None:
        """Nothing."""

    async def on_span_end(self, span: Span) -> None:
        self.blocked.on_span_end(span)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "everyspan"):
        yield caplog


def make_queue(clock: FakeClock) -> AsyncSpanQueue:
    settings = load_settings({}, linger_ms=0)
    return AsyncSpanQueue(settings=settings, own_homes=True, clock=clock)


@pytest.mark.parametrize("look", ["the next span", "stats", "flush"])
def test_a_stuck_processor_is_named_with_the_place(
    look: str, said: pytest.LogCaptureFixture
) -> None:
    """W1, W2, P4, P9: whoever looks; once a minute; code, not values."""
    clock, stuck = FakeClock(), Blocked()
    queue = make_queue(clock)
    lanes: list[Processor] = [stuck, InMemoryTracingProcessor()]
    queue.enqueue("end", make_span("a"), lanes)
    assert stuck.is_in.wait(SECONDS_MAX)

    def passes() -> None:
        clock.advance(LOOK_EVERY_S + 0.5)
        if look == "the next span":
            queue.enqueue("end", make_span(), lanes)
        elif look == "stats":
            queue.stats()
        else:
            queue.flush_sync(0.01)

    passes()
    while clock.monotonic() < STUCK_S:
        passes()
    assert said.records == [], "not yet"
    passes()
    for _ in range(10):
        passes()
    (line,) = [record.getMessage() for record in said.records]
    assert re.fullmatch(
        r"spans wait: everyspan-Blocked has been stuck for \d+ s in \S+threading.py:\d+ wait, "
        rf"called by \S+threading.py:\d+ wait, called by {re.escape(__file__)}:\d+ on_span_end",
        line,
    ), line
    stuck.go.set()
    assert queue.shutdown_sync(SECONDS_MAX)


async def test_the_agents_own_loop_is_named_where_another_thread_looks(
    said: pytest.LogCaptureFixture,
) -> None:
    """W1: who blocks it sees nothing, and is still at work himself."""
    clock, stuck = FakeClock(), BlockedLoop()
    queue = AsyncSpanQueue(settings=load_settings({}, linger_ms=0), clock=clock)

    def look() -> None:
        assert stuck.blocked.is_in.wait(SECONDS_MAX)
        for _ in range(4):
            clock.advance(STUCK_S)
            queue.enqueue("end", make_span(), [stuck])
        stuck.blocked.go.set()

    queue.enqueue("end", make_span(), [stuck])
    for _ in range(4):
        clock.advance(STUCK_S)
        queue.enqueue("end", make_span(), [stuck])
    assert said.records == []
    other = threading.Thread(target=look)
    other.start()
    assert await queue.flush(SECONDS_MAX)
    other.join()
    await queue.shutdown(SECONDS_MAX)
    (line,) = [record.getMessage() for record in said.records]
    assert "the agent's own event loop has been stuck for" in line
    assert "on_span_end" in line


async def test_a_loop_that_waits_for_an_answer_is_not_stuck(
    said: pytest.LogCaptureFixture,
) -> None:
    """W1: a slow backend, for hours."""
    release = threading.Event()

    class Slow(AsyncTracingProcessor):
        async def on_span_start(self, span: Span) -> None:
            """Nothing."""

        async def on_span_end(self, span: Span) -> None:
            await until(release.is_set)

    clock, slow = FakeClock(), Slow()
    queue = make_queue(clock)
    queue.enqueue("end", make_span(), [slow])
    await until(lambda: queue.stats().destinations[0].in_flight == 1)
    (lane,) = queue._intake.lanes.values()
    for _ in range(10):
        clock.advance(STUCK_S)
        queue.enqueue("end", make_span(), [slow])
        await until(lambda: isinstance(lane.home, Home) and lane.home._asked_s is None)
    release.set()
    assert await queue.shutdown(SECONDS_MAX)
    assert said.records == []


def test_a_loop_that_sleeps_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """W1: an agent that records a span a minute is woken no more often for it."""
    asked: list[float] = []

    def ask(home: Home, now_s: float) -> float:
        asked.append(now_s)
        return 0.0

    monkeypatch.setattr(ThreadHome, "ask", ask)
    clock, memory = FakeClock(), InMemoryTracingProcessor()
    queue = make_queue(clock)
    for number in range(5):
        queue.enqueue("end", make_span(), [memory])
        wait_until(partial(_is_delivered, queue, number + 1))
        clock.advance(60.0)
    assert queue.shutdown_sync(SECONDS_MAX)
    assert asked == []


def _is_delivered(queue: AsyncSpanQueue, spans: int) -> bool:
    (lane,) = queue._intake.lanes.values()
    return lane.account.delivered == spans and lane.wakes_at_s == NEVER_S


PROGRAM = """
import logging, time, everyspan
logging.basicConfig(format="%(message)s")

class Stuck(everyspan.SyncTracingProcessor):
    def on_span_start(self, span): pass
    def on_span_end(self, span):
        time.sleep(60)

everyspan.configure(Stuck(), linger_ms=0)
with everyspan.span("turn"):
    pass
"""


@pytest.mark.slow
def test_the_end_of_a_process_tells_what_it_waited_for(tmp_path: Path) -> None:
    """W1: a program that ends its only span and never looks again."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = done.stderr.splitlines()
    assert re.fullmatch(rf"spans wait: everyspan-Stuck .* in {program}:8 on_span_end.*", first)
    assert second == "the process ends, Stuck did not get {'no answer yet': 1}"
