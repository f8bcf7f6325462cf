"""The queue with users' processors, beyond what the original's own assertions say of it.

Those are in tests/compat/test_originals_rules.py.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest

from everyspan.config import load_settings
from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError
from everyspan.model.record import snapshot_span
from everyspan.model.span import Span, SpanEventType, SpanStatus
from everyspan.processors.base import AsyncTracingProcessor, SyncTracingProcessor
from everyspan.processors.memory import InMemoryTracingProcessor
from everyspan.queue.span_queue import AsyncSpanQueue
from tests.records import make_span
from tests.waiting import settle, until, wait_until

START, END = SpanEventType.START, SpanEventType.END

Batched = Callable[[Sequence[Span]], Awaitable[None]]


def batched(on_start: Batched | None = None, on_end: Batched | None = None) -> AsyncMock:
    """A processor as the original's tests make it: a mock with batch methods."""
    processor = AsyncMock()
    processor.on_spans_start = AsyncMock(side_effect=on_start)
    processor.on_spans_end = AsyncMock(side_effect=on_end)
    return processor


def holds(things: Sequence[object], count: int) -> bool:
    """Whether there are that many."""
    return len(things) == count


class Recorder(AsyncTracingProcessor):
    """Remembers each event of each span."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.spans: list[Span] = []

    async def on_span_start(self, span: Span) -> None:
        self.log.append(("start", span.id))
        self.spans.append(span)

    async def on_span_end(self, span: Span) -> None:
        self.log.append(("end", span.id))
        self.spans.append(span)


class StatusError(Exception):
    """As an HTTP client's error."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        super().__init__(f"HTTP {status_code}")


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once: the draw of the jitter is 0."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)


async def test_start_comes_before_end_and_all_starts_before_any_end() -> None:
    """trace:Q2, Q3."""
    recorder = Recorder()
    queue = AsyncSpanQueue()
    for id in ("a", "b"):
        queue.enqueue(START, make_span(id), [recorder])
        queue.enqueue(END, make_span(id), [recorder])
    assert await queue.shutdown()
    assert recorder.log == [("start", "a"), ("start", "b"), ("end", "a"), ("end", "b")]


async def test_an_end_waits_for_the_start_of_its_span_across_batches() -> None:
    """trace:Q4: with concurrency on."""
    log: list[str] = []
    release, started = asyncio.Event(), asyncio.Event()

    async def on_start(spans: Sequence[Span]) -> None:
        started.set()
        await release.wait()
        log.append("start")

    async def on_end(spans: Sequence[Span]) -> None:
        log.append("end of " + spans[0].id)

    queue = AsyncSpanQueue(batch_size=1, linger_ms=0, concurrency=4)
    processor = batched(on_start, on_end)
    queue.enqueue(START, make_span("a"), [processor])
    await asyncio.wait_for(started.wait(), 10)
    queue.enqueue(END, make_span("a"), [processor])
    # D29: another span does not wait.
    queue.enqueue(END, make_span("b"), [processor])
    await until(lambda: log == ["end of b"])
    release.set()
    assert await queue.shutdown()
    assert log == ["end of b", "start", "end of a"]


async def test_a_processor_error_does_not_stop_the_drain() -> None:
    """trace:Q5: through the single-span methods, which fail for one span of two."""
    calls: list[str] = []

    class Failing(Recorder):
        async def on_span_start(self, span: Span) -> None:
            calls.append(span.id)
            if len(calls) == 1:
                raise RuntimeError("simulated")

    queue = AsyncSpanQueue(linger_ms=0)
    failing = Failing()
    queue.enqueue(START, make_span("a"), [failing])
    queue.enqueue(START, make_span("b"), [failing])
    queue.enqueue(END, make_span("c"), [failing])
    await queue.shutdown()
    assert calls == ["a", "b"]
    assert failing.log == [("end", "c")]
    assert queue.dropped_spans == 1
    assert queue.stats().residual == 0


async def test_shutdown_drains_what_waits() -> None:
    """trace:Q6: five of five, without sitting out the linger (trace:D11)."""
    recorder = Recorder()
    queue = AsyncSpanQueue(linger_ms=60_000)
    for number in range(5):
        queue.enqueue(START, make_span(f"s{number}"), [recorder])
    assert await queue.shutdown(timeout=10)
    assert [id for _, id in recorder.log] == [f"s{number}" for number in range(5)]


async def test_shutdown_returns_at_its_deadline_and_counts_what_was_left() -> None:
    """trace:Q7, D10: a stuck processor."""
    started = asyncio.Event()

    async def stuck(spans: Sequence[Span]) -> None:
        started.set()
        await asyncio.Event().wait()

    queue = AsyncSpanQueue(batch_size=1, linger_ms=0, concurrency=1)
    processor = batched(on_end=stuck)
    for _ in range(3):
        queue.enqueue(END, make_span(), [processor])
    await asyncio.wait_for(started.wait(), 10)
    before_s = time.monotonic()
    result = await queue.shutdown(timeout=0.1)
    assert time.monotonic() - before_s < 1.0
    assert not result
    (left,) = result.left.values()
    assert dict(left) == {"no answer yet": 1, "not sent yet": 2}
    (stats,) = queue.stats().destinations
    assert dict(stats.dropped) == {"shutdown": 3}
    assert stats.residual == 0


async def test_enqueue_after_shutdown_is_dropped_and_counted() -> None:
    """trace:Q8: silently for the caller; the processor is never called."""
    recorder = Recorder()
    queue = AsyncSpanQueue()
    assert await queue.shutdown()
    queue.enqueue(START, make_span("a"), [recorder])
    queue.enqueue(END, make_span("a"), [recorder])
    await settle()
    assert recorder.log == []
    assert queue.dropped_spans == 2
    assert dict(queue.stats().destinations[0].dropped) == {"shutdown": 1}
    assert await queue.shutdown(), "a second shutdown is fine"


async def test_ends_alone_are_one_call() -> None:
    """trace:Q10."""
    processor = batched()
    queue = AsyncSpanQueue()
    for number in range(5):
        queue.enqueue(END, make_span(f"s{number}"), [processor])
    assert await queue.shutdown()
    (call,) = processor.on_spans_end.call_args_list
    assert [span.id for span in call.args[0]] == [f"s{number}" for number in range(5)]
    processor.on_spans_start.assert_not_called()


@pytest.mark.parametrize(("linger_ms", "calls"), [(60_000, 1), (0, 3)])
async def test_the_linger_decides_whether_staggered_spans_travel_together(
    linger_ms: int, calls: int
) -> None:
    """trace:Q12, Q13: with a linger one call, in order; without, one for each."""
    received: list[list[str]] = []

    async def capture(spans: Sequence[Span]) -> None:
        received.append([span.id for span in spans])

    processor = batched(capture)
    queue = AsyncSpanQueue(linger_ms=linger_ms)
    for number in range(3):
        queue.enqueue(START, make_span(f"s{number}"), [processor])
        if not linger_ms:
            await until(partial(holds, received, number + 1))
        await settle()
    assert await queue.shutdown()
    assert len(received) == calls
    assert [id for call in received for id in call] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("event", [START, END])
async def test_a_full_queue_drops_the_newest_and_counts_them(event: SpanEventType) -> None:
    """trace:Q15: of four, one in flight, one waits, two dropped."""
    release, started = asyncio.Event(), asyncio.Event()

    async def block(spans: Sequence[Span]) -> None:
        started.set()
        await release.wait()

    processor = batched(block, block)
    queue = AsyncSpanQueue(max_size=1, linger_ms=0, concurrency=1)
    queue.enqueue(event, make_span("s0"), [processor])
    await asyncio.wait_for(started.wait(), 10)
    for number in range(1, 4):
        queue.enqueue(event, make_span(f"s{number}"), [processor])
    assert queue.dropped_spans == 2
    assert queue.depth == 1
    if event is END:
        assert dict(queue.stats().destinations[0].dropped) == {"queue full": 2}
    assert queue.stats().residual == 0
    release.set()
    await queue.shutdown()
    calls = processor.on_spans_start.call_args_list + processor.on_spans_end.call_args_list
    assert [span.id for call in calls for span in call.args[0]] == ["s0", "s1"]


@pytest.mark.parametrize("event", [START, END])
@pytest.mark.parametrize(
    ("failures", "attempts", "drops"),
    [
        ([503], 2, 0),
        ([503] * 9, 3, 1),
        ([429, 500], 3, 0),
        ([502, 504, 504], 3, 1),
        ([401], 1, 1),
        ([408], 1, 1),
        ([None], 1, 1),
    ],
)
async def test_what_is_tried_again(
    event: SpanEventType, failures: list[int | None], attempts: int, drops: int
) -> None:
    """trace:Q17, Q18, Q25 with `max_retries=3`: 429 and 500, 502-504 are; nothing else is."""
    tried = 0

    async def fail(spans: Sequence[Span]) -> None:
        nonlocal tried
        tried += 1
        if tried <= len(failures):
            status = failures[tried - 1]
            raise RuntimeError("a bug") if status is None else StatusError(status)

    queue = AsyncSpanQueue(max_retries=3, linger_ms=0)
    queue.enqueue(event, make_span(), [batched(fail, fail)])
    await queue.shutdown()
    assert tried == attempts
    assert queue.dropped_spans == drops
    assert queue.stats().residual == 0


async def test_a_failing_processor_drops_both_events_of_a_span() -> None:
    """trace:Q28: START and END count twice, once for each failing processor.

    The books count spans.
    """

    async def fail(spans: Sequence[Span]) -> None:
        raise RuntimeError

    queue = AsyncSpanQueue(linger_ms=0)
    failing = [batched(fail, fail), batched(fail, fail)]
    recorder = Recorder()
    queue.enqueue(START, make_span("a"), [*failing, recorder])
    queue.enqueue(END, make_span("a"), [*failing, recorder])
    await queue.shutdown()
    assert queue.dropped_spans == 4
    assert [d.dropped_total for d in queue.stats().destinations] == [1, 1, 0]
    assert recorder.log == [("start", "a"), ("end", "a")]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_calls_in_flight_reach_but_never_exceed_the_concurrency(concurrency: int) -> None:
    """trace:Q19: and with one, they are serial."""
    now = most = 0
    release = asyncio.Event()

    async def slow(spans: Sequence[Span]) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        await settle(3)
        now -= 1

    queue = AsyncSpanQueue(batch_size=1, linger_ms=0, concurrency=concurrency)
    processor = batched(slow)
    for _ in range(12):
        queue.enqueue(START, make_span(), [processor])
    await until(lambda: now == concurrency)
    await settle()
    release.set()
    assert await queue.shutdown()
    assert processor.on_spans_start.call_count == 12
    assert most == concurrency


async def test_eight_calls_at_once_take_less_than_half_the_serial_time() -> None:
    """trace:Q19: counted in rounds, not seconds: eight calls need two rounds."""
    rounds = 0
    waiting: list[asyncio.Future[None]] = []

    async def slow(spans: Sequence[Span]) -> None:
        waiting.append(asyncio.get_running_loop().create_future())
        await waiting[-1]

    queue = AsyncSpanQueue(batch_size=1, linger_ms=0, concurrency=8)
    processor = batched(slow)
    for _ in range(8):
        queue.enqueue(START, make_span(), [processor])
    shutdown = asyncio.ensure_future(queue.shutdown())
    while not shutdown.done():
        await until(lambda: waiting or shutdown.done())
        await settle()
        rounds += bool(waiting)
        for future in waiting:
            future.set_result(None)
        waiting.clear()
        await settle()
    assert rounds < 4


async def test_what_the_agent_does_later_does_not_show() -> None:
    """trace:Q21, Q29: START carries the input as at start, END as at end."""
    recorder = Recorder()
    queue = AsyncSpanQueue()
    span = make_span("a", input={"messages": ["hello"]})
    queue.enqueue(START, span, [recorder])
    span.input["messages"].append("hi")
    span.output = {"answer": 1}
    queue.enqueue(END, span, [recorder])
    span.input["messages"].append("later")
    span.output["answer"] = 2
    assert await queue.shutdown()
    first, last = recorder.spans
    assert (first.input, first.output, first.end_time) == ({"messages": ["hello"]}, None, None)
    assert (last.input, last.output) == ({"messages": ["hello", "hi"]}, {"answer": 1})
    assert last.end_time == span.end_time


async def test_the_depth_counts_what_waits() -> None:
    """`depth`: events that wait for their first try, at the fullest destination."""
    queue = AsyncSpanQueue(linger_ms=60_000)
    recorder = Recorder()
    assert queue.depth == 0
    for number in range(3):
        queue.enqueue(START, make_span(f"s{number}"), [recorder])
    assert queue.depth == 3
    await queue.shutdown()
    assert queue.depth == 0


async def test_a_queue_of_numbers_below_the_minimum_works() -> None:
    """trace:V2: raised to it."""
    queue = AsyncSpanQueue(batch_size=0, linger_ms=-5, max_size=-1, max_retries=0, concurrency=0)
    recorder = Recorder()
    queue.enqueue(END, make_span("a"), [recorder])
    assert await queue.shutdown()
    assert recorder.log == [("end", "a")]
    assert queue.max_size == 0


async def test_spans_beyond_the_byte_budget_are_refused_with_that_reason() -> None:
    """P4: one budget for all that is held, given back as it is delivered."""
    release = asyncio.Event()

    async def block(spans: Sequence[Span]) -> None:
        await release.wait()

    processor = batched(on_end=block)
    queue = AsyncSpanQueue(settings=load_settings(linger_ms=0, byte_budget=1 << 20))
    large = "x" * (300 << 10)
    for number in range(5):
        span = make_span(f"s{number}", output=large, data={"usage": {"input_tokens": 1}})
        queue.enqueue(END, span, [processor])
    (stats,) = queue.stats().destinations
    assert dict(stats.dropped) == {"byte budget": 2}
    assert (stats.queued + stats.in_flight, stats.residual) == (3, 0)
    assert 3 * len(large) < queue.stats().bytes_held <= 1 << 20
    release.set()
    assert not await queue.flush(10), "spans were lost since the last flush"
    for number in range(3):
        queue.enqueue(END, make_span(f"t{number}", output=large), [processor])
    assert await queue.shutdown(10)
    assert queue.stats().destinations[0].delivered == 6
    assert queue.stats().bytes_held == 0


async def test_starts_give_their_bytes_back_too() -> None:
    """P4: whether written, made needless by their END, repeated or abandoned."""
    memory = _memory()
    queue = AsyncSpanQueue(settings=load_settings(linger_ms=0, start_delay_ms=60_000))
    span = make_span("a", input="x" * 1000)
    queue.enqueue(START, span, [memory])
    queue.enqueue(START, span, [memory])
    queue.enqueue(END, span, [memory])
    queue.enqueue(START, make_span("open", input="x" * 1000), [memory])
    assert await queue.flush(10)
    assert await queue.shutdown(10)
    assert queue._intake.bytes_held == 0
    assert [span.id for span in memory.spans] == ["a"]


async def test_a_span_that_ends_while_another_is_written_as_open_is_not_written_after() -> None:
    """K3: no START lands after its END, though the queue ends meanwhile."""
    written: list[tuple[str, str]] = []

    class Writer(InMemoryTracingProcessor):
        async def export(self, batch: Batch) -> Mapping[int, ExportError]:
            written.extend(("end" if r.is_end else "start", r.id) for r in batch.records)
            return {}

    class Slow:
        def __repr__(self) -> str:
            queue.enqueue(END, late, [writer])
            return "x"

    writer = Writer()
    queue = AsyncSpanQueue(linger_ms=0)
    late = make_span("late")
    queue.begin(make_span("open", input=Slow()), (queue.lane(writer),))
    queue.begin(late, (queue.lane(writer),))
    await queue.shutdown(10)
    assert sorted(written) == [("end", "late"), ("start", "open")]


def _memory() -> Any:
    from everyspan.processors.memory import InMemoryTracingProcessor

    return InMemoryTracingProcessor()


async def test_a_hung_processor_holds_back_no_other() -> None:
    """trace:D9: the healthy one beside it gets all thousand."""

    async def stuck(spans: Sequence[Span]) -> None:
        await asyncio.Event().wait()

    hung, healthy = batched(stuck, stuck), Recorder()
    queue = AsyncSpanQueue(linger_ms=0, batch_size=10)
    for number in range(1000):
        queue.enqueue(END, make_span(f"s{number}"), [hung, healthy])
    await until(lambda: len(healthy.log) == 1000)
    await queue.shutdown(0)


async def test_a_hung_destination_takes_no_room_from_the_others() -> None:
    """P4, P5: it fills its own share of the budget, and what comes then is its loss alone."""

    async def stuck(spans: Sequence[Span]) -> None:
        await asyncio.Event().wait()

    hung, healthy = batched(stuck, stuck), Recorder()
    queue = AsyncSpanQueue(settings=load_settings(linger_ms=0, byte_budget=1 << 20))
    for number in range(100):
        span = make_span(f"s{number}", input="x" * 49_978, output={"usage": {}})
        queue.enqueue(END, span, [hung, healthy])
        await until(lambda: len(healthy.log) == number + 1)  # noqa: B023 - called at once
    first, second = queue.stats().destinations
    assert first.dropped["byte budget"] == 100 - (1 << 19) // 50_592
    assert (second.delivered, second.dropped_total) == (100, 0)
    await queue.shutdown(0)


def test_a_sync_processor_runs_on_a_thread_of_its_own() -> None:
    """trace:D24: never on the agent's."""
    threads: set[int] = set()
    seen: list[tuple[str, str]] = []

    class Sync(SyncTracingProcessor):
        def on_span_start(self, span: Span) -> None:
            threads.add(threading.get_ident())
            seen.append(("start", span.id))

        def on_span_end(self, span: Span) -> None:
            seen.append(("end", span.id))
            raise StatusError(401)

    queue = AsyncSpanQueue(linger_ms=0)
    queue.enqueue(START, make_span("a"), [sync := Sync()])
    queue.enqueue(END, make_span("a"), [sync])
    assert not queue.shutdown_sync(10)
    assert seen == [("start", "a"), ("end", "a")]
    assert threading.get_ident() not in threads
    assert dict(queue.stats().destinations[0].dropped) == {"StatusError": 1}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_processor_that_raises_what_ends_programs_costs_only_its_span(
    error: BaseException,
) -> None:
    """P5, trace:D8, D23: counted, and its thread goes on."""

    class Hostile(Recorder):
        async def on_span_end(self, span: Span) -> None:
            if span.id == "bad":
                raise error
            await super().on_span_end(span)

    queue, hostile = AsyncSpanQueue(linger_ms=0), Hostile()
    for name in ("a", "bad", "b"):
        queue.enqueue(END, make_span(name), [hostile])
        wait_until(lambda: not queue.stats().destinations[0].queued)
    assert not queue.shutdown_sync(10)
    assert [id for _, id in hostile.log] == ["a", "b"]
    (stats,) = queue.stats().destinations
    assert dict(stats.dropped) == {type(error).__name__: 1}
    assert stats.residual == 0


def test_settings_are_read_when_a_queue_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """trace:V4."""
    monkeypatch.setenv("AGENTEX_SPAN_QUEUE_MAX_SIZE", "7")
    queue = AsyncSpanQueue()
    monkeypatch.setenv("AGENTEX_SPAN_QUEUE_MAX_SIZE", "9")
    assert (queue.max_size, AsyncSpanQueue().max_size) == (7, 9)


async def test_flushes_at_once_all_hear_of_a_loss() -> None:
    """P1: each of them promised its caller an answer; the next one starts afresh."""
    release, started = asyncio.Event(), asyncio.Event()

    async def fail(spans: Sequence[Span]) -> None:
        started.set()
        await release.wait()
        raise RuntimeError

    queue = AsyncSpanQueue(linger_ms=0)
    queue.enqueue(END, make_span(), [batched(on_end=fail)])
    await asyncio.wait_for(started.wait(), 10)
    flushes = [asyncio.ensure_future(queue.flush(10)) for _ in range(2)]
    await settle()
    release.set()
    for result in await asyncio.gather(*flushes):
        assert {name: dict(left) for name, left in result.left.items()} == {
            "AsyncMock": {"RuntimeError": 1}
        }
    assert await queue.flush(10)
    await queue.shutdown(10)


async def test_a_destination_that_comes_during_a_flush_is_flushed_later() -> None:
    """P4: within its deadline, not after the linger."""
    release, started = asyncio.Event(), asyncio.Event()

    async def slow(spans: Sequence[Span]) -> None:
        started.set()
        await release.wait()

    queue = AsyncSpanQueue(linger_ms=60_000)
    queue.enqueue(END, make_span(), [batched(on_end=slow)])
    first = asyncio.ensure_future(queue.flush(10))
    await asyncio.wait_for(started.wait(), 10)
    recorder = Recorder()
    queue.enqueue(END, make_span("a"), [recorder])
    release.set()
    assert await first
    assert await queue.flush(10)
    assert recorder.log == [("end", "a")]
    await queue.shutdown(10)


async def test_shutdowns_at_once_all_hear_what_was_given_up() -> None:
    """P1: by one of them; what came only afterwards is no loss of theirs."""
    started = asyncio.Event()

    async def stuck(spans: Sequence[Span]) -> None:
        started.set()
        await asyncio.Event().wait()

    queue = AsyncSpanQueue(linger_ms=0)
    processor = batched(on_end=stuck)
    queue.enqueue(END, make_span(), [processor])
    await asyncio.wait_for(started.wait(), 10)
    shutdowns = [asyncio.ensure_future(queue.shutdown(timeout)) for timeout in (0.05, 0.1)]
    await settle()
    queue.enqueue(END, make_span(), [processor])
    first, second = await asyncio.gather(*shutdowns)
    assert {name: dict(left) for name, left in first.left.items()} == {
        "AsyncMock": {"no answer yet": 1}
    }
    assert {name: dict(left) for name, left in second.left.items()} == {
        "AsyncMock": {"shutdown": 1}
    }
    assert await queue.shutdown(), "nothing more was lost"
    assert await queue.flush(), "nor is it told again"


async def test_a_status_that_is_none_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """P4: the span is recorded all the same; its value, which may be anything, is not shown."""
    memory = _memory()
    queue = AsyncSpanQueue(settings=load_settings(linger_ms=0))
    for status in ("FAILED", "FAILED", "error", SpanStatus.CANCELED):
        span = make_span()
        span.status = status
        record = snapshot_span(span, is_end=True, offered_s=time.monotonic())
        queue.offer(record, (queue.lane(memory),), span)
    assert await queue.shutdown(10)
    assert [span.status for span in memory.spans] == ["SUCCESS", "SUCCESS", "ERROR", "CANCELED"]
    assert caplog.messages == [
        "a span's status is none of SUCCESS, ERROR, CANCELED: it is recorded as SUCCESS"
    ]
