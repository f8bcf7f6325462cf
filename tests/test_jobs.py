"""`job()`: work that ends with nothing under way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import everyspan
from everyspan import pipeline
from everyspan.errors import SettingsError
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.waiting import until

FOREVER_MS = 3_600_000


@pytest.fixture
def memory() -> Iterator[everyspan.InMemoryTracingProcessor]:
    """A destination that nothing reaches unless somebody drains."""
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory, linger_ms=FOREVER_MS)
    yield memory
    everyspan.shutdown(20)
    everyspan.set_tracing_processor_configs([])


@pytest.fixture
def held() -> Iterator[Held]:
    """A destination that keeps everybody waiting until it is let go."""
    held = Held()
    everyspan.configure(held, linger_ms=FOREVER_MS)
    yield held
    held.go.set()
    everyspan.shutdown(20)
    everyspan.set_tracing_processor_configs([])


class Held(everyspan.SyncTracingProcessor):
    """A user's processor whose thread waits for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.ended: list[str] = []

    def on_span_start(self, span: everyspan.Span) -> None:
        pass

    def on_span_end(self, span: everyspan.Span) -> None:
        assert self.go.wait(60)
        self.ended.append(span.name)

    def shutdown(self) -> None:
        pass


def record(name: str) -> None:
    with everyspan.span(name):
        pass


def test_a_job_ends_with_all_delivered(memory: everyspan.InMemoryTracingProcessor) -> None:
    """J1: and the next one records as well."""
    for n in (1, 2):
        with everyspan.job() as job:
            record("x")
            assert job.result is None
        assert job.result
        assert len(memory.spans) == n


def test_a_job_ends_in_time_and_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """J1: the backend never answers."""

    def hang(request: Request) -> Answer:
        return faults.hang()

    with FaultServer(hang) as backend:
        sgp = everyspan.SGPTracingProcessorConfig("key", "account", backend.base_url)
        everyspan.configure(sgp, linger_ms=0)
        with caplog.at_level(logging.WARNING, "everyspan"), everyspan.job(timeout=0.1) as job:
            record("x")
        assert job.result is not None
        assert not job.result.ok
        assert sum(job.result.left["sgp"].values()) == 1
        left = {"sgp": dict(job.result.left["sgp"])}
        assert [line.getMessage() for line in caplog.records] == [
            f"a job ended before its spans were delivered: {left}"
        ]
        assert everyspan.stats().destinations[0].dropped_total == 0, "a flush, no shutdown"
        everyspan.shutdown(0)
        everyspan.set_tracing_processor_configs([])


def test_the_jobs_own_exception_passes_unchanged(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    """J2: what it recorded is delivered all the same."""
    error = KeyError("mine")
    job = everyspan.job()

    def work() -> None:
        with job, everyspan.span("x"):
            raise error

    with pytest.raises(KeyError) as caught:
        work()
    assert caught.value is error
    assert job.result
    assert [span.name for span in memory.spans] == ["x"]


async def test_an_async_job_blocks_no_loop(held: Held) -> None:
    """J3: the destination is let go by another task of this loop."""

    async def let_go() -> None:
        await asyncio.sleep(0)
        held.go.set()

    task = asyncio.create_task(let_go())
    async with everyspan.job(timeout=20) as job:
        record("x")
    assert task.done()
    assert job.result
    assert held.ended == ["x"]


async def test_a_sync_job_on_a_loop_does_not_wait(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """J3: it says how to, and what is left goes on."""
    with caplog.at_level(logging.WARNING, "everyspan"), everyspan.job(timeout=60) as job:
        record("x")
    assert not held.go.is_set()
    assert job.result is not None
    assert not job.result
    assert "use `async with everyspan.job()`" in caplog.text
    held.go.set()
    assert await everyspan.aflush(20)
    assert held.ended == ["x"]


async def test_a_cancelled_job_drains_and_stays_cancelled(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    """J2."""
    jobs = []

    async def work() -> None:
        async with everyspan.job(timeout=20) as job:
            jobs.append(job)
            record("x")
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await until(lambda: jobs)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert jobs[0].result
    assert [span.name for span in memory.spans] == ["x"]


def test_a_coroutine_that_is_closed_awaits_no_more(held: Held) -> None:
    """J2: a loop that was closed on the way lets its coroutines be collected."""

    async def work() -> None:
        async with everyspan.job(timeout=0):
            await asyncio.sleep(0)

    coroutine = work()
    coroutine.send(None)
    coroutine.close()


# -- decorated


def test_every_call_of_a_decorated_function_is_a_job(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    @everyspan.job
    def plain(name: str) -> str:
        record(name)
        return name.upper()

    class Worker:
        @everyspan.job(timeout=20)
        def run(self, name: str) -> str:
            record(name)
            return name.upper()

    assert plain("a") == "A"
    assert [span.name for span in memory.spans] == ["a"]
    assert Worker().run(name="b") == "B"
    assert [span.name for span in memory.spans] == ["a", "b"]
    assert plain.__name__ == "plain"


async def test_every_call_of_a_decorated_coroutine_function_is_a_job(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    """J3: calls at once do not disturb each other."""

    @everyspan.job(timeout=20)
    async def activity(name: str) -> str:
        async with everyspan.span(name):
            await asyncio.sleep(0)
        return name.upper()

    assert await asyncio.gather(*map(activity, "abc")) == ["A", "B", "C"]
    assert sorted(span.name for span in memory.spans) == ["a", "b", "c"]


# -- refused


def test_any_number_of_seconds_is_a_timeout_however_large() -> None:
    """P2: a float cannot hold it, and the platform's waits cannot take it."""
    assert pipeline.seconds(10**400) == pipeline.seconds(float("inf")) < 1e9


@pytest.mark.parametrize("timeout", ["x", -1, float("nan"), None, True])
def test_a_bad_timeout_raises_from_the_call(timeout: Any) -> None:
    with pytest.raises(SettingsError, match="timeout must be a number of seconds of at least 0"):
        everyspan.job(timeout=timeout)


async def _stream() -> Any:
    yield 1


@pytest.mark.parametrize("function", [5, FaultServer, _stream])
def test_what_is_no_function_is_refused(function: Any) -> None:
    """A timeout without its name, a class, a generator function, whose end nobody may await."""
    with pytest.raises(SettingsError, match=r"job takes a function.*job\(timeout=5\)"):
        everyspan.job(function)


@pytest.mark.parametrize("name", ["flush", "aflush"])
async def test_a_defect_of_ours_costs_the_job_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """P2."""

    def broken(timeout: float) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(pipeline, name, broken)
    if name == "flush":
        with everyspan.job() as job:
            pass
    else:
        async with everyspan.job() as job:
            pass
    assert job.result is not None
    assert not job.result.safe
    assert "everyspan could not drain at the end of a job" in caplog.text
