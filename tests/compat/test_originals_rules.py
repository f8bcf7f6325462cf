"""What the original's own tests assert, in their manner: only where names come from differs.

Every test here passes with the original too (`test_the_original.py` runs them there), so none of
them asks for more than the original gave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock

from everyspan.testing import FaultServer
from tests.compat.names import AGENT, environment, make_span

Call = Callable[[list[Any]], Awaitable[None]]


class StatusError(Exception):
    """As an HTTP client's error."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        super().__init__(f"Error code: {status_code}")


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def batched(on_start: Call | None = None, on_end: Call | None = None) -> AsyncMock:
    """A processor with batch methods."""
    processor = AsyncMock()
    processor.on_spans_start = AsyncMock(side_effect=on_start)
    processor.on_spans_end = AsyncMock(side_effect=on_end)
    return processor


def recording() -> tuple[AsyncMock, list[tuple[str, list[str]]]]:
    """A processor and the calls it got: the event and the ids."""
    calls: list[tuple[str, list[str]]] = []

    async def on_start(spans: list[Any]) -> None:
        calls.append(("start", [span.id for span in spans]))

    async def on_end(spans: list[Any]) -> None:
        calls.append(("end", [span.id for span in spans]))

    return batched(on_start, on_end), calls


async def test_enqueue_returns_while_the_processor_is_at_work(sdk: Any) -> None:
    """trace:Q1."""
    release, done = asyncio.Event(), asyncio.Event()

    async def slow(spans: list[Any]) -> None:
        await release.wait()
        done.set()

    queue = sdk.AsyncSpanQueue()
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [batched(slow)])
    assert not done.is_set()
    release.set()
    await queue.shutdown()
    assert done.is_set()


async def test_all_starts_of_a_batch_come_before_its_ends(sdk: Any) -> None:
    """trace:Q2, Q3, Q10, Q11: one call each, in the order of enqueueing."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue()
    for id in ("a", "b", "c"):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, id), [processor])
        queue.enqueue(sdk.SpanEventType.END, make_span(sdk, id), [processor])
    await queue.shutdown()
    assert calls == [("start", ["a", "b", "c"]), ("end", ["a", "b", "c"])]


async def test_an_end_waits_for_its_start_across_batches(sdk: Any) -> None:
    """trace:Q4."""
    log: list[str] = []
    started, release = asyncio.Event(), asyncio.Event()

    async def on_start(spans: list[Any]) -> None:
        started.set()
        await release.wait()
        log.append("start")

    async def on_end(spans: list[Any]) -> None:
        log.append("end")

    processor = batched(on_start, on_end)
    queue = sdk.AsyncSpanQueue(linger_ms=0, concurrency=4)
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [processor])
    await started.wait()
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk), [processor])
    for _ in range(20):
        await asyncio.sleep(0)
    assert log == []
    release.set()
    await queue.shutdown()
    assert log == ["start", "end"]


async def test_an_error_does_not_stop_the_drain(sdk: Any) -> None:
    """trace:Q5."""
    seen: list[str] = []

    async def on_start(spans: list[Any]) -> None:
        seen.extend(span.id for span in spans)
        if len(seen) == 1:
            raise RuntimeError("simulated")

    processor = batched(on_start)
    queue = sdk.AsyncSpanQueue(batch_size=1, linger_ms=0)
    for id in ("a", "b"):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, id), [processor])
    await queue.shutdown()
    assert seen == ["a", "b"]


async def test_shutdown_drains(sdk: Any) -> None:
    """trace:Q6."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue()
    for number in range(5):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
    await queue.shutdown()
    assert calls == [("start", ["s0", "s1", "s2", "s3", "s4"])]


async def test_shutdown_returns_though_a_processor_is_stuck(sdk: Any) -> None:
    """trace:Q7: at its own deadline, long before this one."""

    async def stuck(spans: list[Any]) -> None:
        await asyncio.Event().wait()

    queue = sdk.AsyncSpanQueue(linger_ms=0)
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [batched(stuck)])
    await asyncio.wait_for(queue.shutdown(timeout=0.1), 10)


async def test_enqueue_after_shutdown_is_dropped(sdk: Any) -> None:
    """trace:Q8."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue()
    await queue.shutdown()
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [processor])
    await asyncio.sleep(0)
    assert (calls, queue.dropped_spans) == ([], 1)


async def test_single_span_methods_run_at_once(sdk: Any) -> None:
    """trace:Q9, I1."""
    together = asyncio.Barrier(10)

    class Meeting(sdk.AsyncTracingProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        async def on_span_start(self, span: Any) -> None:
            await together.wait()

        async def on_span_end(self, span: Any) -> None: ...

        async def shutdown(self) -> None: ...

    queue, meeting = sdk.AsyncSpanQueue(), Meeting()
    for number in range(10):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [meeting])
    await queue.shutdown(timeout=10)
    assert queue.dropped_spans == 0


async def test_one_failure_of_many_is_logged_with_its_span(sdk: Any) -> None:
    """trace:I1: not raised, and the others run; an empty list is fine."""
    ran: list[str] = []

    class Failing(sdk.AsyncTracingProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        async def on_span_start(self, span: Any) -> None: ...

        async def on_span_end(self, span: Any) -> None:
            ran.append(span.id)
            if span.id == "b":
                raise ValueError("bad span")

        async def shutdown(self) -> None: ...

    kept = Kept(logging.ERROR)
    names = ["everyspan", "agentex.lib.core.tracing.processors.tracing_processor_interface"]
    for name in names:
        logging.getLogger(name).addHandler(kept)
    try:
        await Failing().on_spans_end([])
        await Failing().on_spans_end([make_span(sdk, id) for id in "abc"])
    finally:
        for name in names:
            logging.getLogger(name).removeHandler(kept)
    assert ran == ["a", "b", "c"]
    assert [record.getMessage().split()[-1] for record in kept.records] == ["b"]


async def test_the_linger_makes_one_call_of_staggered_spans(sdk: Any) -> None:
    """trace:Q12, Q24."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue(linger_ms=1000)
    for number in range(3):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
        await asyncio.sleep(0.005)
    await queue.shutdown()
    assert calls == [("start", ["s0", "s1", "s2"])]


async def test_without_a_linger_each_travels_alone(sdk: Any) -> None:
    """trace:Q13."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue(linger_ms=0)
    for number in range(3):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
        while len(calls) <= number:
            await asyncio.sleep(0)
    await queue.shutdown()
    assert calls == [("start", ["s0"]), ("start", ["s1"]), ("start", ["s2"])]


async def test_no_batch_exceeds_its_size(sdk: Any) -> None:
    """trace:Q14."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue(batch_size=3, concurrency=1)
    for number in range(7):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
    await queue.shutdown()
    assert [len(ids) for _, ids in calls] == [3, 3, 1]


async def test_a_full_queue_drops_and_counts(sdk: Any) -> None:
    """trace:Q15."""
    started, release = asyncio.Event(), asyncio.Event()

    async def block(spans: list[Any]) -> None:
        started.set()
        await release.wait()

    processor = batched(block)
    queue = sdk.AsyncSpanQueue(max_size=1, linger_ms=0, concurrency=1)
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk, "s0"), [processor])
    await started.wait()
    for number in range(1, 4):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
    assert (queue.dropped_spans, queue.depth) == (2, 1)
    release.set()
    await queue.shutdown()


async def test_nothing_is_dropped_under_normal_load(sdk: Any) -> None:
    """trace:Q16."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue()
    for number in range(300):
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
    await queue.shutdown()
    assert (queue.dropped_spans, sum(len(ids) for _, ids in calls)) == (0, 300)


async def test_transient_failures_are_tried_again_others_not(sdk: Any) -> None:
    """trace:Q17, Q18, Q25, with `max_retries=3`: attempts and drops."""
    outcomes = {}
    errors: dict[str, list[Exception]] = {
        "503, then none": [StatusError(503)],
        "always 503": [StatusError(503)] * 9,
        "401": [StatusError(401)],
        "408": [StatusError(408)],
        "no status": [RuntimeError("a bug")],
    }
    for name, raised in errors.items():
        pending = [*raised]

        async def fail(spans: list[Any], pending: list[Exception] = pending) -> None:
            if pending:
                raise pending.pop(0)

        processor = batched(fail)
        queue = sdk.AsyncSpanQueue(max_retries=3, linger_ms=0)
        queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [processor])
        await queue.shutdown()
        outcomes[name] = (processor.on_spans_start.call_count, queue.dropped_spans)
    assert outcomes == {
        "503, then none": (2, 0),
        "always 503": (3, 1),
        "401": (1, 1),
        "408": (1, 1),
        "no status": (1, 1),
    }


async def test_a_retry_goes_to_the_processor_that_failed(sdk: Any) -> None:
    """trace:Q26: once more, and the other is not asked again."""
    pending = [StatusError(503)]

    async def fail(spans: list[Any]) -> None:
        if pending:
            raise pending.pop()

    failing, healthy = batched(fail), batched()
    queue = sdk.AsyncSpanQueue(max_retries=2, linger_ms=0)
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [failing, healthy])
    await queue.shutdown()
    assert failing.on_spans_start.call_count == 2
    assert healthy.on_spans_start.call_count == 1


async def test_the_concurrency_is_reached_and_never_exceeded(sdk: Any) -> None:
    """trace:Q19."""
    most = {}
    for concurrency in (1, 4):
        now, peak = [0], [0]

        async def slow(spans: list[Any], now: list[int] = now, peak: list[int] = peak) -> None:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
            await asyncio.sleep(0.02)
            now[0] -= 1

        processor = batched(slow)
        queue = sdk.AsyncSpanQueue(batch_size=1, linger_ms=0, concurrency=concurrency)
        for number in range(12):
            queue.enqueue(sdk.SpanEventType.START, make_span(sdk, f"s{number}"), [processor])
        await queue.shutdown()
        assert processor.on_spans_start.call_count == 12
        most[concurrency] = peak[0]
    assert most == {1: 1, 4: 4}


async def test_a_trace_makes_one_start_and_one_end(sdk: Any) -> None:
    """trace:Q20, Q21, T2, T3: START as it was at start, END with all that came later."""
    seen: dict[str, Any] = {}

    async def on_start(spans: list[Any]) -> None:
        seen["start"] = [span.model_dump() for span in spans]

    async def on_end(spans: list[Any]) -> None:
        seen["end"] = [span.model_dump() for span in spans]

    queue = sdk.AsyncSpanQueue()
    trace = sdk.AsyncTrace(
        processors=[batched(on_start, on_end)], client=MagicMock(), trace_id="t", span_queue=queue
    )
    async with trace.span("llm", input={"messages": ["a"]}, task_id="task") as span:
        span.input["messages"].append("b")
        span.output = {"text": "c"}
    await queue.shutdown()
    (start,), (end,) = seen["start"], seen["end"]
    assert start["id"] == end["id"] == span.id
    assert start["task_id"] == end["task_id"] == span.task_id == "task"
    assert (start["input"], start["end_time"]) == ({"messages": ["a"]}, None)
    assert (end["input"], end["output"]) == ({"messages": ["a", "b"]}, {"text": "c"})
    assert end["end_time"] >= end["start_time"]
    assert str(end["start_time"].tzinfo) == "UTC"


async def test_a_falsy_trace_id_records_nothing(sdk: Any) -> None:
    """trace:T1."""
    queue = MagicMock()
    for nothing in ("", None):
        trace = sdk.AsyncTrace(
            processors=[batched()], client=None, trace_id=nothing, span_queue=queue
        )
        async with trace.span("x") as span:
            assert span is None
        with sdk.Trace(processors=[MagicMock()], client=None, trace_id=nothing).span("x") as span:
            assert span is None
        try:
            await trace.start_span("x")
        except ValueError:
            continue
        raise AssertionError("start_span takes no trace without id")
    queue.enqueue.assert_not_called()


async def test_no_processors_nothing_enqueued(sdk: Any) -> None:
    """trace:T7."""
    queue = MagicMock()
    trace = sdk.AsyncTrace(processors=[], client=None, trace_id="t", span_queue=queue)
    await trace.end_span(await trace.start_span("x"))
    queue.enqueue.assert_not_called()


async def test_a_block_ends_its_span_whatever_leaves_it(sdk: Any) -> None:
    """trace:T5, T6: and raises it again; an end time that is set stays."""
    processor, calls = recording()
    queue = sdk.AsyncSpanQueue()
    trace = sdk.AsyncTrace([processor], None, "t", queue)
    passed: list[BaseException] = []
    raised = [ValueError("no"), asyncio.CancelledError()]
    for error in raised:
        try:
            async with trace.span("x"):
                raise error
        except BaseException as caught:
            passed.append(caught)
    assert passed == raised
    ended = make_span(sdk, "z")
    at = ended.end_time
    assert (await trace.end_span(ended)).end_time == at
    await queue.shutdown()
    assert sum(len(ids) for event, ids in calls if event == "end") == 3


async def test_one_request_carries_a_batch_to_sgp(sdk: Any) -> None:
    """trace:S1, S3, S4, S8: ENDs alone, whose STARTs this process never saw."""
    with FaultServer() as backend, environment(**AGENT):
        processor = sdk.SGPAsyncTracingProcessor(config(sdk, backend))
        spans = [
            make_span(sdk, f"s{number}", input={"q": 1}, output={"a": 2}) for number in range(9)
        ]
        await processor.on_spans_end(spans)
        (request,) = backend.batches
    assert (request.method, len(request.spans)) == ("PUT", 9)
    item = request.spans[0]
    assert (item["id"], item["trace_id"], item["name"]) == ("s0", "trace-1", "step")
    assert (item["input"], item["output"], item["type"]) == ({"q": 1}, {"a": 2}, "STANDALONE")
    assert item["end_timestamp"]
    assert item["metadata"]["__source__"] == "agentex"


async def test_without_credentials_sgp_is_off(sdk: Any) -> None:
    """trace:S5."""
    with FaultServer() as backend, environment(**AGENT):
        for key, account in (("", "a"), ("k", "")):
            off = sdk.SGPTracingProcessorConfig(
                sgp_api_key=key, sgp_account_id=account, sgp_base_url=backend.base_url
            )
            processor = sdk.SGPAsyncTracingProcessor(off)
            await processor.on_spans_end([make_span(sdk)])
        assert backend.requests == []


async def test_the_default_queue_is_one_until_it_is_shut_down(sdk: Any) -> None:
    """trace §3."""
    queue = sdk.get_default_span_queue()
    assert sdk.get_default_span_queue() is queue
    await sdk.shutdown_default_span_queue(timeout=5.0)
    later = sdk.get_default_span_queue()
    processor, calls = recording()
    later.enqueue(sdk.SpanEventType.END, make_span(sdk, "later"), [processor])
    await sdk.shutdown_default_span_queue()
    assert calls == [("end", ["later"])]


def config(sdk: Any, backend: FaultServer) -> Any:
    """A configuration for that backend, as its users write it."""
    return sdk.SGPTracingProcessorConfig(
        type="sgp", sgp_api_key="k", sgp_account_id="a", sgp_base_url=backend.base_url
    )
