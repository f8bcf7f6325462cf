"""P1: at every instant the books explain every span, and a span forgotten anywhere shows.

Each mutant below forgets one span at one hand-over. The books are only worth something if each of
them makes the residual non-zero.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from everyspan.config import load_settings
from everyspan.delivery import verdict
from everyspan.delivery.backlog import Backlog, Batch
from everyspan.delivery.lane import Lane
from everyspan.errors import (
    BatchRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.model.record import SpanRecord
from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig
from everyspan.queue.intake import Intake
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.records import make_span
from tests.waiting import wait_until

SPANS = 60


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once: the draw of the jitter is 0."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)


class Sampler:
    """Reads the books all the time, from a thread of its own."""

    def __init__(self, queue: AsyncSpanQueue) -> None:
        self.residuals: set[int] = set()
        self.samples = 0
        self._queue = queue
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.residuals.add(self._queue.stats().residual)
            self.samples += 1

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self.residuals.add(self._queue.stats().residual)


def flaky(seed: int) -> Callable[[Request], Answer]:
    """A backend that fails in every way, a third of the time."""
    draw = random.Random(seed)

    def script(request: Request) -> Answer:
        bad = [n for n, item in enumerate(request.spans) if item["id"].endswith("7")]
        kind = draw.choice(["ok"] * 6 + ["503", "429", "lose", "413"])
        if kind == "ok" and bad:
            return faults.refuse(*bad) if draw.random() < 0.5 else faults.refuse()
        if kind == "413" and len(request.spans) == 1:
            kind = "503"
        return {
            "ok": faults.ok(),
            "503": faults.status(503),
            "429": faults.status(429, retry_after=0.001),
            "lose": faults.lose_reply(),
            "413": faults.status(413),
        }[kind]

    return script


@pytest.mark.parametrize("seed", range(3))
def test_the_books_explain_every_span_at_every_instant(seed: int) -> None:
    """P1: four threads record, the backend is flaky, a fifth reads the books meanwhile."""
    with FaultServer(flaky(seed)) as backend:
        config = SGPTracingProcessorConfig("key", "account", backend.base_url)
        processor = SGPAsyncTracingProcessor(config)
        queue = AsyncSpanQueue(
            settings=load_settings(batch_size=20, linger_ms=1, start_delay_ms=1), own_homes=True
        )

        def record(thread: int) -> None:
            for number in range(150):
                span = make_span(f"{thread}-{number}", trace_id=f"t{thread}")
                queue.enqueue("start", span, [processor])
                queue.enqueue("end", span, [processor])

        with Sampler(queue) as sampler:
            threads = [threading.Thread(target=record, args=(t,)) for t in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            queue.shutdown_sync(30)
        (stats,) = queue.stats().destinations
        assert sampler.residuals == {0}
        assert sampler.samples > 10
        assert (stats.accepted, stats.delivered) == (600, 540)
        assert dict(stats.rejected) == {"http 422": 60}
        assert sum(not id.endswith("7") for id in backend.rows) == 540
        assert queue._intake.bytes_held == 0


# -- mutants


class Script:
    """An exporter whose answers cover every path a span can take."""

    name = "script"
    wants_every_start = False
    is_foreign = False
    blocks = False
    start_delay_s: float | None = 0.0
    hint: str | None = None
    one_by_one = False
    only_ends = False
    concurrency = 16

    def __init__(self, *steps: Any, is_foreign: bool = False) -> None:
        self.steps = [*steps]
        self.is_foreign = self.wants_every_start = is_foreign
        self.calls = 0

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """See `Exporter`."""
        self.calls += 1
        step = self.steps.pop(0) if self.steps else {}
        if step == "hang":
            await asyncio.Event().wait()
        if isinstance(step, BaseException):
            raise step
        failed: Mapping[int, ExportError] = step
        return failed

    def connections(self) -> int:
        """None."""
        return 0

    async def close(self) -> None:
        """Nothing to close."""


def unavailable(**fields: Any) -> RetryableExportError:
    """A 503."""
    return RetryableExportError("m", reason="http 503", **fields)


def enqueue(queue: AsyncSpanQueue, exporter: Script, *, starts: bool = False) -> None:
    """Record spans."""
    for number in range(SPANS):
        span = make_span(f"s{number}")
        if starts:
            queue.enqueue("start", span, [exporter])  # type: ignore[list-item]
        queue.enqueue("end", span, [exporter])  # type: ignore[list-item]


def drained(*steps: Any, starts: bool = False, **settings: Any) -> AsyncSpanQueue:
    """A queue whose spans went to a scripted exporter and all have their answer."""
    # A linger that no slow machine outlasts: the batch is whole.
    settings = {"linger_ms": 10_000, "batch_size": SPANS} | settings
    exporter = Script(*steps, is_foreign=settings.pop("is_foreign", False))
    queue = AsyncSpanQueue(settings=load_settings(**settings), own_homes=True)
    enqueue(queue, exporter, starts=starts)
    queue.shutdown_sync(5)
    return queue


def stored() -> AsyncSpanQueue:
    """Every span is taken at once."""
    return drained(batch_size=7)


def retried() -> AsyncSpanQueue:
    """The first try fails."""
    return drained(unavailable())


def refused() -> AsyncSpanQueue:
    """Bisected until the backend is content."""
    return drained(BatchRefusedError("m", reason="http 422"))


def named() -> AsyncSpanQueue:
    """Some are cut out by name."""
    return drained(BatchRefusedError("m", reason="http 422", offenders=[0, 5]))


def rejected() -> AsyncSpanQueue:
    """All are refused for good."""
    return drained(PermanentExportError("m", reason="http 404"))


def exhausted() -> AsyncSpanQueue:
    """All are given up after three attempts."""
    return drained(*[unavailable()] * 3, max_retries=3)


def held() -> AsyncSpanQueue:
    """ENDs wait for their STARTs."""
    return drained(starts=True, is_foreign=True)


def failed_singly() -> AsyncSpanQueue:
    """A user's processor fails for some spans of a batch, for good and for now."""
    failed = {0: unavailable(), 1: PermanentExportError("m", reason="KeyError"), 2: unavailable()}
    return drained(failed, is_foreign=True)


def expired() -> AsyncSpanQueue:
    """All grow too old behind a batch that hangs."""
    exporter = Script("hang", is_foreign=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERYSPAN_MAX_AGE_S", "0.02")
        queue = AsyncSpanQueue(own_homes=True, linger_ms=0, batch_size=1, concurrency=1)
    enqueue(queue, exporter)
    wait_until(lambda: not queue.stats().destinations[0].queued)
    queue.shutdown_sync(0)
    return queue


def given_up() -> AsyncSpanQueue:
    """The deadline of a shutdown comes first: some are in flight, some wait."""
    exporter = Script(*["hang"] * 9)
    queue = AsyncSpanQueue(own_homes=True, linger_ms=0, batch_size=10)
    enqueue(queue, exporter)
    wait_until(lambda: exporter.calls == 4)
    queue.shutdown_sync(0)
    return queue


def moved() -> AsyncSpanQueue:
    """The loop ends in the middle of a send; another thread goes on."""
    exporter = Script("hang", "hang", "hang", "hang")
    queue = AsyncSpanQueue(linger_ms=0, batch_size=10)

    async def main() -> None:
        enqueue(queue, exporter)
        while exporter.calls < 4:
            await asyncio.sleep(0)

    asyncio.run(main())
    queue.shutdown_sync(5)
    return queue


def left() -> AsyncSpanQueue:
    """The process ends: what waits is drained within the grace."""
    exporter = Script(unavailable())
    queue = AsyncSpanQueue(own_homes=True, linger_ms=60_000)
    enqueue(queue, exporter)
    queue.leave()
    queue.shutdown_sync(5)
    return queue


SCENARIOS = [
    stored,
    retried,
    refused,
    named,
    rejected,
    exhausted,
    held,
    failed_singly,
    expired,
    given_up,
    moved,
    left,
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_scenario_loses_a_span(scenario: Callable[[], AsyncSpanQueue]) -> None:
    """P1: without a mutant, all is explained."""
    queue = scenario()
    stats = queue.stats()
    assert stats.residual == 0
    (destination,) = stats.destinations
    assert destination.accepted == SPANS
    assert destination.queued == destination.in_flight == 0
    assert queue._intake.bytes_held == 0


Patch = Callable[[pytest.MonkeyPatch], None]


def losing_argument(owner: type, name: str) -> Patch:
    """The method does nothing, once, with the END it was given."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        method, is_done = getattr(owner, name), False

        def mutant(self: Any, record: SpanRecord, *args: Any) -> Any:
            nonlocal is_done
            if not is_done and record.is_end:
                is_done = True
                return []
            return method(self, record, *args)

        monkeypatch.setattr(owner, name, mutant)

    return patch


def losing_from_batch(owner: Any, name: str, *, of_result: bool = False) -> Patch:
    """The batch that the method is given, or returns, is one END short, once."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        method, is_done = getattr(owner, name), False

        def mutant(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_done
            result = method(*args, **kwargs) if of_result else None
            things = result if of_result else args[0] if isinstance(args[0], Batch) else args[1]
            batches = things if isinstance(things, list) else [things]
            for batch in batches:
                if not is_done and batch is not None and batch.ends:
                    is_done = True
                    batch.ends.pop()
            return result if of_result else method(*args, **kwargs)

        monkeypatch.setattr(owner, name, mutant)

    return patch


def losing_from_list(owner: Any, name: str) -> Patch:
    """The records that the method returns are one END short, once."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        method, is_done = getattr(owner, name), False

        def mutant(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_done
            records = method(*args, **kwargs)
            for record in [*records]:
                if not is_done and record.is_end:
                    is_done = True
                    records.remove(record)
            return records

        monkeypatch.setattr(owner, name, mutant)

    return patch


def forgetting_held_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A START that is settled frees nothing, once."""
    method, is_done = Backlog.settle, False

    def mutant(self: Backlog, starts: Any) -> None:
        nonlocal is_done
        some = [*starts]
        if not is_done and self._held:
            is_done = True
            self._held.popitem()
        method(self, some)

    monkeypatch.setattr(Backlog, "settle", mutant)


def forgetting_a_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is sent without being noted as in flight, once."""
    method, is_done = Lane._decide, False

    def mutant(self: Lane, now_s: float) -> Any:
        nonlocal is_done
        decision = method(self, now_s)
        if not is_done and decision[0] is not None:
            is_done = True
            self._in_flight.pop(id(decision[0]))
        return decision

    monkeypatch.setattr(Lane, "_decide", mutant)


def forgetting_a_failed_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that failed by itself meets no fate, once."""
    method, is_done = Lane._failed, False

    def mutant(self: Lane, *args: Any) -> None:
        nonlocal is_done
        if is_done:
            method(self, *args)
        is_done = True

    monkeypatch.setattr(Lane, "_failed", mutant)


def forgetting_an_inbox_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """An END that left the inbox reaches no lane, once."""
    losing_argument(Intake, "_take_end")(monkeypatch)


MUTANTS: dict[str, tuple[Callable[[], AsyncSpanQueue], Patch]] = {
    "inbox to lane": (stored, forgetting_an_inbox_item),
    "lane to backlog": (stored, losing_argument(Backlog, "add_end")),
    "cut of a batch": (stored, losing_from_batch(Backlog, "_cut", of_result=True)),
    "batch to flight": (stored, forgetting_a_flight),
    "flight to delivered": (stored, losing_from_batch(Lane, "_settle")),
    "retry": (retried, losing_from_batch(Backlog, "park")),
    "retry taken up": (retried, losing_from_batch(Backlog, "take", of_result=True)),
    "bisect": (refused, losing_from_batch(verdict, "_halves", of_result=True)),
    "cut-out": (named, losing_from_batch(verdict, "_part", of_result=True)),
    "rejected": (rejected, losing_argument(Lane, "_lose")),
    "dropped": (exhausted, losing_argument(Lane, "_lose")),
    "held for a START": (held, forgetting_held_ends),
    "foreign singles": (failed_singly, forgetting_a_failed_single),
    "expiry": (expired, losing_from_list(Backlog, "take_expired")),
    "give up": (given_up, losing_from_list(Backlog, "take_all")),
    "give up in flight": (given_up, losing_argument(Lane, "_lose")),
    "loop move": (moved, losing_from_batch(Lane, "_take_back")),
    "loop move, parked": (moved, losing_from_batch(Backlog, "park")),
    "exit drain": (left, losing_from_batch(Backlog, "_cut", of_result=True)),
    "exit drain, retried": (left, losing_from_batch(Backlog, "park")),
}


@pytest.fixture
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that leaves a waiter waiting is not waited for."""
    wait = AsyncSpanQueue._wait_sync

    def shorter(self: AsyncSpanQueue, timeout: float, *, stop: bool) -> Any:
        return wait(self, min(timeout, 1.0), stop=stop)

    monkeypatch.setattr(AsyncSpanQueue, "_wait_sync", shorter)


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.usefixtures("_unhurried")
def test_a_forgotten_span_shows(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: at whichever hand-over it was lost, the residual says so."""
    scenario, patch = MUTANTS[mutant]
    # On real threads a schedule may, rarely, pass by the hand-over that is spoilt.
    for _ in range(3):
        with monkeypatch.context() as patched:
            patch(patched)
            if scenario().stats().residual:
                return
    pytest.fail("nothing was lost to the mutant, or nothing shows it")


def test_the_completeness_record_shows_what_never_reached_the_inbox() -> None:
    """P11: no book can miss a span that was never offered, but its trace stays open."""
    queue, exporter = AsyncSpanQueue(own_homes=True, linger_ms=0), Script()
    span = make_span("lost")
    queue.enqueue("start", span, [exporter])  # type: ignore[list-item]
    queue.enqueue("end", make_span("other"), [exporter])  # type: ignore[list-item]
    assert queue.flush_sync(5)
    assert queue.stats().open_spans == 1
    queue.shutdown_sync(5)
