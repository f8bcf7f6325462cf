"""P3: any thread, any event loop, a new loop for every request, a dead one, none: all delivered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

import everyspan
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor
from everyspan.queue.span_queue import AsyncSpanQueue

SPANS_A_LOOP = 5


class Recorder(AsyncTracingProcessor):
    """A user's processor that remembers what it saw, and on which thread."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.threads: set[int] = set()

    async def on_span_start(self, span: Span) -> None:
        self.threads.add(threading.get_ident())

    async def on_span_end(self, span: Span) -> None:
        self.ended.append(span.name)


class LockedRecorder(Recorder):
    """Holds something of the loop it was first used on."""

    def __init__(self) -> None:
        super().__init__()
        self.lock: asyncio.Lock | None = None

    async def on_spans_end(self, spans: Sequence[Span]) -> None:
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            # Contended, an asyncio.Lock insists on its loop.
            await asyncio.sleep(0)
            self.ended += [span.name for span in spans]


@pytest.fixture
def memory() -> Iterator[everyspan.InMemoryTracingProcessor]:
    """The default pipeline with an in-memory destination."""
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory)
    yield memory
    everyspan.shutdown(5)
    everyspan.configure(everyspan.InMemoryTracingProcessor())


def record(count: int = SPANS_A_LOOP) -> None:
    for number in range(count):
        with everyspan.span(f"span {number}"):
            pass


def enqueue(queue: AsyncSpanQueue, recorder: Recorder, name: str) -> None:
    span = Span(name=name, trace_id="t", start_ns=1, end_ns=2)
    queue.enqueue("start", span, [recorder])
    queue.enqueue("end", span, [recorder])


async def enqueue_some(queue: AsyncSpanQueue, recorder: Recorder) -> None:
    for number in range(SPANS_A_LOOP):
        enqueue(queue, recorder, f"span {number}")
    # Long enough for the drain to start, much shorter than the linger.
    await asyncio.sleep(0)


def test_spans_of_short_loops_are_delivered(memory: everyspan.InMemoryTracingProcessor) -> None:
    """trace:D1: three `asyncio.run` of five spans, each shorter than the linger."""

    async def request() -> None:
        record()

    for _ in range(3):
        asyncio.run(request())
    assert everyspan.shutdown(5)
    assert len(memory.spans) == 15


def test_a_users_queue_outlives_the_loops_it_was_fed_on() -> None:
    """trace:D1: the same for a queue that the user made, whose home is the first loop."""
    queue, recorder = AsyncSpanQueue(linger_ms=500), Recorder()
    for _ in range(3):
        asyncio.run(enqueue_some(queue, recorder))
    assert queue.shutdown_sync(5)
    assert len(recorder.ended) == 15
    assert queue.stats().residual == 0


def test_a_loop_cut_off_in_the_middle_of_a_send_loses_nothing() -> None:
    """P3: `asyncio.run` cancels the send; another loop sends the batch again."""
    started = threading.Event()

    class Slow(Recorder):
        async def on_spans_end(self, spans: Sequence[Span]) -> None:
            if not started.is_set():
                started.set()
                await asyncio.Event().wait()
            self.ended += [span.name for span in spans]

    queue, slow = AsyncSpanQueue(linger_ms=0), Slow()

    async def request() -> None:
        await enqueue_some(queue, slow)
        while not started.is_set():
            await asyncio.sleep(0)

    asyncio.run(request())
    assert queue.shutdown_sync(5)
    assert len(slow.ended) == SPANS_A_LOOP


def test_enqueue_from_other_threads_reaches_the_home_loop() -> None:
    """trace:D2: 100 enqueues from other threads; the processor's lock belongs to the home loop."""
    queue, recorder = AsyncSpanQueue(linger_ms=5, batch_size=7), LockedRecorder()

    async def main() -> None:
        enqueue(queue, recorder, "home")
        threads = [
            threading.Thread(target=enqueue, args=(queue, recorder, f"span {number}"))
            for number in range(100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await queue.flush(5)

    asyncio.run(main())
    assert len(recorder.ended) == 101
    assert queue.shutdown_sync(5)


def test_an_enqueue_from_another_thread_wakes_an_idle_home_loop() -> None:
    """trace:D2: without any other reason for the loop to wake."""
    queue, recorder = AsyncSpanQueue(linger_ms=1), Recorder()

    async def main() -> None:
        enqueue(queue, recorder, "home")
        assert await queue.flush(5)
        thread = threading.Thread(target=enqueue, args=(queue, recorder, "other"))
        thread.start()
        async with asyncio.timeout(5):
            while "other" not in recorder.ended:
                # The loop's only timers are this and the drain's.
                await asyncio.sleep(0.01)
        thread.join()

    asyncio.run(main())
    assert queue.shutdown_sync(5)


def test_threads_with_loops_of_their_own(memory: everyspan.InMemoryTracingProcessor) -> None:
    """P3: three threads, each with three loops one after the other."""

    async def request() -> None:
        record()

    def work() -> None:
        for _ in range(3):
            asyncio.run(request())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everyspan.flush(5)
    assert len(memory.spans) == 3 * 3 * SPANS_A_LOOP


def test_enqueue_without_a_loop_is_delivered() -> None:
    """trace:D3: no loop runs anywhere."""
    queue, recorder = AsyncSpanQueue(linger_ms=1), Recorder()
    enqueue(queue, recorder, "span")
    assert queue.flush_sync(5)
    assert recorder.ended == ["span"]
    assert threading.get_ident() not in recorder.threads
    assert queue.shutdown_sync(5)


def test_a_home_that_is_stopped_but_not_closed_is_left() -> None:
    """P3: its loop exists, runs no more, and is never closed."""
    queue, recorder = AsyncSpanQueue(linger_ms=500), Recorder()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(enqueue_some(queue, recorder))
        assert queue.flush_sync(5)
        assert len(recorder.ended) == SPANS_A_LOOP
        enqueue(queue, recorder, "later")
        assert queue.shutdown_sync(5)
        assert recorder.ended[-1] == "later"
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


def test_a_home_that_was_closed_by_hand_is_left_at_the_next_span() -> None:
    """P3: nothing cancelled the drain; the wake-up finds the loop closed."""
    queue, recorder = AsyncSpanQueue(linger_ms=1), Recorder()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(enqueue_some(queue, recorder))
    loop.close()
    deadline = time.monotonic() + 5
    while "later" not in recorder.ended and time.monotonic() < deadline:
        enqueue(queue, recorder, "later")
        threading.Event().wait(0.01)
    assert "later" in recorder.ended
    assert queue.shutdown_sync(5)
    assert queue.stats().destinations[0].delivered == queue.stats().destinations[0].accepted


def test_a_blocked_home_delivers_once_it_runs_again() -> None:
    """P3: the agent blocks its own loop."""
    queue, recorder = AsyncSpanQueue(linger_ms=1), Recorder()

    async def main() -> None:
        enqueue(queue, recorder, "before")
        feeder = threading.Thread(target=enqueue, args=(queue, recorder, "meanwhile"))
        feeder.start()
        # This is the agent's mistake under test, not a wait for something.
        time.sleep(0.2)
        feeder.join()

    asyncio.run(main())
    assert queue.shutdown_sync(5)
    assert sorted(recorder.ended) == ["before", "meanwhile"]


def test_a_sync_flush_on_the_home_loops_own_thread_does_not_wait_for_itself() -> None:
    """P2: it moves the queue and is answered by the exporter thread."""
    queue, recorder = AsyncSpanQueue(linger_ms=500), Recorder()

    async def main() -> None:
        await enqueue_some(queue, recorder)
        assert queue.flush_sync(5)

    asyncio.run(main())
    assert len(recorder.ended) == SPANS_A_LOOP
    assert queue.shutdown_sync(5)


def test_a_running_linger_is_cut_at_shutdown() -> None:
    """trace:D11: the drain does not sit out a linger of an hour."""
    queue, recorder = AsyncSpanQueue(linger_ms=3_600_000), Recorder()
    enqueue(queue, recorder, "span")
    assert queue.shutdown_sync(5)
    assert recorder.ended == ["span"]
