"""A user's own processor as a destination."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from everyspan.delivery.backlog import Batch
from everyspan.errors import PermanentExportError, RetryableExportError
from everyspan.model.span import Span
from everyspan.processors.base import (
    FAILURES_LOGGED_MAX,
    AsyncTracingProcessor,
    SyncTracingProcessor,
)
from everyspan.processors.foreign import ForeignExporter
from everyspan.queue.span_queue import AsyncSpanQueue
from tests.records import end, make_span, start
from tests.waiting import settle


class Single(AsyncTracingProcessor):
    """Overrides the single-span methods only, as most do."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.now = self.most = 0

    async def _take(self, event: str, span: Span) -> None:
        self.log.append(f"{event} {span.id}")
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if span.id in self.errors:
            raise self.errors[span.id]

    async def on_span_start(self, span: Span) -> None:
        await self._take("start", span)

    async def on_span_end(self, span: Span) -> None:
        await self._take("end", span)


class StatusError(Exception):
    """As an HTTP client's error."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        super().__init__(f"HTTP {status_code}")


async def test_the_default_calls_the_single_method_for_each_at_once_in_order() -> None:
    """trace:I1."""
    processor = Single()
    await processor.on_spans_start([make_span(id) for id in "abc"])
    await processor.on_spans_end([make_span(id) for id in "abc"])
    await processor.on_spans_end([])
    assert processor.log == [f"{event} {id}" for event in ("start", "end") for id in "abc"]
    assert processor.most == 3


async def test_one_failure_keeps_no_other_from_running_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """trace:I1: at ERROR, with the span's id, not raised."""
    processor = Single()
    processor.errors = {"a": ValueError("x"), "c": asyncio.CancelledError()}
    with caplog.at_level(logging.ERROR, "everyspan"):
        await processor.on_spans_end([make_span(id) for id in "abcd"])
    assert processor.log == [f"end {id}" for id in "abcd"]
    assert [(r.levelname, r.args) for r in caplog.records] == [
        ("ERROR", ("a",)),
        ("ERROR", ("c",)),
    ]


async def test_failures_without_end_are_not_logged_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """P4, trace:I1: the first ones of a minute, each processor its own."""

    class Other(Single):
        async def on_span_end(self, span: Span) -> None:
            raise ValueError

    one, other = Single(), Other()
    one.errors = dict.fromkeys("abcde", ValueError("x"))
    with caplog.at_level(logging.ERROR, "everyspan"):
        for _ in range(FAILURES_LOGGED_MAX):
            await one.on_spans_end([make_span(id) for id in "abcde"])
        assert len(caplog.records) == FAILURES_LOGGED_MAX
        await other.on_spans_end([make_span("z")])
    assert caplog.records[-1].args == ("z",)


async def test_a_processor_that_cannot_shut_down_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """P4: an application that configures for each request has as many to shut down."""

    class Stubborn(Single):
        async def shutdown(self) -> None:
            raise ValueError("x")

    with caplog.at_level(logging.ERROR, "everyspan"):
        for _ in range(3):
            await ForeignExporter(Stubborn()).close()
    assert [(r.getMessage(), bool(r.exc_info)) for r in caplog.records] == [
        ("Stubborn failed to shut down", True)
    ]


async def test_failures_are_reported_for_each_span() -> None:
    """trace:I2, D7, Q25: with what each means."""
    processor = Single()
    processor.errors = {"b": StatusError(503), "c": StatusError(401), "d": KeyError("x")}
    failed = await ForeignExporter(processor).export(
        Batch([start("a"), start("b")], [end("c"), end("d"), end("e")])
    )
    assert processor.log == ["start a", "start b", "end c", "end d", "end e"]
    assert {position: (type(e), e.reason) for position, e in failed.items()} == {
        1: (RetryableExportError, "http 503"),
        2: (PermanentExportError, "StatusError"),
        3: (PermanentExportError, "KeyError"),
    }


async def test_a_batch_method_that_fails_fails_for_its_spans_only() -> None:
    """trace:I2: STARTs that were taken stay taken."""

    class Batched(Single):
        async def on_spans_end(self, spans: Sequence[Span]) -> None:
            raise StatusError(429)

    failed = await ForeignExporter(Batched()).export(Batch([start("a")], [end("b"), end("c")]))
    assert {position: error.reason for position, error in failed.items()} == {
        1: "http 429",
        2: "http 429",
    }


async def test_a_method_set_on_the_object_counts() -> None:
    """A subclass is not the only way to override."""
    processor = Single()
    calls: list[list[str]] = []

    async def on_spans_end(spans: Sequence[Span]) -> None:
        calls.append([span.id for span in spans])

    processor.on_spans_end = on_spans_end  # type: ignore[method-assign]
    assert await ForeignExporter(processor).export(Batch([], [end("a"), end("b")])) == {}
    assert calls == [["a", "b"]]
    assert processor.log == []


async def test_a_sync_processor_is_called_span_by_span() -> None:
    """trace:I2, and a failure keeps no other from running."""

    log: list[str] = []

    class Sync(SyncTracingProcessor):
        def on_span_start(self, span: Span) -> None:
            log.append("start " + span.id)

        def on_span_end(self, span: Span) -> None:
            log.append("end " + span.id)
            if span.id == "b":
                raise StatusError(500)

    failed = await ForeignExporter(Sync()).export(Batch([start("a")], [end("b"), end("c")]))
    assert log == ["start a", "end b", "end c"]
    assert [(p, e.reason) for p, e in failed.items()] == [(1, "http 500")]


async def test_spans_are_shown_with_plain_payloads() -> None:
    """DESIGN: decoded from what was frozen; each call has spans of its own."""
    processor = Single()
    seen: list[Any] = []

    async def keep(span: Span) -> None:
        seen.append(span.input)
        span.input.clear()

    processor.on_span_end = keep  # type: ignore[method-assign]
    record = end("a", input={"when": b"x", "n": [1]})
    exporter = ForeignExporter(processor)
    for _ in range(2):
        await exporter.export(Batch([], [record]))
    first, second = seen
    assert first is not second
    assert record.to_span().input["n"] == [1]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(2), KeyError("k")])
async def test_only_a_cancellation_from_outside_passes_through(error: BaseException) -> None:
    """trace:D8: one that the processor raises by itself is its failure."""

    class Batched(Single):
        async def on_spans_end(self, spans: Sequence[Span]) -> None:
            raise error

    for processor in (Batched(), Single()):
        processor.errors = {"a": error}
        failed = await ForeignExporter(processor).export(Batch([], [end("a")]))
        assert failed[0].reason == type(error).__name__

    class Slow(Single):
        async def on_spans_end(self, spans: Sequence[Span]) -> None:
            await asyncio.Event().wait()

    task = asyncio.ensure_future(ForeignExporter(Slow()).export(Batch([], [end("a")])))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_it_is_shut_down_once_with_its_queue(caplog: pytest.LogCaptureFixture) -> None:
    """§8: nothing ever called it in the original; and its failure stays with it.

    Even where the queue's shutdown is the last thing that its loop does.
    """
    calls: list[str] = []

    class Closing(Single):
        async def shutdown(self) -> None:
            await settle()
            calls.append("shutdown")
            raise RuntimeError("too late")

    queue = AsyncSpanQueue(linger_ms=0)

    async def main() -> None:
        queue.enqueue("end", make_span("a"), [Closing()])
        assert await queue.shutdown(10)

    asyncio.run(main())
    assert calls == ["shutdown"]
    assert [record.getMessage() for record in caplog.records] == ["Closing failed to shut down"]
    assert queue.shutdown_sync(10)
    assert calls == ["shutdown"]


async def test_a_span_that_cannot_be_read_costs_only_itself() -> None:
    """P5: raw JSON that is none here; nesting deeper than this thread's stack has the same end."""
    processor = Single()
    unreadable = end("b", input=msgspec.Raw(b"{"))
    batch = Batch([start("a")], [end("a"), unreadable, end("c")])
    failed = await ForeignExporter(processor).export(batch)
    assert processor.log == ["start a", "end a", "end c"]
    assert [(p, e.reason) for p, e in failed.items()] == [(2, "DecodeError")]
    assert list(await ForeignExporter(processor).export(Batch([], [unreadable]))) == [0]


def test_a_processor_may_hand_its_configuration_up() -> None:
    """As those written for the original do; a class that does not is fine too."""

    class Configured(Single):
        def __init__(self, config: Any) -> None:
            AsyncTracingProcessor.__init__(self, config)

    class Sync(SyncTracingProcessor):
        def __init__(self, config: Any) -> None:
            super().__init__(config)

        def on_span_start(self, span: Span) -> None: ...

        def on_span_end(self, span: Span) -> None: ...

    assert isinstance(Configured(None), AsyncTracingProcessor)
    assert isinstance(Sync(None), SyncTracingProcessor)
