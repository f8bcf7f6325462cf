"""Keeps the instruments of OpenTelemetry, where the agent has set it up.

R1  OpenTelemetry is never imported. Whenever a batch is taken, one look tells whether somebody else
    has loaded it and set a provider of meters; the instruments are made at that one, once. Counters
    begin with the process, histograms with the provider.
R2  Recording never raises, logs or waits, and never happens on an agent's thread, but for a count
    that a span refused there costs. Histograms are recorded by the loops that send, and at a
    shutdown; their locks are OpenTelemetry's and not re-entrant, so nothing that may interrupt them
    records.
R3  What is observed outlives queues and pipelines, and holds none of them.
R4  A fork does not happen in the middle of a record: the child would inherit its locks, taken.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sized
from functools import partial
from time import monotonic
from typing import Any

from everyspan.config import load_environment
from everyspan.errors import ExportError
from everyspan.ledger import Stats
from everyspan.metrics import instruments
from everyspan.metrics.failures import failure_labels
from everyspan.metrics.instruments import (
    BOOKS,
    COUNTER,
    GAUGE,
    HISTOGRAM,
    ORIGINALS,
    UP_DOWN_COUNTER,
    Instrument,
)

DROP_REASONS = {"shutdown": "shutdown", "queue full": "queue_full", "byte budget": "queue_full"}
"""The books' reasons that the original counts, and its words for them."""

NOTES_MAX = 1_000
"""Notes that wait to be added up; beyond, whoever makes one adds up."""

PATIENCE_S = 0.05
"""Longest wait of a fork, or of a record, for a record under way; chosen, not measured."""

BOOKS_AGE_MAX_S = 1.0

Labels = tuple[tuple[str, str], ...]


class Tally:
    """Counts from any thread, finalizer or signal handler: what is noted is added up later."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, Labels], int] = {}
        # Appending and popping are atomic; adding to a total is not.
        self._notes: deque[tuple[str, Labels, int]] = deque()
        self._adding = threading.Lock()

    def note(self, name: str, count: int, labels: Labels = ()) -> None:
        """Count for an instrument."""
        self._notes.append((name, labels, count))
        if len(self._notes) > NOTES_MAX:
            self._add_up()

    def of(self, name: str) -> list[tuple[int, dict[str, str]]]:
        """Return the totals of an instrument."""
        self._add_up()
        return [
            (total, dict(labels))
            for (noted, labels), total in [*self._totals.items()]
            if noted == name
        ]

    def _add_up(self) -> None:
        if not self._adding.acquire(blocking=False):
            # Another thread does it, or this one that was interrupted.
            return
        try:
            while self._notes:
                name, labels, count = self._notes.popleft()
                self._totals[name, labels] = self._totals.get((name, labels), 0) + count
        finally:
            self._adding.release()


class Recorder:
    """See the module text; the process has one.

    `books` returns what `instruments.BOOKS` are read from.
    """

    def __init__(self) -> None:
        self.books: Callable[[], Stats] | None = None
        self._is_on: bool | None = None
        self._provider: Any = None
        self._histograms: dict[str, Any] = {}
        self.forget()

    def forget(self) -> None:
        """Count from nothing; in a forked child."""
        self._tally = Tally()
        self._recording = threading.Lock()
        self._is_held_for_fork = False
        self._read: Stats | None = None
        self._read_s = 0.0
        self._served: set[str] = set()

    @property
    def is_on(self) -> bool:
        """Whether metrics are wanted; the environment is asked once a process (`trace:V4`)."""
        if self._is_on is None:
            self._is_on = load_environment().metrics
        return self._is_on

    # -- inside a queue's gate, perhaps on an agent's thread

    def enqueued(self, *, starts: int, ends: int) -> None:
        """Count events that came in."""
        if self.is_on:
            if starts:
                self._tally.note(instruments.ENQUEUED.name, starts, _START)
            if ends:
                self._tally.note(instruments.ENQUEUED.name, ends, _END)

    def dropped(self, reason: str) -> None:
        """Count an event that was lost, if for a reason that the original knows."""
        known = DROP_REASONS.get(reason)
        if known is not None and self.is_on:
            self._tally.note(instruments.DROPPED.name, 1, (("reason", known),))

    # -- on the loop that sends

    def handed_out(self, events: int, *, depth: int, lag_s: float) -> None:
        """Record that a batch was taken, `lag_s` after its oldest event came."""
        if not self.is_on or not self._has_provider():
            return
        values: list[tuple[Instrument, float]] = [
            (instruments.QUEUE_DEPTH, depth),
            (instruments.BATCH_ITEMS, events),
        ]
        if lag_s > 0:
            values.append((instruments.QUEUE_LAG, lag_s * 1000))
        self._record(values)

    def answered(
        self,
        *,
        starts: Sized,
        ends: Sized,
        failed: Mapping[int, ExportError],
        error: ExportError | None,
        processor: str,
        duration_s: float,
    ) -> None:
        """Record what became of a batch.

        Args:
            failed: By position, STARTs first.
            error: That of the whole batch.
            processor: See `processor_label`.
        """
        if not self.is_on:
            return
        offset = 0
        for phase, events in (("start", len(starts)), ("end", len(ends))):
            if events:
                errors = {
                    position: failure
                    for position, failure in failed.items()
                    if offset <= position < offset + events
                }
                self._count(processor, phase, events, errors, error)
                self._record(
                    [
                        (instruments.BATCH_SIZE, events),
                        (instruments.DRAIN_DURATION, duration_s * 1000),
                    ],
                    {"phase": phase},
                )
            offset += events

    # -- at a shutdown, on whatever thread

    def gave_up(self, spans: int) -> None:
        """Record that a shutdown's time was over before all was delivered."""
        if self.is_on:
            self._tally.note(instruments.SHUTDOWN_TIMEOUTS.name, 1)
            self._record([(instruments.SHUTDOWN_REMAINING, spans)])

    # -- within

    def _count(
        self,
        processor: str,
        event_type: str,
        events: int,
        failed: Mapping[int, ExportError],
        error: ExportError | None,
    ) -> None:
        labels: Labels = (("processor", processor), ("event_type", event_type))
        counts: dict[tuple[str, str], int] = {}
        if error is not None:
            counts[failure_labels(error)] = events
        else:
            for failure in failed.values():
                found = failure_labels(failure)
                counts[found] = counts.get(found, 0) + 1
        for (error_class, http_code), spans in counts.items():
            told = (*labels, ("http_code", http_code), ("error_class", error_class))
            self._tally.note(instruments.BATCH_FAILURES.name, 1, told)
            self._tally.note(instruments.SPAN_FAILURES.name, spans, told)
        stored = events - sum(counts.values())
        if stored:
            self._tally.note(instruments.EXPORT_BATCHES.name, 1, labels)
            self._tally.note(instruments.EXPORT_SPANS.name, stored, labels)

    def _record(
        self,
        values: list[tuple[Instrument, float]],
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        if not self._histograms or not self._recording.acquire(timeout=PATIENCE_S):
            return
        try:
            for row, value in values:
                self._histograms[row.name].record(value, attributes)
        except Exception:
            # Foreign code to the last; a metric is worth no span.
            pass
        finally:
            self._recording.release()

    def _has_provider(self) -> bool:
        """Tell whether the agent has set one; make the instruments when it is new."""
        module = sys.modules.get("opentelemetry.metrics")
        if module is None:
            return False
        try:
            provider = module.get_meter_provider()
            # Those of the API itself do nothing, or wait for another.
            if type(provider).__module__.startswith("opentelemetry.metrics"):
                return False
            if provider is self._provider:
                return True
            observation = module.Observation
        except Exception:
            # Half imported by another thread, perhaps: the next batch looks again.
            return False
        if not self._recording.acquire(timeout=PATIENCE_S):
            return False
        try:
            if provider is not self._provider:
                # First: one that cannot make them is asked once, not with every batch.
                self._provider = provider
                self._make_instruments(provider, observation)
        except Exception:
            # Foreign code to the last; a metric is worth no span.
            pass
        finally:
            self._recording.release()
        return True

    def _make_instruments(self, provider: Any, observation: Any) -> None:
        self._histograms = {}
        histograms = {}
        for scope, rows in (("agentex.tracing", ORIGINALS), ("everyspan", BOOKS)):
            meter = provider.get_meter(scope)
            for row in rows:
                if row.kind == HISTOGRAM:
                    made = meter.create_histogram(row.name, unit=row.unit, description=row.help)
                    histograms[row.name] = made
                    continue
                create = getattr(meter, f"create_observable_{_METHODS[row.kind]}")
                callback = partial(self._observe, row, observation)
                create(row.name, callbacks=[callback], unit=row.unit, description=row.help)
        self._histograms = histograms

    def _observe(self, row: Instrument, observation: Any, options: object) -> list[Any]:
        """Return an instrument's values; on the thread that collects."""
        try:
            readings = self._tally.of(row.name) if row.read is None else row.read(self._stats(row))
            return [observation(value, attributes) for value, attributes in readings]
        except Exception:
            # The reader would log it, at every collection.
            return []

    def _stats(self, row: Instrument) -> Stats:
        """Return the books, the same for all instruments of a collection: they shall balance."""
        now_s = monotonic()
        read = self._read
        if read is None or row.name in self._served or now_s - self._read_s > BOOKS_AGE_MAX_S:
            read = self._read = Stats() if self.books is None else self.books()
            self._read_s = now_s
            self._served = set()
        self._served.add(row.name)
        return read

    # -- around a fork

    def _before_fork(self) -> None:
        self._is_held_for_fork = self._recording.acquire(timeout=PATIENCE_S)

    def _after_fork(self) -> None:
        if self._is_held_for_fork:
            self._recording.release()


def processor_label(exporter_class: str) -> str:
    """Return what a destination is counted as (`trace:M2`)."""
    return "sgp" if exporter_class == "SGPAsyncTracingProcessor" else "other"


_START: Labels = (("event_type", "start"),)
_END: Labels = (("event_type", "end"),)

_METHODS = {COUNTER: "counter", UP_DOWN_COUNTER: "up_down_counter", GAUGE: "gauge"}

recorder = Recorder()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=recorder._before_fork,
        after_in_parent=recorder._after_fork,
        after_in_child=recorder.forget,
    )
