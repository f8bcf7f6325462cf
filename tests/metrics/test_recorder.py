"""Metrics with the real OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import opentelemetry.metrics
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import everyspan
from everyspan import pipeline
from everyspan.config import load_settings
from everyspan.metrics import recorder as module
from everyspan.metrics.instruments import BOOKS, ORIGINALS
from everyspan.metrics.recorder import DROP_REASONS, NOTES_MAX, Recorder, Tally, recorder
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor
from everyspan.queue import intake
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, capture, faults
from tests.records import make_span
from tests.waiting import until, wait_until

SECONDS_MAX = 20.0

Key = tuple[tuple[str, Any], ...]


class Collected:
    """What a reader of the agent's collects, by instrument and attributes."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def all(self) -> dict[str, dict[Key, Any]]:
        """A number for each set of attributes; of a histogram (count, sum)."""
        data = self._reader.get_metrics_data()
        found: dict[str, dict[Key, Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    assert metric.name not in found, "made twice"
                    points = found[metric.name] = {}
                    for point in metric.data.data_points:
                        value: Any = getattr(point, "value", None)
                        if value is None:
                            value = (point.count, point.sum)  # type: ignore[union-attr]
                        points[tuple(sorted((point.attributes or {}).items()))] = value
        return found

    def __getitem__(self, name: str) -> dict[Key, Any]:
        return self.all().get(name, {})

    def of(self, name: str, **attributes: str) -> Any:
        """One number; 0 where there is none."""
        key = tuple(sorted((k.replace("__", "."), v) for k, v in attributes.items()))
        return self[name].get(key, 0)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts from nothing; no provider of another test."""
    monkeypatch.setattr(pipeline, "_past", everyspan.Stats())
    monkeypatch.setattr(recorder, "_provider", None)
    monkeypatch.setattr(recorder, "_is_on", True)
    recorder.forget()
    yield
    everyspan.shutdown(SECONDS_MAX)
    everyspan.set_tracing_processor_configs([])
    pipeline._draining.clear()


@pytest.fixture
def collected(fresh: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    """The agent has set up OpenTelemetry."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(opentelemetry.metrics, "get_meter_provider", lambda: provider)
    yield Collected(reader)
    provider.shutdown()


class Failing(AsyncTracingProcessor):
    """Raises what it is told to, for whole batches."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = [*errors]

    async def on_span_start(self, span: Span) -> None:
        """Nothing."""

    async def on_span_end(self, span: Span) -> None:
        """Nothing."""

    async def on_spans_end(self, spans: Sequence[Span]) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error


class Stuck(Failing):
    """Never answers."""

    async def on_spans_end(self, spans: Sequence[Span]) -> None:
        await asyncio.Event().wait()


def make_queue(**settings: Any) -> AsyncSpanQueue:
    return AsyncSpanQueue(settings=load_settings({}, **{"linger_ms": 0} | settings))


def test_every_instrument_exists_with_its_unit(collected: Collected) -> None:
    """trace:M3: the original's thirteen names among them."""
    everyspan.configure(everyspan.InMemoryTracingProcessor())
    with everyspan.span("turn"):
        pass
    assert everyspan.flush(SECONDS_MAX)
    reader: Any = collected._reader
    data = reader.get_metrics_data()
    made = {
        instrument.name: instrument.unit
        for meter in recorder._provider._meters.values()
        for instrument in meter._instrument_id_instrument.values()
    }
    assert data is not None
    assert made == {row.name: row.unit for row in (*ORIGINALS, *BOOKS)}
    assert len(ORIGINALS) == 13


async def test_events_are_counted_by_type_and_batches_measured(collected: Collected) -> None:
    """trace:Q22: `queue.depth` counts the batch just taken."""
    queue = make_queue(linger_ms=20, batch_size=4)
    processor = Failing()
    for number in range(6):
        span = make_span(f"s{number}")
        queue.enqueue("start", span, [processor])
        queue.enqueue("end", span, [processor])
    assert await queue.flush(SECONDS_MAX)
    found = collected.all()
    enqueued = found["agentex.tracing.span_events.enqueued"]
    assert enqueued == {(("event_type", "start"),): 6, (("event_type", "end"),): 6}
    batches, events = found["agentex.tracing.batch.items"][()]
    assert events == 12
    assert found["agentex.tracing.queue.depth"][()][0] == batches
    assert found["agentex.tracing.queue.depth"][()][1] >= 12
    sizes = found["agentex.tracing.batch.size"]
    assert {key: total for key, (_, total) in sizes.items()} == {
        (("phase", "start"),): 6,
        (("phase", "end"),): 6,
    }
    durations = found["agentex.tracing.batch.drain_duration"]
    assert {key: count for key, (count, _) in durations.items()} == {
        key: count for key, (count, _) in sizes.items()
    }
    assert found["agentex.tracing.queue.lag"][()][0] > 0
    spans = found["agentex.tracing.export.spans"]
    assert spans == {
        (("event_type", "start"), ("processor", "other")): 6,
        (("event_type", "end"), ("processor", "other")): 6,
    }
    await queue.shutdown(SECONDS_MAX)


async def test_what_comes_after_a_shutdown_counts_as_dropped(collected: Collected) -> None:
    """trace:Q22: with reason `shutdown`, and not as enqueued."""
    queue, processor = make_queue(), Failing()
    queue.enqueue("end", make_span(), [processor])
    assert await queue.shutdown(SECONDS_MAX)
    late = make_span()
    queue.enqueue("start", late, [processor])
    queue.enqueue("end", late, [processor])
    queue.stats()
    assert collected.of("agentex.tracing.span_events.dropped", reason="shutdown") == 2
    assert collected.of("agentex.tracing.span_events.enqueued", event_type="end") == 1


async def test_a_full_queue_counts_as_dropped(collected: Collected) -> None:
    """trace:Q22, D25: by count or by bytes; the books' words for it are those counted."""
    assert {intake.SHUTDOWN, intake.QUEUE_FULL, intake.OUT_OF_BYTES} == DROP_REASONS.keys()
    queue, processor = make_queue(max_size=1, concurrency=1), Stuck()
    queue.enqueue("end", make_span("a"), [processor])
    await until(lambda: queue.stats().destinations[0].in_flight == 1)
    for id in "bcd":
        queue.enqueue("end", make_span(id), [processor])
    queue.stats()
    assert collected.of("agentex.tracing.span_events.dropped", reason="queue_full") == 2
    assert collected.of("agentex.tracing.span_events.enqueued", event_type="end") == 2
    assert not await queue.shutdown(0.01)
    assert collected.of("agentex.tracing.shutdown.timeouts") == 1
    assert collected["agentex.tracing.shutdown.remaining_items"] == {(): (1, 2)}
    assert collected.of("agentex.tracing.span_events.dropped", reason="shutdown") == 2


async def test_a_failure_counts_one_batch_and_its_spans_once(collected: Collected) -> None:
    """trace:Q22, M1, M2."""
    queue, processor = make_queue(linger_ms=20), Failing(ValueError("x"))
    for id in "abc":
        queue.enqueue("end", make_span(id), [processor])
    assert not await queue.flush(SECONDS_MAX)
    labels = {
        "processor": "other",
        "event_type": "end",
        "http_code": "unknown",
        "error_class": "other_error",
    }
    assert collected.of("agentex.tracing.export.batch_failures", **labels) == 1
    assert collected.of("agentex.tracing.export.span_failures", **labels) == 3
    assert collected["agentex.tracing.export.batches"] == {}
    await queue.shutdown(SECONDS_MAX)


def test_success_and_failure_towards_sgp(
    collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trace:S7, M2, D25: an attempt that is made again counts as well."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)
    with FaultServer([faults.status(503), faults.ok()]) as server:
        everyspan.configure(
            everyspan.SGPTracingProcessorConfig(
                sgp_api_key="k", sgp_account_id="a", sgp_base_url=server.base_url
            ),
            linger_ms=20,
        )
        with everyspan.span("turn"), everyspan.span("step"):
            pass
        assert everyspan.flush(SECONDS_MAX)
        everyspan.shutdown(SECONDS_MAX)
    sgp = {"processor": "sgp", "event_type": "end"}
    assert collected.of("agentex.tracing.export.batches", **sgp) == 1
    assert collected.of("agentex.tracing.export.spans", **sgp) == 2
    failed = sgp | {"http_code": "5xx", "error_class": "server_error"}
    assert collected.of("agentex.tracing.export.batch_failures", **failed) == 1
    assert collected.of("agentex.tracing.export.span_failures", **failed) == 2


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("SGPAsyncTracingProcessor", "sgp"),
        ("AgentexAsyncTracingProcessor", "other"),
        ("X", "other"),
    ],
)
async def test_the_originals_own_class_is_known_too(
    kind: str, label: str, collected: Collected
) -> None:
    """trace:M2: our queue may carry the spans of another SDK's processor."""
    queue, processor = make_queue(), type(kind, (Failing,), {})()
    queue.enqueue("end", make_span(), [processor])
    assert await queue.shutdown(SECONDS_MAX)
    labels = {"processor": label, "event_type": "end"}
    assert collected.of("agentex.tracing.export.spans", **labels) == 1


def balance(found: dict[str, dict[Key, Any]], destination: str) -> int:
    """Accepted less all that became of it."""

    def total(name: str) -> int:
        points = found.get(f"everyspan.span.{name}", {})
        return sum(v for key, v in points.items() if ("everyspan.destination", destination) in key)

    held = total("queued") + total("inflight")
    return total("accepted") - total("delivered") - total("dropped") - total("rejected") - held


def test_the_books_are_observed_and_balance(collected: Collected) -> None:
    """P1: every reason, for each destination, whenever one collects."""
    memory, failing = everyspan.InMemoryTracingProcessor(), Failing(KeyError("x"), None)
    everyspan.configure(memory, failing, linger_ms=0, sample=1.0)
    with everyspan.span("first"):
        pass
    everyspan.flush(SECONDS_MAX)
    opened = everyspan.Tracer().trace("t").start_span("open")
    threads = [threading.Thread(target=_record, args=(200,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = collected.all()
        assert balance(found, "Failing") == 0
        assert found["everyspan.span.residual"][(("everyspan.destination", "Failing"),)] == 0
    everyspan.flush(SECONDS_MAX)
    found = collected.all()
    failing_key = ("everyspan.destination", "Failing")
    assert found["everyspan.span.accepted"][(failing_key,)] == 801
    assert found["everyspan.span.dropped"] == {(failing_key, ("everyspan.reason", "KeyError")): 1}
    assert found["everyspan.span.delivered"][(failing_key,)] == 800
    assert found["everyspan.span.delivered"][(("everyspan.destination", memory.name),)] == 801
    assert found["everyspan.span.open"] == {(): 1}
    assert found["everyspan.memory.held"] == {(): 0}
    assert "everyspan.span.oldest_age" not in found or not found["everyspan.span.oldest_age"]
    everyspan.Tracer().trace("t").end_span(opened)


def _record(spans: int) -> None:
    for _ in range(spans):
        with everyspan.span("turn"):
            pass


def test_the_oldest_span_and_the_bytes_are_observed(collected: Collected) -> None:
    """P4: what an alert is set on."""
    everyspan.configure(Stuck(), linger_ms=0)
    _record(1)
    wait_until(lambda: everyspan.stats().destinations[0].in_flight == 1)
    (age_s,) = collected["everyspan.span.oldest_age"].values()
    assert 0 <= age_s < SECONDS_MAX
    assert collected.of("everyspan.memory.held") >= 600
    assert collected.of("everyspan.span.inflight", everyspan__destination="Stuck") == 1
    everyspan.shutdown(0.01)


def test_counters_go_on_through_configure_and_shutdown(collected: Collected) -> None:
    """R3: nothing is made twice, nothing goes back, and no pipeline is held."""
    seen: list[int] = []
    before: list[weakref.ref[Any]] = []
    for round in range(4):
        memory = everyspan.InMemoryTracingProcessor()
        everyspan.configure(memory, linger_ms=0)
        before.append(weakref.ref(pipeline.current()))
        _record(10)
        assert (everyspan.shutdown if round % 2 else everyspan.flush)(SECONDS_MAX)
        seen.append(collected.of("everyspan.span.delivered", everyspan__destination=memory.name))
    assert seen == [10, 20, 30, 40]
    assert collected.of("agentex.tracing.span_events.enqueued", event_type="end") == 40
    assert collected.of("everyspan.span.open") == 0
    with capture():
        _record(5)
        everyspan.flush(SECONDS_MAX)
        counted = collected.of("everyspan.span.delivered", everyspan__destination=memory.name)
        assert counted == 40, "what a test captures is none of the application's"
    everyspan.set_tracing_processor_configs([])
    gc.collect()
    assert [pipe() for pipe in before[:3]] == [None] * 3


def test_no_counter_goes_back_while_destinations_are_replaced(collected: Collected) -> None:
    """R3: a reader collects at any instant of a `configure`."""
    seen: list[tuple[int, int]] = []
    is_over = threading.Event()

    def collect() -> None:
        while not is_over.is_set():
            found = collected.all()
            accepted = sum(found.get("everyspan.span.accepted", {}).values())
            seen.append((accepted, sum(found.get("everyspan.span.delivered", {}).values())))

    reader = threading.Thread(target=collect)
    reader.start()
    for _ in range(40):
        everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
        _record(5)
    everyspan.flush(SECONDS_MAX)
    is_over.set()
    reader.join()
    assert seen
    for counter in zip(*seen, strict=True):
        assert list(counter) == sorted(counter)
    assert sum(collected["everyspan.span.delivered"].values()) == 200


def test_a_provider_that_comes_later_is_noticed(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1: with the next batch; counters show what was before."""
    everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
    _record(3)
    assert everyspan.flush(SECONDS_MAX)
    assert recorder._provider is None, "the API's own proxy is no provider"
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    for reader in readers:
        provider = MeterProvider([reader])
        monkeypatch.setattr(opentelemetry.metrics, "get_meter_provider", lambda p=provider: p)
        _record(1)
        assert everyspan.flush(SECONDS_MAX)
    first, second = (Collected(reader) for reader in readers)
    for found in (first, second):
        assert found.of("agentex.tracing.span_events.enqueued", event_type="end") == 5
    assert second["agentex.tracing.batch.items"] == {(): (1, 1)}


def test_switched_off_nothing_is_counted_and_nothing_looked_for(
    collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trace:M3, Q22, V4: the switch is read once a process."""
    monkeypatch.setattr(recorder, "_is_on", None)
    monkeypatch.setenv("AGENTEX_TRACING_METRICS", " Off ")
    everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
    monkeypatch.setenv("AGENTEX_TRACING_METRICS", "1")
    _record(5)
    assert everyspan.flush(SECONDS_MAX)
    assert collected.all() == {}
    assert not recorder._tally._notes


class Broken:
    """Instruments that raise, and a provider that does."""

    def __init__(self, raises: str) -> None:
        self.raises = raises
        self.meters = 0

    def get_meter(self, name: str) -> Any:
        self.meters += 1
        if self.raises == "provider":
            raise RuntimeError
        return self

    def create_histogram(self, *args: Any, **fields: Any) -> Any:
        return self

    def create_observable_counter(self, *args: Any, **fields: Any) -> Any:
        if self.raises == "meter":
            raise RuntimeError

    create_observable_up_down_counter = create_observable_gauge = create_observable_counter

    def record(self, value: float, attributes: Any = None) -> None:
        raise RuntimeError


@pytest.mark.parametrize("raises", ["provider", "meter", "instrument"])
def test_a_broken_opentelemetry_costs_no_span_and_no_line(
    raises: str, fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:M3, P2: and is asked for instruments once, not with every batch."""
    broken = Broken(raises)
    monkeypatch.setattr(opentelemetry.metrics, "get_meter_provider", lambda: broken)
    with caplog.at_level(logging.INFO):
        everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
        for _ in range(3):
            _record(1)
            assert everyspan.flush(SECONDS_MAX)
    assert caplog.records == []
    assert 1 <= broken.meters <= 2
    assert everyspan.stats().destinations[0].delivered == 3


def test_books_that_cannot_be_read_are_no_line_in_the_log(
    collected: Collected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:M3, P2: a reader logs what a callback raises, at every collection."""
    everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
    _record(1)
    assert everyspan.flush(SECONDS_MAX)
    monkeypatch.setattr(recorder, "books", lambda: 1 / 0)
    with caplog.at_level(logging.INFO):
        assert "everyspan.span.accepted" not in collected.all()
    assert caplog.records == []


def test_many_threads_lose_no_count() -> None:
    """R2: each adds while another reads."""
    tally = Tally()

    def note() -> None:
        for _ in range(20_000):
            tally.note("a", 1)

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tally.of("a")
    assert tally.of("a") == [(80_000, {})]


def test_a_tally_that_nobody_reads_stays_small() -> None:
    """P4."""
    tally = Tally()
    for _ in range(10 * NOTES_MAX):
        tally.note("a", 1)
    assert len(tally._notes) <= NOTES_MAX
    assert tally.of("a") == [(10 * NOTES_MAX, {})]


def test_a_record_that_is_interrupted_by_another_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R2: OpenTelemetry's locks are not re-entrant; a signal handler may shut down meanwhile."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    own = Recorder()
    values: list[float] = []

    class Histogram:
        def record(self, value: float, attributes: Any) -> None:
            values.append(value)
            own.gave_up(7)

    own._is_on = True
    own._histograms = {row.name: Histogram() for row in ORIGINALS}
    own.gave_up(1)
    assert values == [1]


FORK = """
import os, sys, threading, time
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import everyspan

def record(count):
    for _ in range(count):
        with everyspan.span("turn"):
            pass

def delivered():
    found = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(
                    getattr(point, "value", None) for point in metric.data.data_points)
    return found["everyspan.span.delivered"], found["agentex.tracing.span_events.enqueued"]

everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
record(1)
everyspan.flush(20)
assert not any(name.startswith("opentelemetry.sdk.trace") for name in sys.modules)
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
record(6)
everyspan.flush(20)
assert delivered() == ([7], [7, 7]), delivered()
busy = threading.Thread(target=record, args=(3000,), daemon=True)
busy.start()
pids = []
for _ in range(10):
    pid = os.fork()
    if not pid:
        record(3)
        assert everyspan.flush(20)
        assert delivered() == ([3], [3, 3]), delivered()
        os._exit(0)
    pids.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 10
busy.join()
everyspan.flush(20)
assert delivered() == ([3007], [3007, 3007]), delivered()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_counts_for_itself() -> None:
    """R4, P1: with a provider that was set in the middle, and a parent that records meanwhile."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


ALONE = """
import sys, everyspan
if {loads_api}:
    import opentelemetry.metrics
before = {{name for name in sys.modules if name.startswith("opentelemetry")}}
everyspan.configure(everyspan.InMemoryTracingProcessor(), linger_ms=0)
for _ in range(200):
    with everyspan.span("turn"):
        pass
assert everyspan.flush(20)
print(sorted({{name for name in sys.modules if name.startswith("opentelemetry")}} - before))
"""


@pytest.mark.parametrize("loads_api", [False, True])
def test_opentelemetry_is_never_loaded(loads_api: bool) -> None:
    """R1, P10, trace:M3: not even where its API is, as long as nobody has set a provider."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(loads_api=loads_api)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
