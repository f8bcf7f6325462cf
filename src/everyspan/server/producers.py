"""What is known of the processes that send spans, from their own reports (P11).

A foreign sender reports nothing and is none of them. What a report says of itself (`model.report`)
is believed: whoever may write spans may write it.
"""

from __future__ import annotations

import msgspec

from everyspan.model.report import PartLosses, ProducerReport

PRODUCERS_MAX = 10_000
"""Of one account; beyond, those that have been silent for longest are forgotten."""

SILENT_NS_MAX = 30 * 86_400 * 1_000_000_000
"""A producer that has been silent for longer is forgotten; chosen, not measured."""


class Producer(msgspec.Struct, frozen=True):
    """A producer and its newest report; `seen_ns` is when the server took that."""

    id: str
    seen_ns: int
    report: ProducerReport


class Loss(msgspec.Struct, frozen=True):
    """What a producer lost of one part of a trace, and when it told so last."""

    producer: str
    told_ns: int
    losses: PartLosses


class LossQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which losses, the last told first; `after` is (told_ns, trace in hex, part) of a loss."""

    account: str
    trace_id: str | None = None
    """In any of its forms."""
    producer: str | None = None
    reason: str | None = None
    after: tuple[int, str, str] | None = None
    limit: int = 100
