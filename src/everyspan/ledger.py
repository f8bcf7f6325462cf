"""The books: what became of every ended span, for each destination.

B1  accepted + adopted = delivered + dropped + rejected + queued + in flight + spooled, always (P1).
B2  Accepted, adopted, delivered, dropped and rejected count events. Queued, in flight and spooled
    are read from the containers that hold the spans, never computed from the others, so a
    forgotten span shows as a residual.
B3  A snapshot is immutable.

Knows nothing of locks: whoever owns an account guards it together with the spans it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


class Account:
    """The mutable books of one destination.

    `lost_starts` counts STARTs, which the original counted as losses too (`trace:Q28`); the span
    itself is not lost with its START, so it is no part of the identity. Nor is `shed`: spans whose
    payloads were left out to make room.
    """

    __slots__ = (
        "accepted",
        "adopted",
        "delivered",
        "dropped",
        "lost_starts",
        "name",
        "rejected",
        "requests",
        "shed",
        "start_writes",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.accepted = 0
        self.adopted = 0
        self.delivered = 0
        self.dropped: dict[str, int] = {}
        self.rejected: dict[str, int] = {}
        self.lost_starts = 0
        self.requests = 0
        self.shed = 0
        self.start_writes = 0

    def drop(self, reason: str, spans: int = 1) -> None:
        """Count spans we gave up."""
        self.dropped[reason] = self.dropped.get(reason, 0) + spans

    def reject(self, reason: str, spans: int = 1) -> None:
        """Count spans the backend refused."""
        self.rejected[reason] = self.rejected.get(reason, 0) + spans

    def absorb(self, other: Account) -> None:
        """Count as well what another has counted, which counts no more."""
        self.accepted += other.accepted
        self.adopted += other.adopted
        self.delivered += other.delivered
        self.lost_starts += other.lost_starts
        self.requests += other.requests
        self.shed += other.shed
        self.start_writes += other.start_writes
        for reason, spans in other.dropped.items():
            self.drop(reason, spans)
        for reason, spans in other.rejected.items():
            self.reject(reason, spans)

    def snapshot(
        self,
        *,
        queued: int,
        in_flight: int,
        spooled: int = 0,
        connections: int = 0,
        oldest_age_s: float | None = None,
    ) -> DestinationStats:
        """Return the books as they stand, with what is read from the containers."""
        return DestinationStats(
            name=self.name,
            accepted=self.accepted,
            adopted=self.adopted,
            delivered=self.delivered,
            dropped=MappingProxyType(dict(self.dropped)),
            rejected=MappingProxyType(dict(self.rejected)),
            queued=queued,
            in_flight=in_flight,
            spooled=spooled,
            requests=self.requests,
            start_writes=self.start_writes,
            connections=connections,
            oldest_age_s=oldest_age_s,
            shed=self.shed,
        )


@dataclass(frozen=True, slots=True)
class DestinationStats:
    """What became of the spans of one destination.

    `queued` spans linger, wait or are parked; `in_flight` ones are in an unanswered request;
    `dropped` and `rejected` map a reason to spans. `requests` counts batches sent, repeats
    included; `start_writes` spans written as in progress; `connections` those opened.
    `oldest_age_s` is how long the oldest of the spans queued and in flight has waited since it
    ended; None where there are none. `shed` spans of the others had payloads left out, to make
    room while they waited.
    """

    name: str
    accepted: int
    adopted: int
    delivered: int
    dropped: Mapping[str, int]
    rejected: Mapping[str, int]
    queued: int
    in_flight: int
    spooled: int
    requests: int
    start_writes: int
    connections: int
    oldest_age_s: float | None = None
    shed: int = 0

    def plus(self, other: DestinationStats) -> DestinationStats:
        """Return the books of both, under this name; the age is that of the older span."""
        ages_s = [age_s for age_s in (self.oldest_age_s, other.oldest_age_s) if age_s is not None]
        return DestinationStats(
            name=self.name,
            accepted=self.accepted + other.accepted,
            adopted=self.adopted + other.adopted,
            delivered=self.delivered + other.delivered,
            dropped=_added(self.dropped, other.dropped),
            rejected=_added(self.rejected, other.rejected),
            queued=self.queued + other.queued,
            in_flight=self.in_flight + other.in_flight,
            spooled=self.spooled + other.spooled,
            requests=self.requests + other.requests,
            start_writes=self.start_writes + other.start_writes,
            connections=self.connections + other.connections,
            oldest_age_s=max(ages_s, default=None),
            shed=self.shed + other.shed,
        )

    @property
    def dropped_total(self) -> int:
        """Spans given up, over all reasons."""
        return sum(self.dropped.values())

    @property
    def rejected_total(self) -> int:
        """Spans refused by the backend, over all reasons."""
        return sum(self.rejected.values())

    @property
    def residual(self) -> int:
        """Spans that the books cannot account for; 0 unless everyspan has a defect (B1)."""
        return (
            self.accepted
            + self.adopted
            - self.delivered
            - self.dropped_total
            - self.rejected_total
            - self.queued
            - self.in_flight
            - self.spooled
        )


@dataclass(frozen=True, slots=True)
class Stats:
    """The books of all destinations at one instant.

    `open_spans` have started and not ended; `forgotten_spans` were open when 10,000 others were
    too, so that they count nowhere until they end. `unclaimed_spans` left the inbox and were
    accepted by no destination: 0 unless everyspan has a defect. `sampled_out_spans` ended in traces
    that are not recorded, by `sample` or because whoever called us decided so. `untraced_spans`
    ended that destinations had opened while they exported. `bytes_held` is what all spans that are
    held are charged against `byte_budget`.

    Processors of one's own that were not registered, as those of an `AsyncTrace`, are told apart as
    long as there are few; of many, those with nothing to do are summed up as `others`.
    """

    destinations: tuple[DestinationStats, ...] = ()
    open_spans: int = 0
    forgotten_spans: int = 0
    unclaimed_spans: int = 0
    sampled_out_spans: int = 0
    untraced_spans: int = 0
    bytes_held: int = 0

    def joined(self, other: Stats) -> Stats:
        """Return the books of both."""
        return Stats(
            destinations=self.destinations + other.destinations,
            open_spans=self.open_spans + other.open_spans,
            forgotten_spans=self.forgotten_spans + other.forgotten_spans,
            unclaimed_spans=self.unclaimed_spans + other.unclaimed_spans,
            sampled_out_spans=self.sampled_out_spans + other.sampled_out_spans,
            untraced_spans=self.untraced_spans + other.untraced_spans,
            bytes_held=self.bytes_held + other.bytes_held,
        )

    def summed(self) -> Stats:
        """Return the same with one destination for all of a name."""
        by_name: dict[str, DestinationStats] = {}
        for books in self.destinations:
            before = by_name.get(books.name)
            by_name[books.name] = books if before is None else before.plus(books)
        return replace(self, destinations=tuple(by_name.values()))

    @property
    def residual(self) -> int:
        """Spans unaccounted for, by absolute value over all destinations."""
        unexplained = sum(abs(destination.residual) for destination in self.destinations)
        return unexplained + abs(self.unclaimed_spans)


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What became of the spans that had been accepted when a flush or shutdown began.

    True (`ok`) means all of them are delivered; `safe`, all are delivered or spooled.
    `left` maps a destination to what kept its spans: the reason, and how many. It covers spans
    still held at the deadline and spans lost since the flush before this one.
    """

    ok: bool = True
    safe: bool = True
    left: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.ok

    def joined(self, other: FlushResult) -> FlushResult:
        """Return what both say together."""
        left = {name: dict(reasons) for name, reasons in self.left.items()}
        for name, reasons in other.left.items():
            mine = left.setdefault(name, {})
            for reason, spans in reasons.items():
                mine[reason] = mine.get(reason, 0) + spans
        frozen = {name: MappingProxyType(reasons) for name, reasons in left.items()}
        return FlushResult(
            ok=self.ok and other.ok,
            safe=self.safe and other.safe,
            left=MappingProxyType(frozen),
        )


def _added(some: Mapping[str, int], others: Mapping[str, int]) -> Mapping[str, int]:
    spans = dict(some)
    for reason, count in others.items():
        spans[reason] = spans.get(reason, 0) + count
    return MappingProxyType(spans)
