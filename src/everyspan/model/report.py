"""What a process tells an everyspan server of its books: the body of `POST /api/producers/{id}`.

A producer is one queue of one process; its id begins the names of its parts (`completeness`).
Reports hold counts, names of destinations, reasons and ids of traces; never payloads or keys (P9).
"""

from __future__ import annotations

import msgspec

PRODUCERS_PATH = "/api/producers"

LOSSES_MAX = 500
"""Parts of traces in one report; the rest comes with the next."""


class DestinationReport(msgspec.Struct, kw_only=True, frozen=True):
    """The books of one destination; see `ledger.DestinationStats` for the words."""

    name: str
    accepted: int
    adopted: int
    delivered: int
    dropped: dict[str, int]
    rejected: dict[str, int]
    queued: int
    in_flight: int
    spooled: int
    oldest_age_s: float | None = None


class PartLosses(msgspec.Struct, kw_only=True, frozen=True):
    """Spans of one part of a trace that will not come, by reason.

    `lost` counts all of the part's that were lost on the way to this server, those that its closing
    record told included: the greater of two figures for a reason is the later one. `total` is how
    many spans ended in the part, None while it is open.
    """

    trace_id: str
    part: str
    lost: dict[str, int]
    total: int | None = None


class ProducerReport(msgspec.Struct, kw_only=True, frozen=True):
    """The books of a producer at one instant.

    `seq` numbers a producer's reports from 1. `destination` names that among `destinations` which
    this server is. `losses` are those found since the last report that was taken; of
    `losses_untold` parts the losses were more than could be kept. `ended` is True in the last
    report of a producer that ended in order.
    """

    seq: int
    time_ns: int
    started_ns: int
    pid: int
    host: str
    service: str
    python: str
    everyspan: str
    destination: str
    open_spans: int
    destinations: list[DestinationReport]
    losses: list[PartLosses] = []
    losses_untold: int = 0
    ended: bool = False
