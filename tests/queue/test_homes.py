"""Lanes and the loops that come and go under them: nobody flushes here, and all is delivered."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic

import pytest

import everyspan
from everyspan import pipeline
from everyspan.errors import SettingsError
from everyspan.model.record import SpanRecord
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor, SyncTracingProcessor
from everyspan.processors.memory import InMemoryTracingProcessor
from everyspan.queue import exits
from everyspan.queue.exporter_home import exporter_home
from everyspan.queue.intake import LANES_MAX
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.records import make_record, make_span
from tests.waiting import settle, until, wait_until


class Recorder(AsyncTracingProcessor):
    """Remembers what ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def on_span_start(self, span: Span) -> None:
        """Nothing."""

    async def on_span_end(self, span: Span) -> None:
        self.ended.append(span.id)


def run_to_the_end(loop: asyncio.AbstractEventLoop, main: Callable[[], object]) -> None:
    """As code from before `asyncio.run`: nothing is cancelled, the loop is closed."""
    loop.run_until_complete(asyncio.wait_for(_call(main), 10))
    loop.close()


async def _call(main: Callable[[], object]) -> None:
    main()


def deliver(queue: AsyncSpanQueue, recorder: Recorder) -> None:
    """Record a span with this processor alone, and see it there."""
    ended = len(recorder.ended) + 1
    queue.enqueue("end", make_span(), [recorder])
    wait_until(lambda: len(recorder.ended) == ended)
    lane = queue._intake.lane(recorder)
    wait_until(lambda: lane.is_idle)


def threads_of(recorder: type[Recorder]) -> int:
    """How many threads such processors have."""
    return sum(f"everyspan-{recorder.__name__}" in t.name for t in threading.enumerate())


def test_a_processor_for_each_request_costs_no_thread_for_each() -> None:
    """P4, P1: those with nothing to do are let go of, and the books are kept in sum."""

    class OfARequest(Recorder):
        pass

    queue, registered = AsyncSpanQueue(own_homes=True, linger_ms=0), Recorder()
    stays = queue.lane(registered)
    deliver(queue, registered)
    last = OfARequest()
    gone = weakref.ref(last)
    deliver(queue, last)
    open_span, open_in = make_span(end_ns=None), OfARequest()
    queue.enqueue("start", open_span, [open_in])
    requests = 3 * LANES_MAX
    for _ in range(requests - 1):
        deliver(queue, last := OfARequest())
    assert len(queue._intake.lanes) <= LANES_MAX + 1
    wait_until(lambda: threads_of(OfARequest) <= LANES_MAX + 1)
    wait_until(lambda: gc.collect() is not None and gone() is None)
    queue.enqueue("end", open_span, [open_in])
    wait_until(lambda: open_in.ended == [open_span.id])
    assert queue.lane(registered) is stays
    assert queue.flush_sync(10)
    stats = queue.stats()
    assert (stats.residual, stats.destinations[-1].name) == (0, "others")
    assert sum(d.accepted for d in stats.destinations) == requests + 2
    assert sum(d.delivered for d in stats.destinations) == requests + 2
    assert queue.shutdown_sync(10)


def test_a_lane_that_is_let_go_of_as_a_span_is_on_its_way_to_it_comes_back() -> None:
    """P1: another thread had looked it up already."""
    queue, recorder = AsyncSpanQueue(own_homes=True, linger_ms=0), Recorder()
    deliver(queue, recorder)
    lane = queue._intake.lane(recorder)
    with queue._gate:
        queue._intake._let_go_of_idle()
    assert queue._intake.lanes == {}
    queue.offer(make_record("late", offered_s=monotonic()), (lane,))
    wait_until(lambda: recorder.ended[1:] == ["late"])
    assert queue.flush_sync(10)
    assert (queue.stats().residual, len(queue._intake.lanes)) == (0, 1)
    assert queue.shutdown_sync(10)


@pytest.mark.parametrize("kind", ["asyncio.run", "closed by hand"])
def test_a_loop_that_ends_before_the_drain_began_leaves_nothing_behind(kind: str) -> None:
    """P3, trace:D1: the agent's coroutine enqueues and returns without ever waiting."""
    queue, recorder = AsyncSpanQueue(linger_ms=1), Recorder()

    def enqueue(id: str) -> None:
        queue.enqueue("end", make_span(id), [recorder])

    for id in ("a", "b", "c"):
        if kind == "asyncio.run":
            asyncio.run(_call(partial(enqueue, id)))
        else:
            run_to_the_end(asyncio.new_event_loop(), partial(enqueue, id))
    if kind == "closed by hand":
        # Nobody can hear a loop being closed; the next span does.
        enqueue("d")
    wait_until(lambda: len(recorder.ended) == (3 if kind == "asyncio.run" else 4))
    assert queue.shutdown_sync(10)
    # Nothing that was left behind may print a warning into the agent (P2).
    gc.collect()


async def test_a_loop_that_comes_too_late_takes_no_wake_ups_of_the_next() -> None:
    """P3: a sync flush moves the lane before its first loop, which it blocks, ever ran it."""
    queue, recorder = AsyncSpanQueue(linger_ms=1), Recorder()
    queue.enqueue("end", make_span("a"), [recorder])
    assert queue.flush_sync(10)
    await settle()
    queue.enqueue("end", make_span("b"), [recorder])
    await until(lambda: recorder.ended == ["a", "b"])
    assert await queue.shutdown(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_closed_by_hand_in_the_middle_of_a_send_loses_nothing() -> None:
    """P3: saturated, so that nobody was going to look before the answer that never comes."""
    started = threading.Event()

    class Slow(Recorder):
        async def on_spans_end(self, spans: Sequence[Span]) -> None:
            if not started.is_set():
                started.set()
                await asyncio.Event().wait()
            self.ended += [span.id for span in spans]

    queue, slow = AsyncSpanQueue(linger_ms=0, concurrency=1), Slow()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        queue.enqueue("end", make_span("a"), [slow])
        while not started.is_set():
            await asyncio.sleep(0)
        queue.enqueue("end", make_span("b"), [slow])

    loop.run_until_complete(main())
    loop.close()
    queue.enqueue("end", make_span("c"), [slow])
    wait_until(lambda: sorted(slow.ended) == ["a", "b", "c"])
    assert queue.shutdown_sync(10)
    gc.collect()
    assert queue.stats().destinations[0].delivered == 3


def test_two_who_find_a_home_gone_move_the_lane_once() -> None:
    """L3: the second would take back what the new home has just sent."""
    queue, recorder = AsyncSpanQueue(linger_ms=0), Recorder()
    asyncio.run(_call(lambda: queue.enqueue("end", make_span("a"), [recorder])))
    wait_until(lambda: recorder.ended == ["a"])
    (lane,) = queue._intake.lanes.values()
    home, epoch = lane.home, lane._epoch
    from everyspan.home import Home

    loop = asyncio.new_event_loop()
    queue._move(lane, Home(loop))
    loop.close()
    assert (lane.home, lane._epoch) == (home, epoch)
    assert queue.shutdown_sync(10)


def test_a_first_span_from_a_finalizer_within_everyspan_is_taken() -> None:
    """Q1: the lane has no home yet, and this thread is inside the gate."""
    queue, memory = AsyncSpanQueue(own_homes=True, linger_ms=0), InMemoryTracingProcessor()
    with queue._gate:
        queue.enqueue("end", make_span("a"), [memory])
    wait_until(lambda: len(memory.spans) == 1)
    assert queue.shutdown_sync(10)


def test_a_late_span_for_a_queue_that_is_over_starts_nothing() -> None:
    """P4: it is refused and counted; no thread, no hook, no task comes back to life."""
    queue, recorder = AsyncSpanQueue(own_homes=True), Recorder()
    lane = queue.lane(recorder)
    queue.close_soon()
    threads = {thread.ident for thread in threading.enumerate()}
    queue.enqueue("end", make_span("a"), [recorder])
    assert lane.home is None
    assert {thread.ident for thread in threading.enumerate()} <= threads
    assert id(queue) not in exits._queues
    assert dict(queue.stats().destinations[0].dropped) == {"shutdown": 1}
    assert queue.stats().residual == 0


@pytest.fixture
def pipeline_at_rest() -> Iterator[None]:
    """The process's pipeline is replaced by an empty one afterwards."""
    yield
    everyspan.shutdown(10)
    pipeline._current = None


def is_at_rest(queue: AsyncSpanQueue) -> bool:
    """Whether it holds neither span nor byte."""
    destinations = queue.stats().destinations
    return queue._intake.bytes_held == 0 and not any(d.queued + d.in_flight for d in destinations)


def has_accepted(queue: AsyncSpanQueue, spans: int) -> bool:
    """Whether its first destination has taken so many."""
    return queue.stats().destinations[0].accepted >= spans


def flaky(request: Request) -> Answer:
    """Every fourth request fails, in turn in four ways."""
    kinds = [faults.status(503), faults.lose_reply(), faults.status(422), faults.status(429)]
    return kinds[request.number // 4 % 4] if request.number % 4 == 0 else faults.ok()


@pytest.mark.usefixtures("pipeline_at_rest")
# A send that is cancelled while it connects may leave the HTTP library's socket to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", [1, 2])
def test_any_schedule_of_calls_explains_every_span_and_leaves_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P2, P4: configure, flush and shutdown at random while threads record on dying loops."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)
    draw = random.Random(seed)
    queues: list[AsyncSpanQueue] = []
    errors: list[BaseException] = []
    over = threading.Event()

    class Hostile(AsyncTracingProcessor):
        async def on_span_start(self, span: Span) -> None:
            """Nothing."""

        async def on_span_end(self, span: Span) -> None:
            if draw.random() < 0.2:
                raise draw.choice([ValueError(), SystemExit(), asyncio.CancelledError()])

    def steer() -> None:
        for _ in range(25):
            everyspan.configure(
                everyspan.SGPTracingProcessorConfig("k", "a", backend.base_url),
                InMemoryTracingProcessor(),
                Hostile(),
                linger_ms=draw.choice([0, 1, 5]),
                start_delay_ms=draw.choice([None, 0, 1]),
            )
            queue = pipeline.current().queue
            queues.append(queue)
            wanted = draw.randrange(1, 200)
            wait_until(partial(has_accepted, queue, wanted))
            step = draw.choice([everyspan.flush, everyspan.shutdown, None])
            if step is not None:
                step(draw.random() * 0.03)

    async def request() -> None:
        for _ in range(draw.randrange(5)):
            with everyspan.span("outer", input={"n": [1]}), everyspan.span("inner"):
                pass
            if draw.random() < 0.3:
                await asyncio.sleep(0)

    def record() -> None:
        while not over.is_set():
            if draw.random() < 0.3:
                asyncio.run(request())
            with everyspan.span("plain"):
                everyspan.stats()

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    with FaultServer(flaky) as backend:
        recorders = [threading.Thread(target=guarded, args=(record,)) for _ in range(2)]
        steering = threading.Thread(target=guarded, args=(steer,))
        for thread in (*recorders, steering):
            thread.start()
        steering.join(60)
        over.set()
        for thread in recorders:
            thread.join(10)
        assert errors == []
        everyspan.shutdown(10)
        for queue in queues:
            wait_until(partial(is_at_rest, queue))
            assert queue.stats().residual == 0
        # Homes are let go of, no task and no hook stays.
        wait_until(lambda: not any(t.name == "everyspan-Hostile" for t in threading.enumerate()))
        wait_until(lambda: not asyncio.all_tasks(exporter_home().loop))
        assert not {id(queue) for queue in queues} & exits._queues.keys()
    # Here, where it is expected, and not in the middle of another test.
    gc.collect()


def test_a_processor_registered_again_is_not_shut_down(pipeline_at_rest: None) -> None:
    """The queue that used it before ends; the processor goes on."""

    class Watched(Recorder):
        was_shut_down = False

        async def shutdown(self) -> None:
            self.was_shut_down = True

    watched = Watched()
    everyspan.configure(watched)
    with everyspan.span("first"):
        pass
    before = everyspan.get_default_span_queue()
    everyspan.configure(watched)
    wait_until(lambda: before._is_over)
    with everyspan.span("second"):
        pass
    assert everyspan.flush(5)
    assert not watched.was_shut_down
    assert everyspan.shutdown(5)
    wait_until(lambda: watched.was_shut_down)


def test_a_blocked_destination_delays_no_other_that_sleeps() -> None:
    """P5: a span for the blocked one alone promises nothing for the others."""
    release = threading.Event()

    class Blocking(SyncTracingProcessor):
        def on_span_start(self, span: Span) -> None:
            pass

        def on_span_end(self, span: Span) -> None:
            release.wait(20)

    queue = AsyncSpanQueue(own_homes=True, linger_ms=0)
    blocking, memory = Blocking(), InMemoryTracingProcessor()
    try:
        queue.enqueue("end", make_span("warm"), [memory])
        wait_until(lambda: len(memory.spans) == 1)
        queue.enqueue("end", make_span("b0"), [blocking])
        wait_until(lambda: queue.stats().destinations[1].in_flight == 1)
        queue.enqueue("end", make_span("b1"), [blocking])
        queue.enqueue("end", make_span("a"), [memory])
        wait_until(lambda: len(memory.spans) == 2)
    finally:
        release.set()
    assert queue.shutdown_sync(10)


def test_a_replaced_pipeline_is_flushed_and_counted_too(pipeline_at_rest: None) -> None:
    """P1: what `configure` replaced still holds spans, and says so until it does not."""
    with FaultServer(faults.hang()) as backend:
        everyspan.configure(
            everyspan.SGPTracingProcessorConfig("k", "a", backend.base_url), linger_ms=0
        )
        with everyspan.span("old"):
            pass
        wait_until(lambda: everyspan.stats().destinations[0].in_flight == 1)
        everyspan.configure(InMemoryTracingProcessor())
        assert [d.name for d in everyspan.stats().destinations] == ["memory", "sgp"]
        assert everyspan.flush(0.1).left["sgp"] == {"no answer yet": 1}
        assert everyspan.shutdown(0.1).left["sgp"] == {"no answer yet": 1}
    wait_until(lambda: [d.name for d in everyspan.stats().destinations] == ["memory"])


def test_a_runner_that_stumbles_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1, P5: a defect of ours, or no memory, must not leave a lane asleep for good."""
    monkeypatch.setattr("everyspan.delivery.lane.RESTART_S", 0.0)
    queue, memory = AsyncSpanQueue(own_homes=True, linger_ms=0), InMemoryTracingProcessor()
    lane = queue.lane(memory)
    decide, failures = lane._decide, iter([MemoryError(), MemoryError()])

    def stumbling(now_s: float) -> object:
        for failure in failures:
            raise failure
        return decide(now_s)

    monkeypatch.setattr(lane, "_decide", stumbling)
    queue.enqueue("end", make_span("a"), [memory])
    wait_until(lambda: len(memory.spans) == 1)
    assert queue.shutdown_sync(10)


def test_a_span_that_cannot_be_taken_in_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1, P5: it counts as dropped."""
    queue, memory = AsyncSpanQueue(own_homes=True, linger_ms=0), InMemoryTracingProcessor()
    end = queue._intake._parts.end

    def failing(record: SpanRecord) -> None:
        if record.id == "bad":
            raise MemoryError
        end(record)

    monkeypatch.setattr(queue._intake._parts, "end", failing)
    for name in ("a", "bad", "b"):
        queue.enqueue("end", make_span(name), [memory])
    assert queue.flush_sync(10).left["memory"] == {"defect of everyspan": 1}
    assert (len(memory.spans), queue.stats().residual) == (2, 0)
    assert queue.shutdown_sync(10)


def test_where_no_thread_can_be_started_the_next_span_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P2: the agent's thread never does the sending while the process lives."""
    queue, recorder = AsyncSpanQueue(own_homes=True, linger_ms=0), Recorder()
    with monkeypatch.context() as patch:
        patch.setattr("everyspan.home.ThreadHome.start", lambda home: False)
        queue.enqueue("end", make_span("a"), [recorder])
    assert recorder.ended == []
    queue.enqueue("end", make_span("b"), [recorder])
    wait_until(lambda: recorder.ended == ["a", "b"])
    assert queue.shutdown_sync(10)


def test_a_handler_that_makes_a_span_of_every_log_line_begins_no_home_within_a_home() -> None:
    """P2: asyncio logs that it makes a loop, while the first span waits for that loop."""
    queue, recorder = AsyncSpanQueue(own_homes=True, linger_ms=0), Recorder()
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            queue.enqueue("end", make_span(f"line {len(lines)}"), [recorder])

    handler, logger = Handler(), logging.getLogger("asyncio")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        queue.enqueue("end", make_span("a"), [recorder])
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(lines) == 1, "asyncio logs no loops any more"
    wait_until(lambda: sorted(recorder.ended) == ["a", "line 1"])
    assert queue.shutdown_sync(10)


def test_what_is_no_span_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="span must be a Span, got 'a'"):
        AsyncSpanQueue().enqueue("end", "a", [])  # type: ignore[arg-type]


def test_a_flush_that_waits_takes_nobody_elses_linger() -> None:
    """Spans that come while somebody waits for older ones travel in company as ever."""
    with FaultServer([faults.hang(), faults.ok()]) as backend:
        queue = AsyncSpanQueue(linger_ms=60_000, batch_size=10, own_homes=True)
        processor = everyspan.SGPAsyncTracingProcessor(
            everyspan.SGPTracingProcessorConfig("k", "a", backend.base_url)
        )
        queue.enqueue("end", make_span("stuck"), [processor])
        waiting = threading.Thread(target=queue.flush_sync, args=(5,))
        waiting.start()
        wait_until(lambda: queue.stats().destinations[0].in_flight == 1)
        for number in range(10):
            queue.enqueue("end", make_span(f"s{number}"), [processor])
            queue.stats()
        wait_until(lambda: queue.stats().destinations[0].delivered == 10)
        assert [len(request.spans) for request in backend.requests[1:]] == [10]
    waiting.join(20)
    queue.shutdown_sync(0.1)
