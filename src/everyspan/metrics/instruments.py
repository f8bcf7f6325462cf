"""Every instrument, one row each; published as docs/metrics.md.

The first table has the names, units and attributes of the original (`trace` §7), where dashboards
look for them; the second one the books, by OpenTelemetry's conventions. All but histograms are read
when a reader of the agent's collects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from everyspan.ledger import DestinationStats, Stats

COUNTER = "counter"
UP_DOWN_COUNTER = "up-down counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"

Attributes = Mapping[str, str]
Reading = tuple[float, Attributes]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One row; `read` takes its values from the books, None where they are recorded or tallied."""

    name: str
    kind: str
    unit: str
    help: str
    attributes: tuple[str, ...] = ()
    read: Callable[[Stats], Iterable[Reading]] | None = None


_FAILURE = ("processor", "event_type", "http_code", "error_class")

ENQUEUED = Instrument(
    "agentex.tracing.span_events.enqueued",
    COUNTER,
    "1",
    "STARTs and ENDs taken; a START counts whether or not a destination wants it",
    ("event_type",),
)
DROPPED = Instrument(
    "agentex.tracing.span_events.dropped",
    COUNTER,
    "1",
    "events refused or given up, for each destination: `queue_full` by count or bytes, `shutdown`; "
    "every other reason is in `everyspan.span.dropped`",
    ("reason",),
)
QUEUE_DEPTH = Instrument(
    "agentex.tracing.queue.depth",
    HISTOGRAM,
    "1",
    "events that waited for their first try when a batch was taken, the batch included",
)
QUEUE_LAG = Instrument(
    "agentex.tracing.queue.lag", HISTOGRAM, "ms", "age of the oldest event of a batch, when taken"
)
BATCH_ITEMS = Instrument("agentex.tracing.batch.items", HISTOGRAM, "1", "events in a batch")
BATCH_SIZE = Instrument(
    "agentex.tracing.batch.size",
    HISTOGRAM,
    "1",
    "events of one type in a batch",
    ("phase",),
)
DRAIN_DURATION = Instrument(
    "agentex.tracing.batch.drain_duration",
    HISTOGRAM,
    "ms",
    "from handing over a batch to its answer; both phases of a batch that holds both",
    ("phase",),
)
EXPORT_BATCHES = Instrument(
    "agentex.tracing.export.batches",
    COUNTER,
    "1",
    "batches of which something was stored",
    ("processor", "event_type"),
)
EXPORT_SPANS = Instrument(
    "agentex.tracing.export.spans", COUNTER, "1", "events stored", ("processor", "event_type")
)
BATCH_FAILURES = Instrument(
    "agentex.tracing.export.batch_failures",
    COUNTER,
    "1",
    "batches of which something was not stored; every attempt counts",
    _FAILURE,
)
SPAN_FAILURES = Instrument(
    "agentex.tracing.export.span_failures", COUNTER, "1", "events in these", _FAILURE
)
SHUTDOWN_TIMEOUTS = Instrument(
    "agentex.tracing.shutdown.timeouts", COUNTER, "1", "shutdowns that had to give spans up"
)
SHUTDOWN_REMAINING = Instrument(
    "agentex.tracing.shutdown.remaining_items", HISTOGRAM, "1", "spans that such a shutdown gave up"
)

ORIGINALS: tuple[Instrument, ...] = (
    ENQUEUED,
    DROPPED,
    QUEUE_DEPTH,
    QUEUE_LAG,
    BATCH_ITEMS,
    BATCH_SIZE,
    DRAIN_DURATION,
    EXPORT_BATCHES,
    EXPORT_SPANS,
    BATCH_FAILURES,
    SPAN_FAILURES,
    SHUTDOWN_TIMEOUTS,
    SHUTDOWN_REMAINING,
)

DESTINATION = "everyspan.destination"
REASON = "everyspan.reason"

_BY_DESTINATION = (DESTINATION,)
_BY_REASON = (DESTINATION, REASON)


def _each(value: Callable[[DestinationStats], float | None]) -> Callable[[Stats], list[Reading]]:
    def read(stats: Stats) -> list[Reading]:
        values = [(value(books), {DESTINATION: books.name}) for books in stats.destinations]
        return [(number, attributes) for number, attributes in values if number is not None]

    return read


def _each_reason(
    losses: Callable[[DestinationStats], Mapping[str, int]],
) -> Callable[[Stats], list[Reading]]:
    def read(stats: Stats) -> list[Reading]:
        return [
            (spans, {DESTINATION: books.name, REASON: reason})
            for books in stats.destinations
            for reason, spans in losses(books).items()
        ]

    return read


def _one(value: Callable[[Stats], float]) -> Callable[[Stats], list[Reading]]:
    return lambda stats: [(value(stats), {})]


BOOKS: tuple[Instrument, ...] = (
    Instrument(
        "everyspan.span.accepted",
        COUNTER,
        "{span}",
        "spans that ended",
        _BY_DESTINATION,
        _each(lambda books: books.accepted),
    ),
    Instrument(
        "everyspan.span.adopted",
        COUNTER,
        "{span}",
        "spans taken over from a process that died",
        _BY_DESTINATION,
        _each(lambda books: books.adopted),
    ),
    Instrument(
        "everyspan.span.delivered",
        COUNTER,
        "{span}",
        "spans stored",
        _BY_DESTINATION,
        _each(lambda books: books.delivered),
    ),
    Instrument(
        "everyspan.span.dropped",
        COUNTER,
        "{span}",
        "spans given up",
        _BY_REASON,
        _each_reason(lambda books: books.dropped),
    ),
    Instrument(
        "everyspan.span.rejected",
        COUNTER,
        "{span}",
        "spans that the backend refused",
        _BY_REASON,
        _each_reason(lambda books: books.rejected),
    ),
    Instrument(
        "everyspan.span.shed",
        COUNTER,
        "{span}",
        "spans that waited and had payloads left out, to make room",
        _BY_DESTINATION,
        _each(lambda books: books.shed),
    ),
    Instrument(
        "everyspan.span.queued",
        UP_DOWN_COUNTER,
        "{span}",
        "spans that linger, wait or are parked",
        _BY_DESTINATION,
        _each(lambda books: books.queued),
    ),
    Instrument(
        "everyspan.span.inflight",
        UP_DOWN_COUNTER,
        "{span}",
        "spans in a request that has no answer yet",
        _BY_DESTINATION,
        _each(lambda books: books.in_flight),
    ),
    Instrument(
        "everyspan.span.spooled",
        UP_DOWN_COUNTER,
        "{span}",
        "spans that wait on disk",
        _BY_DESTINATION,
        _each(lambda books: books.spooled),
    ),
    Instrument(
        "everyspan.span.residual",
        UP_DOWN_COUNTER,
        "{span}",
        "spans that the books cannot explain: 0, unless everyspan has a defect",
        _BY_DESTINATION,
        _each(lambda books: books.residual),
    ),
    Instrument(
        "everyspan.span.oldest_age",
        GAUGE,
        "s",
        "age of the oldest span queued or in flight; no value where there is none",
        _BY_DESTINATION,
        _each(lambda books: books.oldest_age_s),
    ),
    Instrument(
        "everyspan.request.sent",
        COUNTER,
        "{request}",
        "batches sent, repeats included",
        _BY_DESTINATION,
        _each(lambda books: books.requests),
    ),
    Instrument(
        "everyspan.span.open",
        UP_DOWN_COUNTER,
        "{span}",
        "spans that have started and not ended",
        read=_one(lambda stats: stats.open_spans),
    ),
    Instrument(
        "everyspan.span.sampled_out",
        COUNTER,
        "{span}",
        "spans that ended in traces that are not recorded",
        read=_one(lambda stats: stats.sampled_out_spans),
    ),
    Instrument(
        "everyspan.span.untraced",
        COUNTER,
        "{span}",
        "spans that an export opened, which are not recorded",
        read=_one(lambda stats: stats.untraced_spans),
    ),
    Instrument(
        "everyspan.memory.held",
        UP_DOWN_COUNTER,
        "By",
        "what all spans that are held are charged against `byte_budget`",
        read=_one(lambda stats: stats.bytes_held),
    ),
)
