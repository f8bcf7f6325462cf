"""What gives way where there is no room: payloads of spans that wait, then spans."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from everyspan.config import DROP_OLDEST, load_settings
from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError
from everyspan.model.span import SpanEventType
from everyspan.processors.memory import InMemoryTracingProcessor
from everyspan.queue.span_queue import AsyncSpanQueue
from tests.records import make_span
from tests.waiting import until

START, END = SpanEventType.START, SpanEventType.END

LARGE = "x" * 50_000
SHARE = 1 << 20


class Held(InMemoryTracingProcessor):
    """Takes nothing until it is told to; remembers what it was handed while it waited."""

    concurrency = 1

    def __init__(self, name: str = "held") -> None:
        super().__init__()
        self.name = name
        self.opened = asyncio.Event()
        self.handed: list[str] = []

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """See `Exporter`."""
        self.handed += [record.id for record in batch.records]
        await self.opened.wait()
        return await super().export(batch)

    def inputs(self) -> dict[str, Any]:
        """What was stored of each span."""
        return {span.id: span.input for span in self.spans}


def queue_of(**settings: Any) -> AsyncSpanQueue:
    """A queue with the smallest budget."""
    return AsyncSpanQueue(
        settings=load_settings({}, **{"linger_ms": 0, "byte_budget": SHARE} | settings)
    )


async def in_flight(queue: AsyncSpanQueue, held: Held) -> None:
    """Have one large span in a request that has no answer."""
    queue.enqueue(END, make_span("first", input=LARGE), [held])
    await until(lambda: held.handed == ["first"])


async def test_payloads_go_before_spans_do_the_oldest_first() -> None:
    """I2, P4, DESIGN: none is lost; what is in a request, failed or tells of usage is whole."""
    held = Held()
    queue = queue_of()
    await in_flight(queue, held)
    kept: dict[str, Any] = {
        "usage": {"output": {"usage": {"input_tokens": 3}}},
        "failed": {"data": {"__error__": {"type": "E", "message": "m"}}},
    }
    for id, fields in kept.items():
        queue.enqueue(END, make_span(id, input=LARGE, **fields), [held])
    for number in range(100):
        queue.enqueue(END, make_span(f"s{number:02}", input=LARGE), [held])
        assert queue.stats().bytes_held <= SHARE
    (books,) = queue.stats().destinations
    assert (books.accepted, books.dropped_total, books.residual) == (103, 0, 0)
    held.opened.set()
    assert await queue.flush(10)
    inputs = held.inputs()
    shed = sorted(id for id, value in inputs.items() if value != LARGE)
    assert shed == [f"s{number:02}" for number in range(len(shed))]
    assert 80 <= len(shed) < 100
    assert inputs["s00"] == "…[everyspan: 50002 bytes shed]"
    (books,) = queue.stats().destinations
    assert (books.delivered, books.shed, books.residual) == (103, len(shed), 0)
    assert queue.stats().bytes_held == 0


async def test_a_span_that_two_destinations_hold_gives_its_bytes_back_to_both() -> None:
    """P4, P5: and one that is in a request of either stays whole."""
    one, other = Held("one"), Held("other")
    queue = queue_of(byte_budget=2 * SHARE)
    for number in range(60):
        queue.enqueue(END, make_span(f"s{number:02}", input=LARGE), [one, other])
        if number == 0:
            await until(lambda: one.handed == other.handed == ["s00"])
    shed = {books.shed for books in queue.stats().destinations}
    assert len(shed) == 1
    assert shed != {0}
    other.opened.set()
    await until(lambda: len(other.spans) == 60)
    one.opened.set()
    assert await queue.flush(10)
    assert one.inputs() == other.inputs()
    assert one.inputs()["s00"] == LARGE
    assert queue.stats().bytes_held == 0
    assert not any(lane.bytes_held for lane in queue._intake.lanes.values())


async def test_where_nothing_else_may_go_what_comes_is_shed_itself() -> None:
    """DESIGN: its payloads rather than the span."""
    held = Held()
    queue = queue_of()
    await in_flight(queue, held)
    for number in range(19):
        queue.enqueue(END, make_span(f"u{number}", input=LARGE, output={"usage": {}}), [held])
    assert queue.stats().destinations[0].dropped_total == 0
    queue.enqueue(END, make_span("last", input=LARGE), [held])
    (books,) = queue.stats().destinations
    assert (books.shed, books.dropped_total, books.residual) == (1, 0, 0)
    held.opened.set()
    assert await queue.flush(10)
    assert held.inputs()["last"] != LARGE


@pytest.mark.parametrize(("setting", "lost"), [({}, "new"), ({"when_full": DROP_OLDEST}, "old")])
async def test_a_full_count_costs_the_newest_or_the_oldest(
    setting: dict[str, Any], lost: str
) -> None:
    """trace:Q26: never what is in a request; a loss is in the books with its reason."""
    held = Held()
    queue = queue_of(max_size=3, batch_size=1, **setting)
    await in_flight(queue, held)
    for id in ("old", "a", "b", "new"):
        queue.enqueue(END, make_span(id), [held])
    (books,) = queue.stats().destinations
    assert (dict(books.dropped), books.accepted, books.residual) == ({"queue full": 1}, 5, 0)
    held.opened.set()
    await queue.flush(10)
    assert {"old", "new"} - held.inputs().keys() == {lost}


async def test_full_bytes_may_cost_the_oldest() -> None:
    """I2: as many as the new one needs, and none for one that would find no room in the end."""
    held = Held()
    queue = queue_of(when_full=DROP_OLDEST)
    await in_flight(queue, held)
    for number in range(30):
        queue.enqueue(END, make_span(f"u{number}", input=LARGE, output={"usage": {}}), [held])
    huge = make_span("huge", input=LARGE * 20, output={"usage": {}})
    queue.enqueue(END, huge, [held])
    (books,) = queue.stats().destinations
    assert (dict(books.dropped), books.residual) == ({"byte budget": 12}, 0)
    held.opened.set()
    await queue.flush(10)
    assert held.inputs().keys() == {"first", *(f"u{number}" for number in range(11, 30))}


async def test_the_log_says_it_once_and_how_many(caplog: pytest.LogCaptureFixture) -> None:
    """P4."""
    held = Held()
    queue = queue_of()
    await in_flight(queue, held)
    for number in range(60):
        queue.enqueue(END, make_span(f"s{number}", input=LARGE), [held])
    (line,) = [line for line in caplog.messages if "payloads" in line]
    assert line.startswith("held gets spans without their payloads, 2 so far")
    held.opened.set()
    assert await queue.shutdown(10)
