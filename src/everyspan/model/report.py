"""What a process tells an everyspan server of its books: the body of `POST /api/producers/{id}`.

A producer is one queue of one process; its id begins the names of its parts (`completeness`).
Reports hold counts, names of destinations, reasons and ids of traces; never payloads or keys (P9).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

PRODUCERS_PATH = "/api/producers"

LOSSES_MAX = 500
"""Parts of traces in one report; the rest comes with the next."""


DESTINATIONS_MAX = 100
REASONS_MAX = 100
TEXT_MAX = 4_096
"""Characters of an id of a trace, for one (`sgp` §3)."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
ByReason = Annotated[dict[Text, Count], msgspec.Meta(max_length=REASONS_MAX)]


class DestinationReport(msgspec.Struct, kw_only=True, frozen=True):
    """The books of one destination; see `ledger.DestinationStats` for the words."""

    name: Text
    accepted: Count
    adopted: Count
    delivered: Count
    dropped: ByReason
    rejected: ByReason
    queued: Count
    in_flight: Count
    spooled: Count
    oldest_age_s: float | None = None

    @property
    def residual(self) -> int:
        """Spans that the books cannot account for; 0 unless the producer has a defect (P1)."""
        lost = sum(self.dropped.values()) + sum(self.rejected.values())
        held = self.queued + self.in_flight + self.spooled
        return self.accepted + self.adopted - self.delivered - lost - held


class PartLosses(msgspec.Struct, kw_only=True, frozen=True):
    """Spans of one part of a trace that will not come, by reason.

    `lost` counts all of the part's that were lost on the way to this server, those that its closing
    record told included: the greater of two figures for a reason is the later one. `total` is how
    many spans ended in the part, None while it is open.
    """

    trace_id: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]
    part: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    lost: ByReason
    total: Count | None = None


class ProducerReport(msgspec.Struct, kw_only=True, frozen=True):
    """The books of a producer at one instant.

    `seq` numbers a producer's reports from 1. `destination` names that among `destinations` which
    this server is. `losses` are those found since the last report that was taken; of
    `losses_untold` parts the losses were more than could be kept. `ended` is True in the last
    report of a producer that ended in order.
    """

    seq: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    time_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    started_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    pid: Count
    host: Text
    service: Text
    python: Text
    everyspan: Text
    destination: Text
    open_spans: Count
    destinations: Annotated[list[DestinationReport], msgspec.Meta(max_length=DESTINATIONS_MAX)]
    losses: Annotated[list[PartLosses], msgspec.Meta(max_length=LOSSES_MAX)] = []
    losses_untold: Count = 0
    ended: bool = False

    @property
    def residual(self) -> int:
        """Spans unaccounted for, by absolute value over all destinations."""
        return sum(abs(books.residual) for books in self.destinations)
