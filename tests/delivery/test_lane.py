"""What a lane does with an exporter that does as scripted, on a real loop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from everyspan.config import load_settings
from everyspan.delivery.backlog import Batch
from everyspan.delivery.gate import Gate
from everyspan.delivery.lane import Lane, classify
from everyspan.errors import (
    BatchRefusedError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.home import Home
from everyspan.ledger import DestinationStats
from everyspan.model.record import SpanRecord
from everyspan.testing import FakeClock
from tests.records import end, ids, start
from tests.waiting import settle, until

Step = Callable[[Batch], Any]


def unavailable(**fields: Any) -> RetryableExportError:
    """A 503."""
    return RetryableExportError("m", reason="http 503", **fields)


class UnreadableError(Exception):
    """An error that raises when it is looked at."""

    @property
    def status_code(self) -> int:
        """Raise."""
        raise ValueError

    def __repr__(self) -> str:
        raise ValueError

    __str__ = __repr__


class ScriptedExporter:
    """Answers the first batches as scripted and takes all others.

    A step is an exception to raise, a mapping of failed positions, or a function of the batch that
    returns one of them or something to await.
    """

    name = "scripted"
    wants_every_start = False
    is_foreign = False
    blocks = False
    start_delay_s: float | None = None
    hint: str | None = None
    one_by_one = False
    only_ends = False
    concurrency = 16

    def __init__(self, *steps: Any, is_foreign: bool = False) -> None:
        self.steps = [*steps]
        self.batches: list[list[str]] = []
        self.stored: list[str] = []
        self.now = 0
        self.most = 0
        self.is_foreign = self.wants_every_start = is_foreign
        self.closed = 0

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """See `Exporter`."""
        names = [f"{'end' if r.is_end else 'start'} {r.id}" for r in batch.records]
        self.batches.append(names)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            step = self.steps.pop(0) if self.steps else {}
            if callable(step):
                step = step(batch)
            if asyncio.isfuture(step) or asyncio.iscoroutine(step):
                step = await step
            if isinstance(step, BaseException):
                raise step
            failed: Mapping[int, ExportError] = step or {}
        finally:
            self.now -= 1
        self.stored += [name for position, name in enumerate(names) if position not in failed]
        return failed

    def connections(self) -> int:
        """None."""
        return 0

    async def close(self) -> None:
        """Count."""
        self.closed += 1


class Rig:
    """A lane on the running loop."""

    def __init__(self, exporter: ScriptedExporter, *, now_s: float = 0.0, **settings: Any) -> None:
        self.settled: list[SpanRecord] = []
        self.orphaned: list[Home] = []
        self.gate = Gate()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.clock = FakeClock()
        start_delay_s = settings.pop("start_delay_s", 0.0)
        self.lane = Lane(
            exporter,
            name="scripted",
            gate=self.gate,
            settings=load_settings({}, **{"linger_ms": 0, "batch_size": 10} | settings),
            start_delay_s=start_delay_s,
            clock=self.clock,
            inbox=(),
            take_in=lambda: None,
            settled=self._settled,
            orphaned=lambda lane, home: self.orphaned.append(home),
        )
        self.move_here()

    def _settled(self, record: SpanRecord) -> None:
        self.settled.append(record)

    def move_here(self) -> None:
        """Give the lane the running loop as home."""
        with self.gate:
            epoch = self.lane.attach(Home(asyncio.get_running_loop()))
        self.lane.start(epoch)

    def add(self, *records: SpanRecord) -> None:
        """Offer them now."""
        with self.gate:
            for record in records:
                record.offered_s = self.clock.monotonic()
                (self.lane.add_end if record.is_end else self.lane.add_start)(record)

    @property
    def stats(self) -> DestinationStats:
        """The books."""
        with self.gate:
            stats = self.lane.snapshot()
        assert stats.residual == 0
        return stats

    async def drained(self) -> DestinationStats:
        """The books once nothing is held."""
        await until(lambda: self.lane.is_empty)
        return self.stats


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once: the draw of the jitter is 0."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)


async def test_spans_are_delivered_and_counted() -> None:
    """P1: accepted, delivered, settled once each."""
    exporter = ScriptedExporter()
    rig = Rig(exporter)
    records = [end(f"s{n}") for n in range(25)]
    rig.add(*records)
    assert rig.stats.queued == 25
    stats = await rig.drained()
    assert (stats.accepted, stats.delivered, stats.requests) == (25, 25, 3)
    assert sorted(map(id, rig.settled)) == sorted(map(id, records))


async def test_a_start_lands_before_its_end_even_when_it_is_retried() -> None:
    """trace:D5: `start start end`, never `start start end start`."""
    exporter = ScriptedExporter(unavailable(), unavailable(), is_foreign=True)
    rig = Rig(exporter)
    rig.add(start("a"))
    await until(lambda: exporter.batches)
    rig.add(end("a"), end("b"))
    stats = await rig.drained()
    assert exporter.stored.index("start a") < exporter.stored.index("end a")
    assert exporter.stored.count("end a") == 1
    assert (stats.delivered, stats.start_writes) == (2, 1)


async def test_a_start_on_its_way_holds_back_its_own_end_alone() -> None:
    """trace:D29."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    exporter = ScriptedExporter(lambda batch: gate)
    rig = Rig(exporter)
    rig.add(start("a"))
    await until(lambda: exporter.now)
    rig.add(end("a"), end("b"))
    await until(lambda: exporter.stored == ["end b"])
    await settle()
    assert rig.stats.queued == 1
    gate.set_result(None)
    await rig.drained()
    assert exporter.stored == ["end b", "start a", "end a"]


async def test_a_start_that_fails_while_its_end_waits_is_left_out() -> None:
    """K4: the END brings all of it; towards a backend of ours, one request less."""
    release: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    exporter = ScriptedExporter(lambda batch: release)
    rig = Rig(exporter)
    first = start("a")
    rig.add(first)
    await until(lambda: exporter.now)
    rig.add(end("a"))
    release.set_result(unavailable())
    stats = await rig.drained()
    assert exporter.batches == [["start a"], ["end a"]]
    assert first in rig.settled
    assert (stats.delivered, stats.start_writes) == (1, 0)


async def test_what_blocks_gets_one_batch_at_a_time() -> None:
    """Whatever is set for destinations that take requests."""
    exporter = ScriptedExporter(*[lambda _: settle(3)] * 20)
    exporter.blocks = True
    rig = Rig(exporter, concurrency=16, batch_size=1)
    rig.add(*[end(f"s{n}") for n in range(20)])
    assert (await rig.drained()).delivered == 20
    assert exporter.most == 1


@pytest.mark.parametrize("concurrency", [1, 2, 16])
async def test_the_concurrency_is_reached_and_never_exceeded(concurrency: int) -> None:
    """`trace:Q19`, with answers that come in any order."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []

    def hold(batch: Batch) -> asyncio.Future[None]:
        waiting.append(loop.create_future())
        return waiting[-1]

    exporter = ScriptedExporter(*[hold] * 60)
    rig = Rig(exporter, concurrency=concurrency, batch_size=1)
    rig.add(*[end(f"s{n}") for n in range(60)])
    draw = random.Random(concurrency)
    while not rig.lane.is_empty:
        await settle()
        if waiting:
            waiting.pop(draw.randrange(len(waiting))).set_result(None)
    assert exporter.most == concurrency
    assert (await rig.drained()).delivered == 60


async def test_what_a_processor_raises_is_counted() -> None:
    """trace:D8, P5: CancelledError, SystemExit and the like are losses with a name, and no more."""
    errors = [asyncio.CancelledError(), SystemExit(1), KeyError("x"), UnreadableError()]
    exporter = ScriptedExporter(*errors, is_foreign=True)
    rig = Rig(exporter, batch_size=1)
    rig.add(*[end(f"s{n}") for n in range(5)])
    stats = await rig.drained()
    assert dict(stats.dropped) == {type(error).__name__: 1 for error in errors}
    assert stats.delivered == 1


async def test_an_exporter_of_ours_that_trips_over_a_span_costs_only_that_span() -> None:
    """P5: a defect that one span brings to light is bisected like a refusal."""

    def trip(batch: Batch) -> object:
        return OverflowError("a date") if "bad" in ids(batch.records) else None

    exporter = ScriptedExporter(*[trip] * 20)
    rig = Rig(exporter, batch_size=10)
    rig.add(*[end(f"s{n}") for n in range(9)], end("bad"))
    stats = await rig.drained()
    assert dict(stats.dropped) == {"OverflowError": 1}
    assert stats.delivered == 9


async def test_parts_of_a_batch_may_fail() -> None:
    """trace:I2, Q26: each failed span has its own fate; what may be tried again travels together.

    P4: a destination that is down may fail each span by itself, and more and more of them wait.
    """
    failed: dict[int, ExportError] = {
        0: unavailable(),
        1: PermanentExportError("m", reason="ValueError"),
        3: unavailable(),
    }
    exporter = ScriptedExporter(failed, is_foreign=True)
    rig = Rig(exporter)
    rig.add(start("a"), end("b"), end("c"), end("d"))
    stats = await rig.drained()
    assert exporter.batches[0] == ["start a", "end b", "end c", "end d"]
    assert exporter.batches[1:] == [["start a", "end d"]]
    assert (stats.delivered, dict(stats.dropped), stats.start_writes) == (2, {"ValueError": 1}, 1)
    assert len(rig.settled) == 4


async def test_attempts_that_are_limited_end_in_a_drop() -> None:
    """`trace:Q17`."""
    exporter = ScriptedExporter(*[unavailable() for _ in range(9)])
    rig = Rig(exporter, max_retries=3)
    rig.add(end("a"))
    stats = await rig.drained()
    assert (stats.requests, dict(stats.dropped)) == (3, {"http 503": 1})


async def test_a_refusal_costs_the_offender_alone() -> None:
    """V2: named or not."""
    named = BatchRefusedError("m", reason="http 422", status=422, offenders=[3])

    def unnamed(batch: Batch) -> object:
        if "s7" in ids(batch.records):
            return BatchRefusedError("m", reason="http 422", status=422)
        return None

    exporter = ScriptedExporter(named, *[unnamed] * 20)
    rig = Rig(exporter)
    rig.add(*[end(f"s{n}") for n in range(10)])
    stats = await rig.drained()
    assert (stats.delivered, dict(stats.rejected)) == (8, {"http 422": 2})
    assert not {"end s3", "end s7"} & set(exporter.stored)


async def test_spans_grow_too_old_even_during_a_long_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P4: the backend asks for an hour; the spans live for `max_age_s`."""
    exporter = ScriptedExporter(unavailable(retry_after_s=3600.0))
    rig = Rig(exporter, max_age_s=60)
    rig.add(end("a"))
    await until(lambda: rig.lane.reasons(10**9) == {"http 503": 1})
    rig.clock.advance(60.0)
    stats = await rig.drained()
    assert dict(stats.dropped) == {"expired after http 503": 1}


async def test_spans_behind_a_processor_that_hangs_grow_too_old() -> None:
    """P4: no answer comes to wake the lane."""
    exporter = ScriptedExporter(*[lambda batch: asyncio.Event().wait()] * 2, is_foreign=True)
    rig = Rig(exporter, max_age_s=60, concurrency=1, batch_size=1)
    rig.add(end("hung"), end("behind"))
    await until(lambda: rig.stats.in_flight == 1)
    rig.clock.advance(60.0)
    await until(lambda: rig.stats.dropped_total == 1)
    assert (dict(rig.stats.dropped), rig.stats.in_flight) == ({"expired": 1}, 1)


async def test_a_throttled_backend_is_left_alone_as_long_as_it_asked() -> None:
    """Retry-After holds back the whole destination, new spans too, and flushes do not break it."""
    exporter = ScriptedExporter(unavailable(retry_after_s=60.0, congested=True))
    rig = Rig(exporter)
    rig.add(end("a"))
    await until(lambda: rig.stats.requests == 1)
    rig.add(end("b"))
    rig.lane.hurries += 1
    rig.lane.wake()
    await settle()
    assert exporter.batches == [["end a"]]
    assert rig.lane.reasons(10**9) == {"http 503": 1, "not sent yet": 1}
    rig.clock.advance(67.0)
    await rig.drained()
    assert sorted(exporter.stored) == ["end a", "end b"]


# -- moving


async def test_what_a_former_loop_still_says_is_ignored() -> None:
    """L3: the batch was taken back and sent again; a late refusal by the old send is no news."""
    loop = asyncio.get_running_loop()
    old: asyncio.Future[Any] = loop.create_future()
    new: asyncio.Future[Any] = loop.create_future()
    exporter = ScriptedExporter(lambda batch: old, lambda batch: new)
    rig = Rig(exporter)
    rig.add(end("a"))
    await until(lambda: exporter.now == 1)
    with rig.gate:
        rig.lane.detach()
    assert (rig.stats.queued, rig.stats.in_flight) == (1, 0)
    rig.move_here()
    await until(lambda: exporter.now == 2)
    old.set_result(PermanentExportError("m", reason="http 404"))
    await until(lambda: exporter.now == 1)
    await settle()
    assert (rig.stats.in_flight, rig.stats.rejected_total) == (1, 0)
    new.set_result(None)
    stats = await rig.drained()
    assert (stats.delivered, stats.rejected_total) == (1, 0)
    assert len(rig.settled) == 1


async def test_a_late_success_of_a_former_loop_is_not_counted_twice() -> None:
    """L3: both sends are answered with success; one span is delivered."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(2)]
    exporter = ScriptedExporter(*[lambda batch, f=f: f for f in futures])
    rig = Rig(exporter)
    rig.add(end("a"))
    await until(lambda: exporter.now == 1)
    with rig.gate:
        rig.lane.detach()
    rig.move_here()
    await until(lambda: exporter.now == 2)
    for future in reversed(futures):
        future.set_result(None)
    await until(lambda: not exporter.now)
    stats = await rig.drained()
    assert (stats.delivered, len(rig.settled)) == (1, 1)


async def test_a_runner_that_is_cancelled_before_its_first_step_is_missed() -> None:
    """P3: `asyncio.run` cancels what has not begun; the owner hears of it all the same."""
    rig = Rig(ScriptedExporter())
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await settle()
    assert len(rig.orphaned) == 1


async def test_a_send_that_is_cancelled_with_its_loop_is_taken_back() -> None:
    """P1: nothing is lost with the loop."""
    exporter = ScriptedExporter(lambda batch: asyncio.Event().wait())
    rig = Rig(exporter)
    rig.add(end("a"))
    await until(lambda: exporter.now)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await until(lambda: rig.orphaned)
    assert (rig.stats.queued, rig.stats.in_flight) == (1, 0)
    with rig.gate:
        rig.lane.detach()
    rig.move_here()
    assert (await rig.drained()).delivered == 1


@pytest.mark.parametrize("is_inside", [False, True])
async def test_a_send_that_the_collector_closes_is_taken_back(is_inside: bool) -> None:
    """P1: its loop is gone and never said so; the collector may run inside the gate, too."""
    rig = Rig(ScriptedExporter())

    async def never(batch: Batch) -> None:
        await asyncio.Event().wait()

    exporter = ScriptedExporter(never)
    rig.lane.exporter = exporter
    with rig.gate:
        rig.lane._backlog.add_end(record := end("a", rig.clock.monotonic()))
        rig.lane.account.accepted += 1
        batch, _ = rig.lane._step()
    assert batch is not None
    send = rig.lane._send(batch, asyncio.Event())
    send.send(None)
    assert rig.stats.in_flight == 1
    if is_inside:
        with rig.gate:
            send.close()
    else:
        send.close()
    assert (rig.stats.queued, rig.stats.in_flight) == (1, 0)
    assert rig.lane._backlog.take_all() == [record]
    rig.lane.account.accepted -= 1


async def test_giving_up_counts_all_that_is_held() -> None:
    """trace:D10: waiting, held, parked, delayed and in flight."""
    hang = [lambda batch: asyncio.Event().wait()] * 3
    exporter = ScriptedExporter(unavailable(retry_after_s=60.0), *hang)
    rig = Rig(exporter)
    records = [end("parked")]
    rig.add(*records)
    await until(lambda: rig.stats.requests == 1)
    rig.lane._paused_until_s = 0.0
    flying = [start("flying"), end("also flying")]
    rig.add(*flying)
    rig.lane.wake()
    await until(lambda: exporter.now == 1)
    with rig.gate:
        rig.lane._backlog.linger_s = 60.0
    late = [end("flying"), end("waiting")]
    rig.add(*late)
    with rig.gate:
        rig.lane.give_up("shutdown")
    assert dict(rig.stats.dropped) == {"shutdown": 4}
    assert sorted(map(id, rig.settled)) == sorted(map(id, [*records, *flying, *late]))
    rig.lane.stop()
    await until(lambda: exporter.closed)


async def test_stopping_cancels_and_closes_on_the_lanes_own_loop() -> None:
    """No task is left behind, and nobody takes it for the loop's end."""
    exporter = ScriptedExporter(lambda batch: asyncio.Event().wait())
    rig = Rig(exporter)
    rig.add(end("a"))
    await until(lambda: exporter.now)
    with rig.gate:
        rig.lane.give_up("shutdown")
    rig.lane.stop()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert exporter.closed == 1
    assert rig.orphaned == []


# -- idling


async def test_a_lane_does_not_spin() -> None:
    """Idle, lingering, paused or saturated, it looks once for each thing that happens."""
    looks = 0
    exporter = ScriptedExporter(
        unavailable(retry_after_s=600.0), *[lambda batch: asyncio.Event().wait()] * 9
    )
    rig = Rig(exporter, linger_ms=3_600_000, batch_size=2, concurrency=1)
    step = rig.lane._step

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return step()

    rig.lane._step = counted  # type: ignore[method-assign]
    await settle()
    assert looks <= 1, "idle"
    rig.add(end("a"))
    await settle(200)
    assert looks <= 3, "lingering"
    rig.add(end("b"))
    await until(lambda: rig.stats.requests == 1)
    await settle(200)
    assert looks <= 7, "paused"
    rig.clock.advance(700.0)
    rig.add(*[end(f"s{n}") for n in range(6)])
    rig.lane.wake()
    await until(lambda: rig.stats.requests >= 2)
    before = looks
    await settle(500)
    assert looks - before <= 2, "saturated"
    with rig.gate:
        rig.lane.give_up("shutdown")
    rig.lane.stop()
    await settle()


async def test_the_books_tell_how_long_the_oldest_span_has_waited() -> None:
    """B1: since it ended, wherever it is held: backlog, in flight, parked, behind its START."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    rig = Rig(ScriptedExporter(answer, is_foreign=True), linger_ms=50, start_delay_s=None)
    assert rig.stats.oldest_age_s is None
    rig.add(start("open"))
    rig.clock.advance(1.0)
    await until(lambda: rig.stats.requests == 1)
    assert rig.stats.oldest_age_s is None, "a START is no ended span"
    rig.add(end("open"))
    rig.clock.advance(2.0)
    assert rig.stats.oldest_age_s == 2.0, "behind its START"
    answer.set_exception(unavailable())
    await until(lambda: rig.stats.in_flight == 0)
    rig.add(end("later"))
    assert rig.stats.oldest_age_s == 2.0
    rig.clock.advance(60.0)
    await rig.drained()
    assert rig.stats.oldest_age_s is None


async def test_a_span_in_flight_and_one_that_is_parked_grow_old() -> None:
    """B1: an attempt does not make a span young."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    rig = Rig(ScriptedExporter(answer))
    rig.add(end("a"))
    await until(lambda: rig.stats.in_flight == 1)
    rig.clock.advance(3.0)
    assert rig.stats.oldest_age_s == 3.0
    answer.set_exception(unavailable(retry_after_s=100.0))
    await until(lambda: rig.stats.queued == 1)
    rig.clock.advance(4.0)
    assert rig.stats.oldest_age_s == 7.0
    with rig.gate:
        rig.lane.give_up("shutdown")
    assert rig.stats.oldest_age_s is None
    rig.lane.stop()
    await settle()


async def test_losses_are_said_at_once_and_then_sparsely(caplog: pytest.LogCaptureFixture) -> None:
    """P4, trace:Q27: the first, the tenth, the hundredth."""
    exporter = ScriptedExporter(*[KeyError("x") for _ in range(50)], is_foreign=True)
    rig = Rig(exporter, batch_size=1)
    with caplog.at_level(logging.WARNING, "everyspan"):
        rig.add(*[end(f"s{n}") for n in range(50)])
        await rig.drained()
    assert [record.getMessage() for record in caplog.records] == [
        f"spans lost on the way to scripted: KeyError, {lost} so far "
        "(all counted in everyspan.stats())"
        for lost in (1, 10)
    ]


async def test_many_losses_at_once_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """P4."""
    rig = Rig(ScriptedExporter())
    with caplog.at_level(logging.WARNING, "everyspan"), rig.gate:
        for number in range(500):
            rig.lane.refuse(end(f"s{number}"), "queue full")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "queue full, 500 so far" in line


async def test_a_log_that_raises_stops_no_lane() -> None:
    """P2, P5: the agent's own filter; what comes after the loss is delivered."""

    def broken(record: logging.LogRecord) -> bool:
        raise ValueError

    logger = logging.getLogger("everyspan")
    logger.addFilter(broken)
    try:
        rig = Rig(ScriptedExporter(KeyError("x"), is_foreign=True), batch_size=1, concurrency=1)
        rig.add(end("a"), end("b"))
        await rig.drained()
    finally:
        logger.removeFilter(broken)
    assert (rig.stats.dropped_total, rig.stats.delivered) == (1, 1)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_some_statuses_of_foreign_errors_are_worth_another_try(status: int) -> None:
    """trace:Q25."""
    error = Exception("m")
    error.status_code = status  # type: ignore[attr-defined]
    assert isinstance(classify(error), RetryableExportError)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 501, None, "503", object(), []])
def test_no_other_foreign_error_is(status: object) -> None:
    """trace:Q25: whatever `status_code` is."""
    error = Exception("m")
    error.status_code = status  # type: ignore[attr-defined]
    assert type(classify(error)) is PermanentExportError
    assert classify(RuntimeError()).reason == "RuntimeError"


@pytest.mark.parametrize(("setting", "ceiling"), [(None, 3), (2, 2)])
async def test_one_request_a_span_means_one_span_a_batch(setting: int | None, ceiling: int) -> None:
    """Exporter.one_by_one, `trace:V1`: each is counted, retried and paced by itself."""
    answered = asyncio.Event()

    async def wait() -> None:
        await answered.wait()

    exporter = ScriptedExporter(*[lambda batch: wait()] * ceiling)
    exporter.one_by_one, exporter.concurrency = True, 3
    rig = Rig(exporter, **({} if setting is None else {"concurrency": setting}))
    rig.add(*[end(f"s{n}") for n in range(20)])
    await until(lambda: exporter.now == ceiling)
    await settle()
    assert len(exporter.batches) == ceiling
    exporter.steps = [{}, {}, unavailable()]
    answered.set()
    stats = await rig.drained()
    assert {len(batch) for batch in exporter.batches} == {1}
    assert (stats.delivered, stats.requests) == (20, 21)


async def test_an_end_learns_that_its_start_is_stored() -> None:
    """K6: not if the START was given up."""
    seen: list[list[str]] = []

    def look(batch: Batch) -> dict[int, ExportError]:
        seen.append(ids(batch.started))
        return {}

    refused = PermanentExportError("m", reason="http 404", status=404)
    exporter = ScriptedExporter(lambda batch: {1: refused}, look, look)
    rig = Rig(exporter)
    rig.add(start("stored"), start("refused"))
    await until(lambda: rig.lane.is_empty)
    rig.add(end("stored"), end("refused"))
    await rig.drained()
    rig.add(end("stored"))
    await rig.drained()
    assert seen == [["stored"], []]


async def test_requests_that_fail_together_are_one_failure() -> None:
    """DESIGN, backoff: the next wait is that after one failure, however many were under way."""
    answered = asyncio.Event()
    seen: list[int] = []

    async def fail(batch: Batch) -> ExportError:
        await answered.wait()
        return unavailable()

    def look(batch: Batch) -> dict[int, ExportError]:
        seen.append(rig.lane._failures)
        return {}

    exporter = ScriptedExporter(*[fail] * 4, look)
    exporter.one_by_one = True
    rig = Rig(exporter)
    rig.add(*[end(f"s{n}") for n in range(4)])
    await until(lambda: exporter.now == 4)
    rig.clock.advance(0.1)
    answered.set()
    assert (await rig.drained()).delivered == 4
    assert seen == [1]


async def test_a_destination_that_is_down_is_said_and_that_it_is_well_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """P4, needs B1: once a minute, and not for a restart; nothing about it where it stays well."""
    caplog.set_level(logging.INFO)

    def fail(batch: Batch) -> ExportError:
        rig.clock.advance(2.0)
        return unavailable()

    exporter = ScriptedExporter(*[fail] * 2)
    rig = Rig(exporter, concurrency=1)
    rig.add(end("a"))
    await rig.drained()
    assert caplog.messages == []
    exporter.steps = [fail] * 5
    rig.add(end("a"), end("b"))
    await rig.drained()
    assert caplog.messages == [
        "scripted fails for 6 s: http 503, 3 times in a row; 2 spans wait, each for 300 s at most",
        "scripted takes spans again",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


CROWDED = unavailable(status=429, congested=True)


async def crowded(fourth: ExportError, *steps: Any) -> Rig:
    """A lane with three requests under way, for which `answers` are, and what follows."""

    def refuse(batch: Batch) -> ExportError:
        rig.clock.advance(1.0)
        return fourth

    exporter = ScriptedExporter(*[lambda batch: rig.answers.get()] * 3, refuse, *steps)
    exporter.one_by_one = True
    rig: Rig = Rig(exporter)
    rig.add(*[end(f"s{n}") for n in range(12)])
    await until(lambda: len(exporter.batches) == 4)
    await settle()
    return rig


async def test_a_refusal_among_others_makes_the_limit_smaller_and_pauses_nothing() -> None:
    """P4: too many were under way; the others show that the destination works."""
    rig = await crowded(CROWDED)
    assert (rig.lane._limiter.limit, rig.lane._failures) == (2, 0)
    assert rig.stats.requests == 4
    for _ in range(3):
        rig.answers.put_nowait({})
    assert (await rig.drained()).delivered == 12
    assert rig.lane._failures == 0


async def test_a_second_refusal_with_nothing_stored_in_between_pauses() -> None:
    """DESIGN, backoff: the destination is down, or full of what others send."""
    rig = await crowded(CROWDED, CROWDED)
    for refusals in (1, 2):
        assert (rig.stats.requests, rig.lane._failures) == (4, 0), refusals
        rig.answers.put_nowait(CROWDED)
        await settle()
    assert (rig.stats.requests, rig.lane._failures) == (5, 1)
    rig.answers.put_nowait({})
    assert (await rig.drained()).delivered == 12


async def test_a_refusal_that_says_how_long_pauses() -> None:
    """DESIGN, backoff: `Retry-After` is obeyed, whoever else is under way."""
    rig = await crowded(unavailable(status=429, congested=True, retry_after_s=60.0))
    assert rig.lane._failures == 1
    assert rig.lane._paused_until_s >= rig.clock.monotonic() + 60.0
    for _ in range(3):
        rig.answers.put_nowait({})
    await settle()
    rig.clock.advance(67.0)
    assert (await rig.drained()).delivered == 12


async def test_a_batch_of_which_nothing_was_stored_is_no_success() -> None:
    """DESIGN, backoff: single outcomes, all bad, do not begin the waits anew."""
    seen: list[int] = []

    def fail(batch: Batch) -> dict[int, ExportError]:
        seen.append(rig.lane._failures)
        return {0: unavailable()}

    rig = Rig(ScriptedExporter(*[fail] * 5), batch_size=1, concurrency=1)
    rig.add(end("a"))
    await rig.drained()
    assert seen == [0, 1, 2, 3, 4]
    assert rig.lane._failures == 0


def refused(status: int = 422) -> BatchRefusedError:
    """A refusal that names nobody."""
    return BatchRefusedError("m", reason=f"http {status}", status=status)


class Moody(ScriptedExporter):
    """Answers every batch with `mood`, an error, or takes it."""

    def __init__(self, mood: ExportError | None) -> None:
        super().__init__()
        self.mood = mood

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """See `Exporter`."""
        self.steps = [] if self.mood is None else [self.mood]
        return await super().export(batch)


@pytest.mark.parametrize(
    "mood",
    [refused(), DestinationRefusedError("m", reason="http 401", status=401)],
    ids=["every span", "the key"],
)
async def test_a_destination_that_refuses_everything_costs_few_requests_and_no_span(
    mood: ExportError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """P5: 10,000 spans, under 200 requests in the first minute, all delivered once it accepts."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", random.Random(7).random)
    exporter = Moody(mood)
    rig = Rig(exporter, batch_size=200)
    rig.add(*[end(f"s{n}") for n in range(10_000)])
    for _ in range(600):
        await settle()
        rig.clock.advance(0.1)
    assert 3 < len(exporter.batches) < 200
    assert rig.lane.reasons(10**9).keys() <= {mood.reason, "not sent yet", "no answer yet"}
    assert rig.lane.reasons(10**9)[mood.reason] >= 200
    assert rig.stats.queued + rig.stats.in_flight == 10_000
    told = [r.message for r in caplog.records if "takes no spans" in r.message]
    assert len(told) == 1
    assert mood.reason in told[0]
    exporter.mood = None
    for _ in range(400):
        await settle()
        rig.clock.advance(0.1)
    stats = await rig.drained()
    assert (stats.delivered, stats.rejected_total, stats.dropped_total) == (10_000, 0, 0)


async def test_while_it_refuses_everything_one_span_at_a_time_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P5: another one each time, new ones too, so that bad ones do not hide good ones."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", random.Random(7).random)
    exporter = Moody(DestinationRefusedError("m", reason="http 403", status=403))
    rig = Rig(exporter, batch_size=50)
    rig.add(*[end(f"s{n}") for n in range(50)])
    await until(lambda: exporter.batches)
    rig.add(*[end(f"n{n}") for n in range(50)])
    for _ in range(3000):
        await settle(5)
        rig.clock.advance(0.1)
    probes = [batch for batch in exporter.batches[1:] if len(batch) == 1]
    assert len(probes) == len(exporter.batches) - 1 >= 6
    assert exporter.most == 1
    assert len({batch[0] for batch in probes}) > len(probes) / 2
    assert {batch[0][4] for batch in probes} == {"s", "n"}


async def test_the_first_span_of_all_if_refused_waits_for_another_to_be_stored() -> None:
    """P5: only then is it known that the span is bad, not the destination."""

    class Picky(ScriptedExporter):
        async def export(self, batch: Batch) -> Mapping[int, ExportError]:
            """See `Exporter`."""
            self.steps = [refused()] if any(r.id == "bad" for r in batch.records) else []
            return await super().export(batch)

    exporter = Picky()
    rig = Rig(exporter)
    rig.add(end("bad"))
    await until(lambda: rig.lane.reasons(10**9) == {"http 422": 1})
    rig.add(end("good"))
    for _ in range(200):
        await settle()
        rig.clock.advance(1.0)
    stats = await rig.drained()
    assert (stats.delivered, dict(stats.rejected)) == (1, {"http 422": 1})


async def test_what_grew_too_old_meanwhile_tells_why() -> None:
    """P1: the reason is kept, for spans that were never sent as well."""
    exporter = Moody(DestinationRefusedError("m", reason="http 401", status=401))
    rig = Rig(exporter, batch_size=5, max_age_s=60)
    rig.add(*[end(f"s{n}") for n in range(20)])
    await until(lambda: exporter.batches)
    for _ in range(70):
        await settle()
        rig.clock.advance(1.0)
    stats = await rig.drained()
    assert dict(stats.dropped) == {"expired after http 401": 20}


async def test_after_a_failure_one_request_finds_out_whether_it_is_over() -> None:
    """DESIGN, backoff: a backend that comes back is not met by all that was held."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    exporter = ScriptedExporter(*[unavailable()] * 4, lambda batch: gate)
    rig = Rig(exporter, batch_size=1)
    rig.add(*[end(f"s{n}") for n in range(40)])
    await until(lambda: len(exporter.batches) >= 5)
    await settle(50)
    assert (exporter.now, len(exporter.batches)) == (1, 5)
    gate.set_result(None)
    assert (await rig.drained()).delivered == 40


@pytest.mark.parametrize("status", [403, 404, 302])
async def test_a_span_that_a_firewall_refuses_costs_only_itself(status: int) -> None:
    """P5: it answers as if the key or the path were wrong, for what it reads in one body."""

    class Firewall(ScriptedExporter):
        async def export(self, batch: Batch) -> Mapping[int, ExportError]:
            """See `Exporter`."""
            is_bad = any(r.id == "s77" for r in batch.records)
            error = DestinationRefusedError("m", reason=f"http {status}", status=status)
            self.steps = [error] if is_bad else []
            return await super().export(batch)

    exporter = Firewall()
    rig = Rig(exporter, batch_size=50)
    rig.add(*[end(f"s{n}") for n in range(200)])
    for _ in range(600):
        await settle()
        rig.clock.advance(0.1)
    stats = await rig.drained()
    assert (stats.delivered, dict(stats.rejected)) == (199, {f"http {status}": 1})
    assert len(exporter.batches) < 40
