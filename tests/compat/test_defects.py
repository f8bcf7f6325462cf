"""The defects of the original (`trace` §9), each as a test that the original fails.

`test_the_original.py` runs them there and holds each docstring to what it says was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import uuid
from collections.abc import Callable, Sized
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.compat.names import AGENT, environment, make_span

FILE_DESCRIPTORS = Path("/proc/self/fd")


class StatusError(Exception):
    """As an HTTP client's error."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        super().__init__(f"Error code: {status_code}")


def collecting(ids: list[str]) -> AsyncMock:
    """A processor that notes the ids of ENDs."""
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        ids.extend(span.id for span in spans)

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    return processor


async def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for a condition, in vain if need be."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)


def sgp(sdk: Any, base_url: str) -> Any:
    """The SGP destination."""
    config = sdk.SGPTracingProcessorConfig(
        sgp_api_key="k", sgp_account_id="a", sgp_base_url=base_url
    )
    return sdk.SGPAsyncTracingProcessor(config)


async def export(sdk: Any, backend: FaultServer, *spans: Any, **settings: Any) -> int:
    """Have a queue deliver spans to a backend; return how many it stored."""
    queue = sdk.AsyncSpanQueue(**settings)
    processor = sgp(sdk, backend.base_url)
    for span in spans:
        queue.enqueue(sdk.SpanEventType.END, span, [processor])
    await queue.shutdown(10)
    return len(backend.rows)


def strict(request: Request) -> Answer:
    """Refuse a batch as the real backend does: payloads must be objects, types of the list."""
    bad = [
        position
        for position, item in enumerate(request.spans)
        if not isinstance(item["input"], dict) or item["type"] not in ("STANDALONE", "CUSTOM")
    ]
    return faults.refuse(*bad) if bad else faults.ok()


def test_loops_that_come_and_go_lose_nothing(sdk: Any) -> None:
    """trace:D1: three `asyncio.run` of five spans each: delivered, counted as dropped.

    Original: `(0, 0)`.
    """
    ids: list[str] = []
    queue, processor = sdk.AsyncSpanQueue(), collecting(ids)

    async def turn(number: int) -> None:
        for step in range(5):
            span = make_span(sdk, f"{number}-{step}")
            queue.enqueue(sdk.SpanEventType.END, span, [processor])

    for number in range(3):
        asyncio.run(turn(number))
    with contextlib.suppress(RuntimeError):
        asyncio.run(queue.shutdown(2))
    assert len(ids) == 15, (len(ids), queue.dropped_spans)


async def test_a_span_from_another_threads_loop_is_seen(sdk: Any) -> None:
    """trace:D2: while the queue's own loop has nothing else to wake for.

    Original: `seen only after 1.5 s`.
    """
    seen = asyncio.Event()
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        if spans[0].id == "other":
            seen.set()

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue(linger_ms=0)
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk, "own"), [processor])
    await until(lambda: processor.on_spans_end.call_count, 5)
    for _ in range(50):
        await asyncio.sleep(0)  # What the drain has left to do.
    is_idle = threading.Event()

    async def elsewhere() -> None:
        is_idle.wait(10)
        queue.enqueue(sdk.SpanEventType.END, make_span(sdk, "other"), [processor])

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    # The last that this loop does before it has nothing to do.
    asyncio.get_running_loop().call_later(0.01, is_idle.set)
    # No polling, which would be the other reason to wake.
    try:
        await asyncio.wait_for(seen.wait(), 1.5)
    except TimeoutError:
        raise AssertionError("seen only after 1.5 s") from None
    finally:
        thread.join()
    await queue.shutdown(5)


def test_enqueue_needs_no_loop(sdk: Any) -> None:
    """trace:D3: nothing is raised into code that does not await.

    Original: `RuntimeError: no running event loop`.
    """
    ids: list[str] = []
    queue = sdk.AsyncSpanQueue()
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk, "a"), [collecting(ids)])
    asyncio.run(queue.shutdown(10))
    assert ids == ["a"]


async def test_one_503_costs_nothing(sdk: Any) -> None:
    """trace:D4: attempts and drops with the default settings.

    Original: `(1, 1)`.
    """
    errors = [StatusError(503)]
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        if errors:
            raise errors.pop()

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue(linger_ms=0)
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk), [processor])
    await queue.shutdown(10)
    figures = (processor.on_spans_end.call_count, queue.dropped_spans)
    assert figures == (2, 0), figures


async def test_a_retried_start_stays_before_its_end(sdk: Any) -> None:
    """trace:D5: the START fails twice.

    Original: `start start end start`.
    """
    log: list[str] = []
    errors = [StatusError(503), StatusError(503)]
    processor = AsyncMock()

    async def on_start(spans: list[Any]) -> None:
        log.append("start")
        if errors:
            raise errors.pop()

    async def on_end(spans: list[Any]) -> None:
        log.append("end")

    processor.on_spans_start = AsyncMock(side_effect=on_start)
    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue(linger_ms=0, max_retries=5, batch_size=1)
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk), [processor])
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk), [processor])
    await queue.shutdown(10)
    assert log == ["start", "start", "start", "end"], " ".join(log)


async def test_a_value_that_cannot_be_encoded_costs_no_span(sdk: Any) -> None:
    """trace:D6: one UUID in one of twenty spans; how many are stored.

    Original: `0`.
    """
    with FaultServer() as backend:
        spans = [make_span(sdk, f"s{number}") for number in range(19)]
        stored = await export(sdk, backend, *spans, make_span(sdk, "u", input={"id": uuid.uuid4()}))
    assert stored == 20, stored


async def test_failures_of_single_span_methods_are_counted(sdk: Any) -> None:
    """trace:D7: two of three fail.

    Original: `0`.
    """

    class Failing(sdk.AsyncTracingProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        async def on_span_start(self, span: Any) -> None: ...

        async def on_span_end(self, span: Any) -> None:
            if span.id != "b":
                raise ValueError(span.id)

        async def shutdown(self) -> None: ...

    queue, failing = sdk.AsyncSpanQueue(), Failing()
    for id in "abc":
        queue.enqueue(sdk.SpanEventType.END, make_span(sdk, id), [failing])
    await queue.shutdown(10)
    assert queue.dropped_spans == 2, queue.dropped_spans


async def test_a_cancelled_error_of_a_processor_is_a_loss_that_is_counted(sdk: Any) -> None:
    """trace:D8.

    Original: `0`.
    """
    processor = AsyncMock()
    processor.on_spans_end = AsyncMock(side_effect=asyncio.CancelledError)
    queue = sdk.AsyncSpanQueue(linger_ms=0)
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk), [processor])
    await queue.shutdown(10)
    assert queue.dropped_spans == 1, queue.dropped_spans


async def test_a_hung_processor_starves_no_other(sdk: Any) -> None:
    """trace:D9: what the healthy one gets of a thousand spans beside it.

    Original: `40`.
    """
    ids: list[str] = []
    hung, healthy = AsyncMock(), collecting(ids)

    async def on_end(spans: list[Any]) -> None:
        await asyncio.Event().wait()

    hung.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue(batch_size=20, linger_ms=0)
    for number in range(1000):
        queue.enqueue(sdk.SpanEventType.END, make_span(sdk, f"s{number}"), [hung, healthy])
    await until(lambda: len(ids) == 1000, 3)
    assert len(ids) == 1000, len(ids)
    await queue.shutdown(0)


async def test_what_a_shutdown_leaves_is_counted(sdk: Any) -> None:
    """trace:D10: a stuck processor and 940 spans.

    Original: `0`.
    """
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        await asyncio.Event().wait()

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue(batch_size=20, linger_ms=0)
    for number in range(940):
        queue.enqueue(sdk.SpanEventType.END, make_span(sdk, f"s{number}"), [processor])
    await queue.shutdown(0.05)
    assert queue.dropped_spans == 940, queue.dropped_spans


async def test_a_shutdown_ends_the_linger(sdk: Any) -> None:
    """trace:D11: a linger of a minute and a shutdown within half a second.

    Original: `[]`.
    """
    ids: list[str] = []
    queue = sdk.AsyncSpanQueue(linger_ms=60_000)
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk, "a"), [collecting(ids)])
    # The linger has begun.
    await asyncio.sleep(0.01)
    await queue.shutdown(0.5)
    assert ids == ["a"], ids


async def test_memory_is_bounded_unasked(sdk: Any) -> None:
    """trace:D12: of a hundred spans of 100 kB, a stuck processor and a budget of 1 MiB.

    The original knows no budget of bytes and, by default, no bound by count either: what it holds.

    Original: `100`.
    """
    started, processor = asyncio.Event(), AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    with environment(EVERYSPAN_BYTE_BUDGET=str(1 << 20)):
        queue = sdk.AsyncSpanQueue(linger_ms=0)
    for number in range(100):
        # That tell of usage, so that their payloads are not to make room.
        span = make_span(sdk, f"s{number}", input={"text": "x" * 100_000, "usage": {}})
        queue.enqueue(sdk.SpanEventType.END, span, [processor])
    await started.wait()
    held = 100 - queue.dropped_spans
    await queue.shutdown(0)
    assert held <= 10, held


def test_clients_of_loops_that_are_gone_are_closed(sdk: Any) -> None:
    """trace:D13, L5: descriptors that stay open after twenty loops.

    Original: `more than one a loop`.
    """
    with FaultServer() as backend:
        processor = sgp(sdk, backend.base_url)

        def turn() -> None:
            asyncio.run(processor.on_spans_end([make_span(sdk)]))

        turn()
        gc.collect()
        before = len([*FILE_DESCRIPTORS.iterdir()])
        for _ in range(20):
            turn()
        gc.collect()
        grown = len([*FILE_DESCRIPTORS.iterdir()]) - before
    assert grown < 10, "more than one a loop" if grown >= 20 else grown


def test_configurations_can_be_set(sdk: Any) -> None:
    """trace:D15, G3.

    Original: `deadlock`.
    """
    config = sdk.SGPTracingProcessorConfig(sgp_api_key="", sgp_account_id="")
    thread = threading.Thread(
        target=sdk.set_tracing_processor_configs, args=([config],), daemon=True
    )
    thread.start()
    thread.join(2)
    assert not thread.is_alive(), "deadlock"


async def test_a_failed_step_looks_failed(sdk: Any) -> None:
    """trace:D17: what the END says of the exception that left its block.

    Original: `None`.
    """
    ended: list[Any] = []
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        ended.extend(span.data for span in spans)

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue()
    with contextlib.suppress(ValueError):
        async with sdk.AsyncTrace([processor], None, "t", queue).span("x"):
            raise ValueError("no such order")
    await queue.shutdown(10)
    (data,) = ended
    error = (data or {}).get("__error__")
    assert error, error
    assert (error["type"], error["message"]) == ("ValueError", "no such order")


async def test_an_array_costs_no_batch(sdk: Any) -> None:
    """trace:D18: one of three inputs is an array; how many are stored.

    Original: `0`.
    """
    with FaultServer(strict) as backend:
        spans = [make_span(sdk, "a"), make_span(sdk, "b", input=[{"n": 1}]), make_span(sdk, "c")]
        stored = await export(sdk, backend, *spans)
    assert stored == 3, stored


async def test_an_unknown_type_costs_no_batch(sdk: Any) -> None:
    """trace:D19: one of three; how many are stored.

    Original: `0`.
    """
    with FaultServer(strict) as backend:
        odd = make_span(sdk, "b", data={"__span_type__": "RETRIEVER"})
        stored = await export(sdk, backend, make_span(sdk, "a"), odd, make_span(sdk, "c"))
    assert stored == 3, stored


async def test_an_empty_object_and_the_task_stay(sdk: Any) -> None:
    """trace:D20: the input at end, and whether the task's id reached the backend.

    Original: `(None, False)`.
    """
    with FaultServer() as backend:
        queue = sdk.AsyncSpanQueue()
        trace = sdk.AsyncTrace([sgp(sdk, backend.base_url)], None, "t", queue)
        async with trace.span("x", input={}, task_id="task-7") as span:
            pass
        await queue.shutdown(10)
        figures = (span.input, any(b"task-7" in request.body for request in backend.batches))
    assert figures == ({}, True), figures


async def test_an_empty_base_url_is_none(sdk: Any) -> None:
    """trace:D21: as the tutorial passes it; how many of two spans are stored.

    Original: `0`.
    """
    with FaultServer() as backend:
        with environment(SGP_CLIENT_BASE_URL=backend.base_url):
            queue, processor = sdk.AsyncSpanQueue(), sgp(sdk, "")
            for id in "ab":
                queue.enqueue(sdk.SpanEventType.END, make_span(sdk, id), [processor])
            await queue.shutdown(10)
        stored = len(backend.rows)
    assert stored == 2, stored


class CallableText(str):
    """As LangChain's message content."""

    def __call__(self) -> str:
        return str(self)


async def test_callable_text_is_text(sdk: Any) -> None:
    """trace:D22: what a trace makes of a message's content.

    Original: `<function `.
    """
    seen: list[str] = []
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        seen.extend(span.input["content"] for span in spans)

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue()
    async with sdk.AsyncTrace([processor], None, "t", queue).span(
        "x", input={"content": CallableText("hello")}
    ):
        pass
    await queue.shutdown(10)
    assert seen == ["hello"], seen


async def test_one_bad_span_ends_no_thread(sdk: Any) -> None:
    """trace:D23: 200 spans, the first with a UUID, then 200 more; how many are stored.

    Original: `0`.
    """
    with FaultServer() as backend:
        config = sdk.SGPTracingProcessorConfig(
            sgp_api_key="k", sgp_account_id="a", sgp_base_url=backend.base_url
        )
        processor = sdk.SGPSyncTracingProcessor(config)
        for group in (200, 400):
            for number in range(group - 200, group):
                value = {"id": str(number) if number else uuid.uuid4()}
                processor.on_span_end(make_span(sdk, f"s{number}", input=value))
            await until(partial(reached, backend.rows, group), 2)
        stored = len(backend.rows)
    assert stored == 400, stored


def reached(things: Sized, count: int) -> bool:
    """Tell whether there are so many."""
    return len(things) >= count


def test_a_sync_processor_neither_blocks_nor_raises(sdk: Any) -> None:
    """trace:D24: it runs on the agent's thread, and what it raises comes out of the agent's call.

    Original: `RuntimeError: down`.
    """
    threads: list[threading.Thread] = []

    class Failing(sdk.SyncTracingProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def on_span_start(self, span: Any) -> None:
            threads.append(threading.current_thread())
            raise RuntimeError("down")

        def on_span_end(self, span: Any) -> None: ...

        def shutdown(self) -> None: ...

    with sdk.Trace([Failing()], MagicMock(), "t").span("x"):
        pass
    assert threading.current_thread() not in threads


async def test_every_loss_has_its_reason(sdk: Any) -> None:
    """trace:D25: and every attempt is counted, the failed ones that were followed by another too.

    Original: `'AsyncSpanQueue' object has no attribute 'stats'`.
    """
    errors = [StatusError(503), StatusError(503), StatusError(401)]
    processor = AsyncMock()

    async def on_end(spans: list[Any]) -> None:
        raise errors.pop(0)

    processor.on_spans_end = AsyncMock(side_effect=on_end)
    queue = sdk.AsyncSpanQueue(linger_ms=0)
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk), [processor])
    await queue.shutdown(10)
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk), [processor])
    (books,) = queue.stats().destinations
    assert dict(books.dropped) == {"StatusError": 1, "shutdown": 1}
    assert (books.requests, books.residual) == (3, 0)


def test_a_destination_needs_no_variables(sdk: Any) -> None:
    """trace:D28, S13.

    Original: `validation error`.
    """
    with environment(**dict.fromkeys(AGENT, None)):
        sgp(sdk, "http://127.0.0.1")


async def test_an_end_waits_for_no_other_span(sdk: Any) -> None:
    """trace:D29: the START of `a` is stuck, `b` ends.

    Original: `[]`.
    """
    ids: list[str] = []
    started, processor = asyncio.Event(), collecting(ids)

    async def on_start(spans: list[Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    processor.on_spans_start = AsyncMock(side_effect=on_start)
    queue = sdk.AsyncSpanQueue(linger_ms=0)
    queue.enqueue(sdk.SpanEventType.START, make_span(sdk, "a"), [processor])
    await started.wait()
    queue.enqueue(sdk.SpanEventType.END, make_span(sdk, "b"), [processor])
    await until(lambda: ids, 1)
    assert ids == ["b"], ids
    await queue.shutdown(0)


async def test_one_layer_retries(sdk: Any) -> None:
    """trace:D30: requests for one span, two attempts and a backend that is down.

    Original: `6`.
    """
    with FaultServer(faults.status(503, headers={"retry-after-ms": "1"})) as backend:
        await export(sdk, backend, make_span(sdk), linger_ms=0, max_retries=2)
        requests = len(backend.batches)
    assert requests == 2, requests
